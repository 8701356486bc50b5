//! README.md and docs: their links lead somewhere, and their commands are understood.

use std::path::{Path, PathBuf};

use tradebot_test_support::{Process, bin};

use crate::world::PATIENCE;

/// The README and every page of `docs`, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).expect("docs");
    let docs = docs.map(|entry| entry.expect("an entry").path());
    let pages: Vec<_> = docs
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain([root.join("README.md"), root.join("CONTRIBUTING.md")])
        .map(|path| (path.clone(), std::fs::read_to_string(&path).expect("a text")))
        .collect();
    assert!(pages.len() > 9, "{} pages", pages.len());
    pages
}

#[test]
fn every_link_leads_to_a_file() {
    for (path, text) in pages() {
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://")) {
            let file = path.with_file_name(target.split('#').next().unwrap_or_default());
            assert!(file.exists(), "{}: {target}", path.display());
        }
    }
}

#[test]
fn the_readme_is_short_and_names_every_page() {
    let pages = pages();
    let (_, readme) = pages
        .iter()
        .find(|(path, _)| path.ends_with("README.md"))
        .expect("it");
    assert!(readme.lines().count() <= 130);
    for (path, _) in pages
        .iter()
        .filter(|(path, _)| path.parent().is_some_and(|folder| folder.ends_with("docs")))
    {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(readme.contains(&format!("(docs/{name})")), "{name}");
    }
}

/// Commands of our programs in a text: lines of shell blocks, and code within lines that names a verb or an option.
fn commands(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut block = None;
    for line in text.lines() {
        match (line.trim().strip_prefix("```"), block) {
            (Some(language), None) => block = Some(language),
            (Some(_), Some(_)) => block = None,
            (None, Some("sh")) => commands.push(line.split(" #").next().unwrap_or_default().to_owned()),
            (None, Some(_)) => {}
            (None, None) => commands.extend(line.split('`').skip(1).step_by(2).map(str::to_owned)),
        }
    }
    let ours = |line: &String| line.starts_with("tradebot-symbols ") || line.starts_with("tradebot-beat ");
    commands.into_iter().filter(ours).collect()
}

#[test]
fn every_command_is_understood() {
    let mut count = 0;
    for (path, text) in pages() {
        for command in commands(&text) {
            let mut words = command.split_whitespace();
            let program = Process::builder(bin(words.next().expect("a program")))
                .args(words.filter(|word| !word.ends_with("...]")))
                .arg("--help")
                .spawn();
            let status = program.wait_exit(PATIENCE);
            assert!(
                status.success(),
                "{}: {command}\n{}",
                path.display(),
                program.output()
            );
            count += 1;
        }
    }
    assert!(count > 20, "{count} commands");
}
