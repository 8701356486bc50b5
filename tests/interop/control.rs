//! `celery inspect` and `celery control`: our worker beside a Python one, asked the same by the same client.

mod answers;
mod changes;

use std::time::Duration;

use serde_json::{Value, json};
use tradebot_test_support::{Python, Signal, eventually, stretched};

use crate::fleet::PATIENCE;
use crate::remote::{OURS, Remote, answer, ask, send, until};

/// The deployment's version, the one between and the newest.
const VERSIONS: [Python; 3] = [Python::CELERY_5_5_2, Python::CELERY_5_6, Python::CELERY_NEWEST];

#[tokio::test]
async fn the_program_celery_finds_the_worker_and_asks_it_everything() {
    for python in VERSIONS {
        let remote = Remote::start(python);
        let worker = remote.worker(&["-c", "2"]);
        let inspect = [
            "ping",
            "stats",
            "active",
            "reserved",
            "scheduled",
            "registered",
            "active_queues",
            "revoked",
            "conf",
            "report",
            "clock",
            "memsample",
        ];
        let control: [&[&str]; 14] = [
            &["rate_limit", "tests.noop", "10/m"],
            &["time_limit", "tests.noop", "5", "10"],
            &["add_consumer", "more"],
            &["cancel_consumer", "more"],
            &["pool_grow", "2"],
            &["pool_shrink", "1"],
            &["enable_events"],
            &["disable_events"],
            &["heartbeat"],
            &["revoke", "a", "b"],
            &["terminate", "SIGKILL", "a"],
            &["revoke_by_stamped_headers", "run=x"],
            &["election", "id", "topic"],
            &["autoscale", "4", "1"],
        ];
        let to = ["-t", "30", "-d", OURS];
        let mut lines: Vec<Vec<&str>> = vec![[&["status"], &to[..]].concat()];
        lines.extend(inspect.map(|command| [&["inspect"], &to[..], &[command]].concat()));
        lines.push([&["inspect"], &to[..], &["query_task", "a", "b"]].concat());
        let nobody_wants = if python == Python::CELERY_5_5_2 { 13 } else { 14 };
        for command in &control[..nobody_wants] {
            lines.push([&["control"], &to[..], command].concat());
        }
        let steps: Vec<Value> = lines.iter().map(|line| json!({"cli": line})).collect();
        for (line, outcome) in lines.iter().zip(remote.steps(&steps)) {
            let output = outcome["output"].as_str().expect("text");
            assert!(output.contains(OURS), "{line:?}: {outcome}");
            assert_eq!(outcome["code"], 0, "{line:?}: {outcome}");
            let fails = line.contains(&"autoscale");
            assert_eq!(output.contains("ERROR"), fails, "{line:?}: {outcome}");
        }
        // No worker replies to the last command.
        let shutdown = remote.steps(&[json!({"tell": "shutdown", "to": [OURS]})]);
        assert_eq!(shutdown[0]["replies"], json!({}));
        assert!(worker.wait_exit(PATIENCE).success());
        // And nothing of it is left: the next `status` does not wait for it.
        for exchange in ["celery.pidbox", "reply.celery.pidbox"] {
            let bound: Vec<String> = remote
                .redis(redis::cmd("SMEMBERS").arg(format!("_kombu.binding.{exchange}")))
                .await;
            assert!(bound.is_empty(), "{exchange}: {bound:?}");
        }
    }
}

#[tokio::test]
async fn nodes_are_chosen_by_name_and_by_pattern_and_answer_at_once() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let _worker = remote.worker(&["-c", "1"]);
    let other = remote.worker_named("other@tests", &["-c", "1"]);
    let by = |pattern: &str, matcher: &str, expect: usize| {
        let timeout = if expect == 0 { 1 } else { 30 };
        json!({"ask": "ping", "pattern": pattern, "matcher": matcher, "expect": expect, "timeout": timeout})
    };
    let outcomes = remote.steps(&[
        json!({"ask": "ping", "expect": 2, "timeout": 30}),
        by("o*@tests", "glob", 2),
        by("our?@*", "glob", 1),
        by("ot", "pcre", 1),
        by("none*", "glob", 0),
        ask(OURS, "ping", json!({})),
        json!({"ask": "ping", "to": ["none@tests"], "timeout": 1}),
    ]);
    let both = json!({OURS: {"ok": "pong"}, "other@tests": {"ok": "pong"}});
    let (ours, theirs) = (
        json!({OURS: {"ok": "pong"}}),
        json!({"other@tests": {"ok": "pong"}}),
    );
    for (outcome, expected) in
        outcomes
            .iter()
            .zip([&both, &both, &ours, &theirs, &json!({}), &ours, &json!({})])
    {
        assert_eq!(outcome["replies"], *expected, "{outcome}");
    }
    // One that was asked by name does not have its asker wait.
    let seconds = outcomes[5]["seconds"].as_f64().expect("seconds");
    assert!(
        seconds < stretched(Duration::from_secs(2)).as_secs_f64(),
        "{seconds}"
    );
    // Unread replies do not stay.
    other.signal(Signal::SIGKILL);
    let left: Vec<String> = remote.redis(redis::cmd("KEYS").arg("*reply.celery.pidbox")).await;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn whatever_is_published_the_worker_goes_on_answering() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let worker = remote.worker(&["-c", "1"]);
    let body = |body: &str| json!({"body": body, "headers": {}, "properties": {}}).to_string();
    let rubbish = [
        String::new(),
        "\u{0}\u{1}".to_owned(),
        "[1, 2]".to_owned(),
        "{}".to_owned(),
        body("{"),
        body("[]"),
        body("{}"),
        body(r#"{"method": null}"#),
        body(r#"{"method": "ping", "arguments": [], "destination": 7}"#),
        body(r#"{"method": "ping", "reply_to": {"exchange": 1, "routing_key": []}}"#),
        body(
            r#"{"method": "ping", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "gone"}, "ticket": "t"}"#,
        ),
        body(r#"{"method": "revoke", "arguments": {"task_id": {"a": 1}}}"#),
        body(r#"{"method": "revoke_by_stamped_headers", "arguments": {"headers": 7}}"#),
        body(r#"{"method": "hello", "arguments": {"from_node": "x@y", "revoked": 7}}"#),
        body(r#"{"method": "hello"}"#),
        body(r#"{"method": "ping", "pattern": "(", "matcher": "pcre"}"#),
        body(
            r#"{"method": "time_limit", "arguments": {"task_name": "tests.noop", "hard": "x", "soft": -1}}"#,
        ),
        body(r#"{"method": "pool_grow", "arguments": {"n": 99999999999}}"#),
        body(r#"{"method": "pool_shrink", "arguments": {"n": 99999999999}}"#),
    ];
    for message in &rubbish {
        let heard: usize = remote
            .redis(
                redis::cmd("PUBLISH")
                    .arg("/0.celery.pidbox")
                    .arg(message.as_bytes()),
            )
            .await;
        assert_eq!(heard, 1, "{message}");
    }
    let outcomes = remote.steps(&[
        ask(OURS, "ping", json!({})),
        send("tests.noop", "after", json!([]), json!({})),
        json!({"get": "after"}),
    ]);
    assert_eq!(answer(&outcomes[0], OURS), &json!({"ok": "pong"}));
    assert_eq!(outcomes[2]["state"], "SUCCESS");
    assert!(worker.is_running());
}

#[tokio::test]
async fn a_worker_whose_threads_are_all_busy_answers_all_the_same() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let _worker = remote.worker(&["-c", &threads.to_string()]);
    let mut steps: Vec<Value> = (0..threads)
        .map(|number| send("tests.spin", &format!("spin{number}"), json!([8]), json!({})))
        .collect();
    steps.extend([
        until(OURS, "active", threads),
        ask(OURS, "revoke", json!({"task_id": "spin0", "terminate": true})),
        json!({"get": "spin0"}),
    ]);
    let outcomes = remote.steps(&steps);
    assert_eq!(
        outcomes[threads + 1]["replies"][OURS],
        json!({"ok": "terminate: spin0"})
    );
    // What never yields cannot be ended.
    assert_eq!(
        outcomes[threads + 2]["state"],
        "SUCCESS",
        "{}",
        outcomes[threads + 2]
    );
}

#[tokio::test]
async fn remote_control_is_back_when_redis_is() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let worker = remote.worker(&["-c", "1"]);
    let killed: usize = remote
        .redis(redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub"))
        .await;
    assert!(killed >= 1, "its subscription was there");
    let name = format!("{OURS}.celery.pidbox");
    eventually("the subscription", PATIENCE, async || {
        let heard: Vec<(String, usize)> = remote
            .redis(redis::cmd("PUBSUB").arg("NUMSUB").arg("/0.celery.pidbox"))
            .await;
        (heard[0].1 == 1).then_some(())
    })
    .await;
    let bound: Vec<String> = remote
        .redis(redis::cmd("SMEMBERS").arg("_kombu.binding.celery.pidbox"))
        .await;
    assert!(bound.iter().any(|member| member.ends_with(&name)), "{bound:?}");
    let outcomes = remote.steps(&[ask(OURS, "ping", json!({}))]);
    assert_eq!(answer(&outcomes[0], OURS), &json!({"ok": "pong"}));
    assert!(worker.is_running());
}
