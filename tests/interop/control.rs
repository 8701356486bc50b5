//! `celery inspect` and `celery control`: our worker beside a Python one, asked the same by the same client.

use std::time::Duration;

use serde_json::{Value, json};
use tradebot_test_support::{Python, Signal, eventually, stretched};

use crate::fleet::PATIENCE;
use crate::remote::{OURS, Remote, THEIRS, answer, ask, send, until};

/// The deployment's version, the one between and the newest.
const VERSIONS: [Python; 3] = [Python::CELERY_5_5_2, Python::CELERY_5_6, Python::CELERY_NEWEST];

/// Commands whose answers must be equal, but for the node's name, with their arguments.
fn exact() -> Vec<(&'static str, Value)> {
    vec![
        ("ping", json!({})),
        ("nosuch", json!({})),
        ("heartbeat", json!({})),
        ("revoked", json!({})),
        ("reserved", json!({})),
        ("query_task", json!({"ids": ["nosuch"]})),
        (
            "rate_limit",
            json!({"task_name": "tests.noop", "rate_limit": "10/m"}),
        ),
        ("rate_limit", json!({"task_name": "tests.noop", "rate_limit": 0})),
        (
            "rate_limit",
            json!({"task_name": "tests.noop", "rate_limit": "often"}),
        ),
        (
            "rate_limit",
            json!({"task_name": "tests.noop", "rate_limit": "1/x"}),
        ),
        ("rate_limit", json!({"task_name": "nosuch", "rate_limit": "1/s"})),
        (
            "time_limit",
            json!({"task_name": "tests.noop", "soft": 5.5, "hard": 10}),
        ),
        (
            "time_limit",
            json!({"task_name": "nosuch", "soft": 5, "hard": 10}),
        ),
        (
            "registered",
            json!({"taskinfoitems": ["rate_limit", "time_limit", "serializer"], "only": "tests.noop"}),
        ),
        (
            "add_consumer",
            json!({"queue": "more", "exchange": null, "exchange_type": "direct", "routing_key": null}),
        ),
        ("cancel_consumer", json!({"queue": "more"})),
        ("cancel_consumer", json!({"queue": "nosuch"})),
        ("pool_grow", json!({"n": 1})),
        ("pool_shrink", json!({"n": 1})),
        ("pool_restart", json!({})),
        ("autoscale", json!({"max": 4, "min": 1})),
        ("enable_events", json!({})),
        ("enable_events", json!({})),
        ("disable_events", json!({})),
        ("disable_events", json!({})),
        ("revoke", json!({"task_id": "r1"})),
        (
            "revoke",
            json!({"task_id": ["r1"], "terminate": true, "signal": "SIGTERM"}),
        ),
        ("revoke", json!({})),
        ("terminate", json!({"task_id": "r1", "signal": "KILL"})),
        ("terminate", json!({"task_id": "r1", "signal": "nosuch"})),
        ("revoked", json!({})),
        (
            "revoke_by_stamped_headers",
            json!({"headers": {"run": ["x", "y"]}}),
        ),
        (
            "revoke_by_stamped_headers",
            json!({"headers": {"run": "z"}, "terminate": true}),
        ),
        ("revoke_by_stamped_headers", json!({"headers": ["run=v"]})),
        ("objgraph", json!({})),
    ]
}

/// Commands whose answers must have the same members of the same types.
fn alike() -> Vec<(&'static str, Value)> {
    vec![
        ("stats", json!({})),
        ("active", json!({})),
        ("dump_active", json!({"safe": true})),
        ("scheduled", json!({})),
        ("active_queues", json!({})),
        ("registered", json!({})),
        ("query_task", json!({"ids": ["running-NODE", "waiting-NODE"]})),
        ("conf", json!({"with_defaults": false})),
        ("report", json!({})),
        ("clock", json!({})),
        ("hello", json!({"from_node": "other@tests", "revoked": []})),
        ("hello", json!({"from_node": "NODE"})),
    ]
}

#[tokio::test]
async fn every_command_is_answered_as_by_a_python_worker() {
    for python in [Python::CELERY_5_5_2, Python::CELERY_NEWEST] {
        let remote = Remote::start(python);
        let _workers = (
            remote.worker(&["-Q", "ours", "-c", "2"]),
            remote.python_worker(&[]),
        );
        let named = |value: &Value, node: &str| -> Value {
            serde_json::from_str(&value.to_string().replace("NODE", node)).expect("JSON")
        };
        let mut steps = Vec::new();
        for (node, queue) in [(OURS, "ours"), (THEIRS, "theirs")] {
            let (running, waiting) = (format!("running-{node}"), format!("waiting-{node}"));
            let options = json!({"queue": queue});
            steps.push(send(
                "tests.noop",
                &format!("first-{node}"),
                json!([]),
                options.clone(),
            ));
            steps.push(json!({"get": format!("first-{node}")}));
            steps.push(send("tests.sleep", &running, json!([100]), options.clone()));
            let later = json!({"queue": queue, "countdown": 1000});
            steps.push(send("tests.sleep", &waiting, json!([0.5]), later));
            steps.push(until(node, "active", 1));
            steps.push(until(node, "scheduled", 1));
            let commands = alike().into_iter().chain(exact());
            steps.extend(commands.map(|(command, arguments)| ask(node, command, named(&arguments, node))));
        }
        let outcomes = remote.steps(&steps);
        let (ours, theirs) = outcomes.split_at(outcomes.len() / 2);
        let asked = alike().len();
        let answers = |outcomes: &[Value], node: &str| -> Vec<Value> {
            let outcomes = &outcomes[6..];
            outcomes
                .iter()
                .map(|outcome| answer(outcome, node).clone())
                .collect()
        };
        let (ours, theirs) = (answers(ours, OURS), answers(theirs, THEIRS));
        for (number, (command, arguments)) in alike().into_iter().chain(exact()).enumerate() {
            let (ours, theirs) = (&ours[number], &theirs[number]);
            if number < asked {
                assert_alike(ours, theirs, &format!("{command} {arguments}"));
            } else {
                let theirs = theirs.to_string().replace(THEIRS, OURS);
                assert_eq!(
                    of_interest(command, ours),
                    of_interest(command, &parse(&theirs)),
                    "{command} {arguments}"
                );
            }
        }
    }
}

/// What is compared exactly of an answer.
fn of_interest(command: &str, answer: &Value) -> Value {
    match command {
        // Both have more tasks than the other.
        "registered" => {
            let tasks = answer.as_array().expect("a list").iter();
            tasks
                .filter(|task| task.as_str().is_some_and(|task| task.starts_with("tests.noop")))
                .cloned()
                .collect()
        }
        _ => answer.clone(),
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// Everything that Python's answer has, ours has too, of the same type.
fn assert_alike(ours: &Value, theirs: &Value, place: &str) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (name, theirs) in theirs {
                // Settings that are of no use here, and tasks by their name.
                let Some(ours) = ours.get(name).or_else(|| ours.get(&name.replace(THEIRS, OURS))) else {
                    assert!(place.starts_with("conf"), "{place}: no `{name}`");
                    continue;
                };
                assert_alike(ours, theirs, &format!("{place} / {name}"));
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.is_empty(), theirs.is_empty(), "{place}");
            if let (Some(ours), Some(theirs)) = (ours.first(), theirs.first()) {
                assert_alike(ours, theirs, &format!("{place} / 0"));
            }
        }
        // A dict of 5.5 and 5.6, a list since.
        (Value::Array(_), Value::Object(_)) if place.ends_with("revoked") => {}
        (ours, theirs) => assert_eq!(kind(ours), kind(theirs), "{place}: {ours} for {theirs}"),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

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
        // The last command is one that nobody answers.
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
        by("nobody*", "glob", 0),
        ask(OURS, "ping", json!({})),
        json!({"ask": "ping", "to": ["nobody@tests"], "timeout": 1}),
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
    // Answers that nobody reads do not stay.
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
async fn limits_queues_and_the_pool_change_while_the_worker_runs() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let _worker = remote.worker(&["-c", "1"]);
    let mut steps = vec![
        ask(OURS, "time_limit", json!({"task_name": "tests.sleep", "hard": 1})),
        send("tests.sleep", "limited", json!([60]), json!({})),
        json!({"get": "limited"}),
        ask(OURS, "time_limit", json!({"task_name": "tests.sleep"})),
        // A second queue, and no longer the first.
        send("tests.noop", "elsewhere", json!([]), json!({"queue": "more"})),
        ask(OURS, "add_consumer", json!({"queue": "more"})),
        json!({"get": "elsewhere"}),
        ask(OURS, "cancel_consumer", json!({"queue": "celery"})),
        ask(OURS, "active_queues", json!({})),
        send("tests.noop", "left", json!([]), json!({})),
        send("tests.noop", "taken", json!([]), json!({"queue": "more"})),
        json!({"get": "taken"}),
        json!({"state": "left"}),
        ask(OURS, "add_consumer", json!({"queue": "celery"})),
        json!({"get": "left"}),
        // Two at a time, then one.
        ask(OURS, "pool_grow", json!({"n": 1})),
    ];
    for id in ["a", "b", "c"] {
        steps.push(send("tests.sleep", id, json!([100]), json!({})));
    }
    steps.extend([
        until(OURS, "active", 2),
        ask(OURS, "stats", json!({})),
        ask(OURS, "pool_shrink", json!({"n": 1})),
        ask(OURS, "revoke", json!({"task_id": "a", "terminate": true})),
        json!({"get": "a"}),
        until(OURS, "active", 1),
        ask(OURS, "stats", json!({})),
        ask(OURS, "revoke", json!({"task_id": ["b", "c"], "terminate": true})),
        json!({"get": "c"}),
    ]);
    let outcomes = remote.steps(&steps);
    assert_eq!(
        outcomes[2]["exception"]["type"], "TimeLimitExceeded",
        "{}",
        outcomes[2]
    );
    assert_eq!(outcomes[6]["state"], "SUCCESS", "{}", outcomes[6]);
    let queues = answer(&outcomes[8], OURS).as_array().expect("a list");
    assert_eq!((queues.len(), &queues[0]["name"]), (1, &json!("more")));
    assert_eq!(outcomes[11]["state"], "SUCCESS", "{}", outcomes[11]);
    assert_eq!(outcomes[12], "PENDING", "of a queue that is not served");
    assert_eq!(outcomes[14]["state"], "SUCCESS", "{}", outcomes[14]);
    let pool = |outcome: &Value| answer(outcome, OURS)["pool"]["max-concurrency"].clone();
    assert_eq!((pool(&outcomes[20]), pool(&outcomes[25])), (json!(2), json!(1)));
    assert_eq!(outcomes[23]["state"], "REVOKED", "{}", outcomes[23]);
    assert_eq!(outcomes[27]["state"], "REVOKED", "{}", outcomes[27]);
}

#[tokio::test]
async fn a_rate_limit_holds_back_its_task_and_no_other() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let _worker = remote.worker(&["-c", "2"]);
    let mut steps = vec![ask(
        OURS,
        "rate_limit",
        json!({"task_name": "tests.record", "rate_limit": "2/s"}),
    )];
    for number in 0..5 {
        steps.push(send(
            "tests.record",
            &format!("slow{number}"),
            json!(["slow"]),
            json!({}),
        ));
    }
    steps.extend([
        send("tests.noop", "quick", json!([]), json!({})),
        json!({"get": "quick"}),
        json!({"state": "slow4"}),
        json!({"get": "slow4"}),
        // Once in an hour; the first goes at once, the others when the limit is lifted.
        ask(
            OURS,
            "rate_limit",
            json!({"task_name": "tests.record", "rate_limit": "1/h"}),
        ),
        send("tests.record", "h0", json!(["hour"]), json!({})),
        send("tests.record", "h1", json!(["hour"]), json!({})),
        send("tests.record", "h2", json!(["hour"]), json!({})),
        json!({"get": "h0"}),
        until(OURS, "reserved", 2),
        ask(OURS, "registered", json!({})),
        ask(OURS, "revoke", json!({"task_id": "h1"})),
        json!({"get": "h1"}),
        until(OURS, "reserved", 1),
        ask(
            OURS,
            "rate_limit",
            json!({"task_name": "tests.record", "rate_limit": "0"}),
        ),
        json!({"get": "h2"}),
    ]);
    let outcomes = remote.steps(&steps);
    assert_eq!(outcomes[7]["state"], "SUCCESS");
    assert_eq!(outcomes[8], "PENDING", "held back");
    let starts = remote.starts("slow").await;
    assert_eq!(starts.len(), 5);
    let taken = starts[4] - starts[0];
    // A token gained while Redis or the machine was slow is not lost, so only the whole is certain.
    assert!(taken >= 1_500, "five starts at two a second took {taken} ms");
    let tasks = answer(&outcomes[16], OURS).as_array().expect("a list");
    assert!(
        tasks.contains(&json!("tests.record [rate_limit=1/h]")),
        "{tasks:?}"
    );
    assert_eq!(outcomes[18]["state"], "REVOKED");
    assert_eq!(outcomes[21]["result"], 1);
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
async fn a_default_rate_limit_holds_for_every_task_until_it_is_lifted() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let _worker = remote.worker_in(OURS, &["-c", "2"], &[("CELERY_TASK_DEFAULT_RATE_LIMIT", "1/h")]);
    let outcomes = remote.steps(&[
        send("tests.noop", "first", json!([]), json!({})),
        send("tests.noop", "second", json!([]), json!({})),
        json!({"get": "first"}),
        until(OURS, "reserved", 1),
        ask(
            OURS,
            "rate_limit",
            json!({"task_name": "tests.noop", "rate_limit": null}),
        ),
        json!({"get": "second"}),
    ]);
    assert_eq!(
        answer(&outcomes[4], OURS),
        &json!({"ok": "rate limit disabled successfully"})
    );
    assert_eq!(outcomes[5]["state"], "SUCCESS");
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
