//! Keys of the beat and of RedBeat that hold something else, or may not be written.

use serde_json::json;

use super::*;

/// Entries that no beat runs stay on RedBeat's schedule, and stay first.
#[tokio::test]
async fn entries_of_redbeat_that_cannot_be_run_hold_no_others_up() {
    let scene = Scene::with("[[entry]]\nname = \"a\"\ntask = \"t.a\"\ninterval = 1\n");
    let mut old = redis::pipe();
    for number in 0..2500 {
        let (key, rule) = (
            format!("redbeat:old{number}"),
            r#"{"schedule": {"__type__": "rrule"}}"#,
        );
        old.hset(&key, "definition", rule).ignore();
        old.zadd("redbeat::schedule", &key, number).ignore();
    }
    let filled: Result<(), _> = old.query_async(&mut scene.redis.connection().await).await;
    filled.expect("old entries");
    let beat = scene.beat().arg("--redbeat").spawn();
    scene.wait_for("celery", 3).await;
    // A beat that dies keeps RedBeats of Python from sending for as long.
    let locked: i64 = scene.ask(cmd("PTTL").arg("redbeat::lock")).await;
    assert!((1..=5_000).contains(&locked), "{locked} ms");
    stop(&beat);
    let scheduled: u64 = scene.ask(cmd("ZCARD").arg("redbeat::schedule")).await;
    assert_eq!(scheduled, 2501, "nothing is deleted");
}

/// Redis does not undo a script that fails.
#[tokio::test]
async fn a_redbeat_slot_that_cannot_be_recorded_is_not_sent() {
    let scene = Scene::with("");
    let definition = json!({"name": "a", "task": "t.a", "args": [], "kwargs": {}, "options": {}, "enabled": true,
        "schedule": {"__type__": "interval", "every": 1, "relative": false}});
    let mut entry = redis::pipe();
    entry
        .hset("redbeat:a", "definition", definition.to_string())
        .ignore();
    entry.zadd("redbeat::schedule", "redbeat:a", 1).ignore();
    let written: Result<(), _> = entry.query_async(&mut scene.redis.connection().await).await;
    written.expect("an entry");
    let url = scene.redis.user("reader", "~* &* +@all -hset").await;
    let beat = scene
        .beat()
        .env("CELERY_BROKER_URL", url)
        .arg("--redbeat")
        .spawn();
    eventually("three refused records", PATIENCE, async || {
        let stats: String = scene.ask(cmd("INFO").arg("commandstats")).await;
        let hset = stats.lines().find(|line| line.starts_with("cmdstat_hset:"))?;
        let refused = hset.split_once("rejected_calls=")?.1.split(',').next()?;
        (refused.parse::<u64>().ok()? >= 3).then_some(())
    })
    .await;
    assert_eq!(scene.sent("celery").await, [Value::Null; 0]);
    // With the right, it is sent as soon as the queue takes it.
    let _: () = scene.ask(cmd("SET").arg(&["celery", "no list"])).await;
    let _: () = scene.ask(cmd("ACL").arg(&["SETUSER", "reader", "+hset"])).await;
    beat.wait_for_line("it or its queue `celery` holds another type", PATIENCE);
    assert_eq!(
        scene
            .ask::<Option<String>>(cmd("HGET").arg(&["redbeat:a", "meta"]))
            .await,
        None
    );
    let _: u64 = scene.ask(cmd("DEL").arg("celery")).await;
    scene.wait_for("celery", 1).await;
    stop(&beat);
}

/// Any key of a beat may hold anything: it is replaced, and named if that costs something.
#[tokio::test]
async fn a_beat_sends_whatever_its_keys_hold() {
    const SLOTS: &str = "tradebot-symbols:beat-slots";
    const PAUSED: &str = "tradebot-symbols:beat-paused";
    const LEADER: &str = "tradebot-symbols:beat-leader";
    let scene = Scene::with(
        "[[entry]]\nname = \"e\"\ntask = \"t\"\ninterval = 0.2\n\
         [[entry]]\nname = \"c\"\ntask = \"t\"\ncrontab = \"* * * * *\"\n",
    );
    let huge = format!("1{}", "0".repeat(400));
    let mut odd: Vec<Vec<&str>> = Vec::new();
    for key in [SLOTS, PAUSED, LEADER] {
        odd.extend([
            vec!["SET", key, "text"],
            vec!["SET", key, "text", "PX", "99999999999999"],
            vec!["LPUSH", key, "x"],
            vec!["ZADD", key, "1", "x"],
            vec!["XADD", key, "*", "x", "y"],
        ]);
    }
    let records = [
        "text".to_owned(),
        format!("{huge} {huge} {huge} {huge}"),
        format!("1 {huge} 1 1"),
        format!("1 1 1 {huge}"),
        "-1 -1 -1 0".to_owned(),
        "99999999999999999 99999999999999999 99999999999999999 9".to_owned(),
        "9223372036854775807 -9223372036854775808 9223372036854775807 18446744073709551615".to_owned(),
        "-9999999999999999 9999999999999999 -1 99999999999999999".to_owned(),
    ];
    for record in &records {
        odd.push(vec!["HSET", SLOTS, "e", record, "c", record]);
    }
    let heartbeat = || async {
        let keys: Vec<String> = scene.ask(cmd("KEYS").arg("tradebot-symbols:beat:*")).await;
        keys.into_iter().next().expect("a heartbeat")
    };
    let beat = scene.beat().spawn();
    scene.wait_for("celery", 1).await;
    for words in &odd {
        // In one step: the beat writes its keys at any time.
        let _: redis::Value = scene
            .ask(cmd(words[0]).arg([&["odd"], &words[2..]].concat()))
            .await;
        let _: () = scene.ask(cmd("RENAME").arg(&["odd", words[1]])).await;
        let sent = scene.sent("celery").await.len();
        scene.wait_for("celery", sent + 3).await;
        assert!(beat.is_running(), "{words:?}: {}", beat.output());
    }
    let key = heartbeat().await;
    let _: u64 = scene.ask(cmd("LPUSH").arg(&["odd", "x"])).await;
    let _: () = scene.ask(cmd("RENAME").arg(&["odd", &key])).await;
    let sent = scene.sent("celery").await.len();
    scene.wait_for("celery", sent + 3).await;
    for key in [SLOTS, PAUSED] {
        beat.wait_for_line(&format!("key=\"{key}\""), PATIENCE);
    }
    stop(&beat);
    // A beat that starts finds a lease that is none, and does not wait for its end.
    for words in odd.iter().filter(|words| words[1] == LEADER) {
        let _: u64 = scene.ask(cmd("DEL").arg(LEADER)).await;
        let _: redis::Value = scene.ask(cmd(words[0]).arg(&words[1..])).await;
        let sent = scene.sent("celery").await.len();
        let beat = scene.beat().spawn();
        scene.wait_for("celery", sent + 1).await;
        stop(&beat);
    }
}
