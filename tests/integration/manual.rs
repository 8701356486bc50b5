//! The manual pages, as `man` shows them.

use std::fs;
use std::time::Duration;

use tempfile::NamedTempFile;
use tradebot_base::config::VARIABLES;
use tradebot_test_support::{Process, bin};

const PATIENCE: Duration = Duration::from_secs(30);

/// What `man` makes of the page that a program prints. It must have nothing to complain of.
fn shown(program: &str, arguments: &[&str]) -> String {
    let printed = Process::builder(bin(program)).args(arguments).spawn();
    assert!(printed.wait_exit(PATIENCE).success(), "{}", printed.output());
    let page = NamedTempFile::new().expect("a file");
    fs::write(page.path(), printed.stdout()).expect("a written file");
    let man = Process::builder("man")
        .args(["--warnings", "-l"])
        .arg(page.path())
        .env("LC_ALL", "C.UTF-8")
        .env("MANWIDTH", "1000")
        .spawn();
    assert!(man.wait_exit(PATIENCE).success(), "{}", man.output());
    assert_eq!(man.stderr(), "", "{program} {arguments:?}");
    man.stdout()
}

fn assert_sections(page: &str, wanted: &[&str]) {
    for section in wanted {
        assert!(
            page.lines().any(|line| line == *section),
            "{section} is missing:\n{page}"
        );
    }
}

const EVERY: [&str; 4] = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS"];

/// The page of a whole program, which has all sections.
fn page_of(program: &str) -> String {
    let page = shown(program, &["man"]);
    assert_sections(&page, &EVERY);
    assert_sections(
        &page,
        &["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES", "SEE ALSO"],
    );
    page
}

#[test]
fn the_page_of_the_program_names_every_variable_and_verb() {
    let page = page_of("tradebot-symbols");
    for variable in VARIABLES {
        let named = |line: &str| line.split_whitespace().next() == Some(variable.name);
        assert!(page.lines().any(named), "{} is missing:\n{page}", variable.name);
    }
    let (_, verbs) = page.split_once("SEE ALSO").expect("a section");
    let verbs = verbs.split("tradebot-symbols-").skip(1);
    let verbs: Vec<&str> = verbs.filter_map(|rest| rest.split('(').next()).collect();
    assert!(verbs.len() >= 11, "{verbs:?}");
    let mut nested = 0;
    for verb in verbs {
        let page = shown("tradebot-symbols", &["man", verb]);
        assert_sections(&page, &EVERY);
        assert_sections(&page, &["EXAMPLES"]);
        // Each page that it names is there.
        let of_verb = format!("tradebot-symbols-{verb}-");
        for rest in page.split(&of_verb).skip(1) {
            let (verb_of_it, _) = rest.split_once('(').expect("a page");
            let page = shown("tradebot-symbols", &["man", verb, verb_of_it]);
            assert_sections(&page, &EVERY);
            assert!(page.contains(&format!("{of_verb}{verb_of_it}(1)")), "{page}");
            let (_, see_also) = page.split_once("SEE ALSO").expect("a section");
            assert!(
                see_also.contains(&format!("tradebot-symbols-{verb}(1)")),
                "{page}"
            );
            nested += 1;
        }
    }
    assert!(nested >= 7, "{nested}");
}

#[test]
fn the_page_of_the_beat_names_its_variables_alone() {
    let page = page_of("tradebot-beat");
    for (name, wanted) in [
        ("CELERY_BROKER_URL", true),
        ("BEAT_SCHEDULE", true),
        ("LOG_FORMAT", true),
        ("HTTP_LISTEN", false),
    ] {
        assert_eq!(page.contains(name), wanted, "{name}:\n{page}");
    }
}

#[test]
fn a_page_that_there_is_not_is_a_mistake_of_the_command_line() {
    for (verbs, why) in [
        (
            &["everything"][..],
            "there is no verb `everything`, only worker, ",
        ),
        (
            &["parked", "show"],
            "there is no verb `show`, only list, replay, drop",
        ),
        (&["worker", "list"], "there is no verb `list`: `worker` has none"),
    ] {
        let man = Process::builder(bin("tradebot-symbols"))
            .arg("man")
            .args(verbs)
            .spawn();
        assert_eq!(man.wait_exit(PATIENCE).code(), Some(64));
        assert!(man.stderr().contains(why), "{}", man.stderr());
    }
}
