//! Every command, answered by our worker and by a Python one.

use serde_json::{Value, json};
use tradebot_test_support::Python;

use crate::remote::{OURS, Remote, THEIRS, answer, ask, send, until};

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
        // What Flower and support scripts read, wherever Python has it.
        let place = alike().iter().position(|(command, _)| *command == "conf");
        let conf = &ours[place.expect("one of them")];
        for name in [
            "worker_hijack_root_logger",
            "worker_log_color",
            "broker_heartbeat",
            "deprecated_settings",
            "include",
        ] {
            assert!(conf.get(name).is_some(), "{name}: {conf}");
        }
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
