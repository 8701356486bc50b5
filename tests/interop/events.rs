//! Events: our worker must send what a Python worker sends that does the same.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use tradebot_test_support::{Process, Python, RedisServer, Signal, bin};

use crate::fleet::{PATIENCE, text};

const OURS: &str = "ours@lab";
const PYTHON: &str = "python@lab";

/// What differs between two runs of anything.
const OF_ITS_OWN: [&str; 10] = [
    "hostname",
    "pid",
    "clock",
    "timestamp",
    "local_received",
    "uuid",
    "utcoffset",
    "runtime",
    "traceback",
    "queue",
];

/// A field's JSON type; `utcoffset` is a whole number in one Celery and a float in another.
fn kind(name: &str, value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) if name == "utcoffset" => "number",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// The types of an event's fields. Whether a retry waits is left to chance: its `eta` is there or not.
fn kinds(event: &Map<String, Value>) -> BTreeMap<&str, &'static str> {
    let retry = event.get("retries").is_some_and(|retries| *retries != 0);
    let kinds = event.iter().map(|(name, value)| match name.as_str() {
        "eta" if retry => ("eta", "any"),
        name => (name, kind(name, value)),
    });
    kinds.filter(|(name, _)| *name != "local_received").collect()
}

/// One task's events, or one worker's, in the order of the clock.
fn select(report: &Value, belongs: impl Fn(&Value) -> bool) -> Vec<Map<String, Value>> {
    let events = report["events"].as_array().expect("a list");
    let mut selected: Vec<Map<String, Value>> = events
        .iter()
        .filter(|event| belongs(event))
        .map(|event| event.as_object().expect("an object").clone())
        .collect();
    selected.sort_by_key(|event| event["clock"].as_u64());
    selected
}

fn sequence(events: &[Map<String, Value>]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect()
}

/// What can be compared of an event: a time becomes whether there is one, a task's own id `itself`.
fn essence(event: &Map<String, Value>, label: &str) -> BTreeMap<String, Value> {
    let mut essence = BTreeMap::new();
    for (name, value) in event {
        let value = match name.as_str() {
            name if OF_ITS_OWN.contains(&name) => continue,
            "eta" if event["retries"] != 0 => json!("any"),
            "eta" | "expires" | "routing_key" => json!(value.is_null()),
            "root_id" | "parent_id" if *value == event["uuid"] => json!("itself"),
            "root_id" | "parent_id" => json!(value.is_null()),
            // Rust cannot tell which arguments have defaults, and says it in other words.
            "exception" if label == "mismatch" => json!(value.as_str().and_then(|text| text.get(..10))),
            _ => value.clone(),
        };
        essence.insert(name.clone(), value);
    }
    essence
}

fn env(redis: &RedisServer) -> [(&'static str, String); 4] {
    [
        ("CELERY_BROKER_URL", redis.url()),
        ("CELERY_RESULT_BACKEND", redis.url()),
        ("REDIS_URL", redis.url()),
        ("CELERY_TASK_SEND_SENT_EVENT", "true".into()),
    ]
}

/// The report of `events.py` about one worker of each kind.
fn watch(python: Python) -> Value {
    let redis = RedisServer::start();
    let env = env(&redis);
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let watcher = python.start("events.py", &[OURS, PYTHON], &env);
    watcher.wait_for_line("listening", PATIENCE);
    let args = [
        "-A",
        "tests_app",
        "worker",
        "-E",
        "--concurrency",
        "1",
        "-n",
        PYTHON,
        "-Q",
        "python",
    ];
    let workers: [Process; 2] = [
        python.celery(&args, &env),
        Process::builder(bin("test-worker"))
            .args(["-E", "-n", OURS, "-Q", "ours", "-c", "2"])
            .envs(env.iter().copied())
            .spawn(),
    ];
    watcher.wait_for_line("finished", PATIENCE * 2);
    for worker in &workers {
        worker.signal(Signal::SIGTERM);
    }
    let status = watcher.wait_exit(PATIENCE * 2);
    assert!(status.success(), "{}", watcher.output());
    python.last_line("events.py", &watcher)
}

#[test]
fn our_events_are_those_of_a_python_worker_that_does_the_same() {
    for python in Python::ALL {
        let report = watch(python);
        for (label, ids) in report["tasks"].as_object().expect("labels") {
            let of = |node: &str, sent: bool| {
                let belongs =
                    |event: &Value| event["uuid"] == ids[node] && (event["type"] == "task-sent") == sent;
                select(&report, belongs)
            };
            let (ours, theirs) = (of(OURS, false), of(PYTHON, false));
            let about = format!("{label} with {}\n{ours:#?}\n{theirs:#?}", python.name());
            assert_eq!(sequence(&ours), sequence(&theirs), "{about}");
            // In Python each sender has a separate clock.
            let pairs = ours.iter().zip(&theirs);
            for (our, their) in pairs.chain(of(OURS, true).iter().zip(&of(PYTHON, true))) {
                assert_eq!(kinds(our), kinds(their), "{about}");
                assert_eq!(essence(our, label), essence(their, label), "{about}");
            }
            let sent = [OURS, PYTHON].map(|node| of(node, true).len());
            assert_eq!(sent, [if label == "retry" { 2 } else { 1 }; 2], "{about}");
            let end = ours.last().expect("events");
            // With an ignored result nothing is ever stored.
            let expected = match end["type"].as_str() {
                _ if label == "ignored" => "PENDING",
                Some("task-succeeded") => "SUCCESS",
                Some("task-revoked") => "REVOKED",
                _ => "FAILURE",
            };
            assert_eq!(report["stored"][text(&ids[OURS])], expected, "{about}");
        }
        compare_workers(&report, python);
        compare_messages(&report, python);
        compare_states(&report, python);
    }
}

fn compare_workers(report: &Value, python: Python) {
    let of = |node: &str| {
        let events = select(report, |event| {
            event["hostname"] == node && text(&event["type"]).starts_with("worker-")
        });
        let clocks: Vec<_> = events.iter().map(|event| event["clock"].as_u64()).collect();
        assert_eq!(
            clocks.iter().collect::<BTreeSet<_>>().len(),
            clocks.len(),
            "every event its own"
        );
        events
    };
    let (ours, theirs) = (of(OURS), of(PYTHON));
    for (number, name) in [(0, "worker-online"), (1, "worker-heartbeat")] {
        for events in [&ours, &theirs] {
            assert_eq!(sequence(events)[number], name, "{}", python.name());
        }
        assert_eq!(kinds(&ours[number]), kinds(&theirs[number]), "{}", python.name());
        assert_eq!(ours[number]["freq"], theirs[number]["freq"]);
    }
    let (our_last, their_last) = (ours.last().expect("events"), theirs.last().expect("events"));
    for last in [our_last, their_last] {
        assert_eq!(last["type"], "worker-offline");
    }
    assert_eq!(kinds(our_last), kinds(their_last));
    assert_eq!(our_last["processed"], their_last["processed"], "tasks begun");
    assert_eq!(our_last["active"], 0);
}

/// Channels and envelopes, with what is in them: of Python's worker and client, and of ours.
fn compare_messages(report: &Value, python: Python) {
    let messages = report["messages"].as_array().expect("a list");
    let of = |node: &str| {
        let sent_by = |message: &&Value| message["envelope"]["headers"]["hostname"] == node;
        let mut shapes = BTreeSet::new();
        for message in messages.iter().filter(sent_by) {
            let mut envelope = message["envelope"].clone();
            envelope["headers"]["hostname"] = Value::Null;
            let tag = envelope["properties"]["delivery_tag"].take();
            assert_eq!(tag.as_str().map(str::len), Some(36));
            shapes.insert((text(&message["channel"]), envelope.to_string()));
        }
        shapes
    };
    let ours = of(OURS);
    assert_eq!(ours, of(PYTHON), "{}", python.name());
    let channels: BTreeSet<&str> = ours.iter().map(|(channel, _)| channel.as_str()).collect();
    let expected = [
        "task.multi",
        "worker.heartbeat",
        "worker.offline",
        "worker.online",
    ];
    let expected: Vec<String> = expected.iter().map(|key| format!("/0.celeryev/{key}")).collect();
    assert_eq!(channels, expected.iter().map(String::as_str).collect());
    let sent = messages
        .iter()
        .filter(|message| message["channel"] == "/0.celeryev/task.sent");
    let mut shapes: Vec<Value> = sent.map(|message| message["envelope"].clone()).collect();
    for envelope in &mut shapes {
        assert!(text(&envelope["headers"]["hostname"].take()).starts_with("gen"));
        envelope["properties"]["delivery_tag"].take();
    }
    shapes.dedup();
    assert_eq!(shapes.len(), 1, "one form of task-sent: {shapes:#?}");
}

/// What `celery.events.state.State` made of it all, which is what Flower shows.
fn compare_states(report: &Value, python: Python) {
    for (label, ids) in report["tasks"].as_object().expect("labels") {
        let of = |node: &str| {
            let mut task = report["tasks_of_state"][text(&ids[node])].clone();
            let fields = task.as_object_mut().expect("a task");
            assert_eq!(fields["worker"].take(), node);
            for name in ["root_id", "parent_id", "routing_key"] {
                fields[name] = json!(fields[name].is_null());
            }
            if label == "retry" {
                // Which tells of an `eta`, too.
                fields["info"].take();
                fields["eta"].take();
            }
            for (name, value) in fields.iter_mut() {
                // Times: whether there is one.
                if value.is_number() && name != "retries"
                    || ["eta", "expires", "client"].contains(&name.as_str())
                {
                    *value = json!(!value.is_null());
                }
                // The other name is the worker's; the client's event may come later, and has the task's own.
                if (label == "mismatch" && name == "exception") || (label == "named" && name == "name") {
                    value.take();
                }
            }
            task
        };
        assert_eq!(of(OURS), of(PYTHON), "{label} with {}", python.name());
    }
    let worker = |node: &str| &report["workers_of_state"][node];
    for name in ["was_alive", "alive", "freq", "active", "processed"] {
        assert_eq!(
            worker(OURS)[name],
            worker(PYTHON)[name],
            "{name} with {}",
            python.name()
        );
    }
    assert_eq!(
        (&worker(OURS)["was_alive"], &worker(OURS)["alive"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(worker(OURS)["sw_ident"], "tradebot-symbols");
}
