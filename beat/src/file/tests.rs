use serde_json::json;

use super::*;

fn wrong(text: &str) -> String {
    let file = tempfile(text);
    read(file.path(), "celery").unwrap_err().to_string()
}

fn tempfile(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_example_has_the_four_entries_of_the_deployment() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schedule.example.toml");
    let entries = read(&path, "celery").unwrap();
    let shown: Vec<(&str, &str, String, &str)> = entries
        .iter()
        .map(|entry| {
            (
                entry.name.as_str(),
                entry.task.as_str(),
                entry.plan.to_string(),
                entry.queue.as_str(),
            )
        })
        .collect();
    let expected = [
        (
            "warmup-spot-symbols-cache",
            "app.core.cache_warmup_tasks.warmup_spot_symbols_cache",
            "every 300 s",
        ),
        (
            "warmup-futures-symbols-cache",
            "app.core.cache_warmup_tasks.warmup_futures_symbols_cache",
            "every 300 s",
        ),
        (
            "run-all-active-bots-every-minute",
            "app.core.bot_tasks.run_bot_task_for_all",
            "* * * * * UTC",
        ),
        (
            "reactivate-bots-daily-at-utc-midnight",
            "app.core.bot_tasks.reactivate_bots_after_reset",
            "0 0 * * * UTC",
        ),
    ]
    .map(|(name, task, plan)| (name, task, plan.to_owned(), "celery"));
    assert_eq!(shown, expected);
    assert!(entries.iter().all(|entry| entry.enabled && entry.args.is_empty()));
}

#[test]
fn every_option_is_read() {
    let file = tempfile(
        r#"
        timezone = "Europe/Istanbul"
        queue = "slow"
        [[entry]]
        name = "a"
        task = "t.a"
        args = [1, "x", [true]]
        kwargs = { z = 1.5, a = { b = 2 } }
        queue = "fast"
        priority = 3
        expires = 30
        crontab = { minute = "*/5", hour = 3 }
        timezone = "America/New_York"
        enabled = false
        catch_up = "all"
        catch_up_limit = 5
        jitter = 2.5
        unless_pending = 90
        [[entry]]
        name = "b"
        task = "t.b"
        crontab = "0 9 * * mon-fri"
        expires = false
        unless_pending = true
        [[entry]]
        name = "c"
        task = "t.c"
        interval = 0.5
        catch_up = "skip"
        [[entry]]
        name = "d"
        task = "t.d"
        interval = 5
        catch_up = "all"
        "#,
    );
    let entries = read(file.path(), "celery").unwrap();
    let [a, b, c, d] = &entries[..] else {
        panic!("{entries:?}")
    };
    assert_eq!(
        json!([a.args, a.kwargs]).to_string(),
        r#"[[1,"x",[true]],{"z":1.5,"a":{"b":2}}]"#
    );
    assert_eq!(
        (a.queue.as_str(), a.priority, a.enabled),
        ("fast", Priority(3), false)
    );
    assert_eq!(a.plan.to_string(), "*/5 3 * * * America/New_York");
    assert_eq!(
        (a.catch_up, a.expires),
        (CatchUp::All(5), Expires::After(Duration::from_secs(30)))
    );
    assert_eq!(
        (a.jitter, a.unless_pending),
        (Duration::from_millis(2500), Some(Duration::from_secs(90)))
    );
    assert_eq!(
        (b.queue.as_str(), b.plan.to_string().as_str()),
        ("slow", "0 9 * * mon-fri Europe/Istanbul")
    );
    assert_eq!(
        (b.expires, b.catch_up, b.unless_pending),
        (Expires::Never, CatchUp::One, Some(Duration::from_secs(3600)))
    );
    assert_eq!(
        (&c.plan, c.catch_up, c.expires),
        (&Plan::Interval(500_000), CatchUp::Skip, Expires::NextSlot)
    );
    assert_eq!(d.catch_up, CatchUp::All(100));
}

#[test]
fn a_mistake_is_reported_with_file_line_and_what_is_expected() {
    let entry = |rest: &str| format!("# a comment\n\n[[entry]]\nname = \"e\"\ntask = \"t\"\n{rest}");
    for (text, line, reason) in [
        ("[[entry]\n".to_owned(), 1, "expected `]`"),
        (
            entry("interval = 5\nintervall = 6"),
            7,
            "unknown field `intervall`, expected one of `name`",
        ),
        (entry("interval = \"5m\""), 6, "expected f64"),
        (
            entry("interval = 0"),
            6,
            "`0`, expected seconds, at least 0.001 and at most 315360000",
        ),
        (
            entry("interval = 5\njitter = -1"),
            7,
            "`-1`, expected seconds, at least 0 and at most",
        ),
        (
            entry("interval = 5\nunless_pending = 0"),
            7,
            "seconds are at least 0.001 and at most 315360000",
        ),
        (entry(""), 3, "expected `interval = SECONDS` or `crontab"),
        (
            entry("interval = 5\ncrontab = \"* * * * *\""),
            7,
            "expected `interval` or `crontab`",
        ),
        (entry("crontab = \"* * * *\""), 6, "expected five fields"),
        (entry("crontab = \"61 * * * *\""), 6, "minute `61`: expected"),
        (entry("crontab = { minuet = 5 }"), 6, "day_of_month"),
        (
            entry("crontab = \"* * * * *\"\ntimezone = \"Europe/Atlantis\""),
            7,
            "expected a name such as",
        ),
        (
            entry("interval = 5\ntimezone = \"UTC\""),
            7,
            "expected it beside a `crontab`",
        ),
        (
            entry("interval = 5\ncatch_up = \"some\""),
            7,
            "unknown variant `some`, expected one of `skip`, `one`, `all`",
        ),
        (
            entry("interval = 5\ncatch_up_limit = 9"),
            7,
            "expected `catch_up = \"all\"`",
        ),
        (
            entry("interval = 5\njitter = 6"),
            7,
            "expected at most the interval",
        ),
        (
            entry("interval = 5\nexpires = \"soon\""),
            7,
            "expected a number of seconds, `true` or `false`",
        ),
        (entry("interval = 5\nargs = [2026-01-01]"), 3, "expected a text"),
        (
            entry("interval = 5\n[[entry]]\nname = \"e\"\ntask = \"t\"\ninterval = 5"),
            8,
            "expected another name",
        ),
        ("timezone = \"\"\n".to_owned(), 1, "expected a name such as"),
        ("queue = \"\"\n".to_owned(), 1, "the name is empty"),
        (entry("interval = 5\nqueue = \" \""), 7, "the name is empty"),
        (
            "[[entry]]\ntask = \"t\"\ninterval = 5".to_owned(),
            1,
            "missing field `name`",
        ),
    ] {
        let told = wrong(&text);
        assert!(
            told.contains(".toml, line ") && told.contains(&format!("line {line}: ")),
            "{text}\n{told}"
        );
        assert!(told.contains(reason), "{text}\n{told}");
    }
    let told = read(Path::new("/nowhere.toml"), "celery")
        .unwrap_err()
        .to_string();
    assert!(told.contains("cannot read schedule file /nowhere.toml"), "{told}");
}
