//! Results: our worker must store what a Python worker stores that does the same, and a client must not be able to
//! tell the difference. Results are in a separate Redis, in another database, and have a prefix.

use serde_json::{Map, Value, json};
use tradebot_test_support::{Process, Python, RedisServer, bin};

use crate::fleet::{PATIENCE, text};

const OURS: &str = "ours@lab";
const PYTHON: &str = "python@lab";

/// The settings, as they are and with everything switched on.
const PLAIN: &[(&str, &str)] = &[];
const ALL: &[(&str, &str)] = &[
    ("CELERY_TASK_TRACK_STARTED", "true"),
    ("CELERY_RESULT_EXTENDED", "true"),
    ("CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED", "true"),
    ("CELERY_RESULT_GLOBAL_KEYPREFIX", "prefix"),
    ("CELERY_RESULT_EXPIRES", "1000"),
];

fn look(python: Python, settings: &[(&str, &str)]) -> Value {
    let (server, backend) = (RedisServer::start(), RedisServer::start());
    let results = backend.url().replace("/0", "/3");
    let broker = server.url();
    let mut env = vec![
        ("CELERY_BROKER_URL", broker.as_str()),
        ("CELERY_RESULT_BACKEND", results.as_str()),
        ("REDIS_URL", broker.as_str()),
    ];
    env.extend(settings);
    let args = [
        "-A",
        "tests_app",
        "worker",
        "--concurrency",
        "1",
        "-n",
        PYTHON,
        "-Q",
        "python",
        "-l",
        "info",
    ];
    let args = [&args[..], &["--without-mingle"]].concat();
    let workers: [Process; 2] = [
        python.celery(&args, &env),
        // One at a time, so that what is sent last ends last.
        Process::builder(bin("test-worker"))
            .args(["-n", OURS, "-Q", "ours", "-c", "1"])
            .envs(env.iter().copied())
            .spawn(),
    ];
    workers[0].wait_for_line(" ready.", PATIENCE);
    python.script_within(PATIENCE * 2, "results.py", &[OURS, PYTHON], &env)
}

/// A document without what differs between two runs of anything, and its members in their order.
fn essence(document: &str, id: &str, node: &str) -> (Vec<String>, Value) {
    let queue = node.split('@').next().expect("a queue");
    let document = document
        .replace(id, "ITSELF")
        .replace(node, "NODE")
        .replace(&format!(r#""queue": "{queue}""#), r#""queue": "QUEUE""#)
        .replace(&format!("callback-of-{queue}"), "CALLBACK");
    let mut document: Map<String, Value> = serde_json::from_str(&document).expect("a document is JSON");
    let names = document.keys().cloned().collect();
    let retry = document["status"] == "RETRY";
    for (name, value) in &mut document {
        match (name.as_str(), &*value) {
            ("date_done" | "group_id", Value::String(_)) => *value = json!("any"),
            ("parent_id", Value::String(id)) if id != "ITSELF" => *value = json!("another"),
            // Where Python has frames there are none in Rust. Those of a retry end with the wait, which is left to
            // chance.
            ("traceback", Value::String(_)) if retry => *value = json!("any"),
            ("traceback", Value::String(text)) => *value = json!(text.lines().last()),
            ("result", Value::Object(_)) if value["pid"].is_u64() => value["pid"] = json!("any"),
            _ => {}
        }
    }
    (names, Value::Object(document))
}

fn compare(report: &Value, label: &str, about: &str) {
    let of = |node: &str| {
        let task = &report[label][node];
        let id = text(&task["id"]);
        let read = |document: &Value| document.as_str().map(|text| essence(text, &id, node));
        let documents: Vec<_> = task["documents"]
            .as_array()
            .expect("a list")
            .iter()
            .map(read)
            .collect();
        let mut client = task["client"].clone();
        if let Some(client) = client.as_object_mut() {
            let last = client["traceback"].as_str().and_then(|text| text.lines().last());
            client["traceback"] = json!(last);
            let children = client["children"].to_string().replace(&id, "ITSELF");
            client["children"] = json!(children.replace(node.split('@').next().expect("a queue"), "QUEUE"));
            let extended = client["extended"].to_string().replace(node, "NODE");
            client["extended"] = json!(extended.replace(node.split('@').next().expect("a queue"), "QUEUE"));
        }
        let ttl = task["ttl"].as_i64().map(|ttl| (ttl + 100) / 200);
        (
            documents,
            read(&task["stored"]),
            ttl,
            client,
            task["forgotten"].clone(),
        )
    };
    let (ours, theirs) = (of(OURS), of(PYTHON));
    assert_eq!(ours, theirs, "{label} {about}");
    assert_eq!(ours.4, json!([null, "PENDING"]), "{label} {about}");
}

fn states(report: &Value, label: &str) -> Vec<String> {
    let documents = report[label][OURS]["documents"].as_array().expect("a list");
    let status = |document: &Value| {
        let document: Value = serde_json::from_str(&text(document)).expect("a document is JSON");
        text(&document["status"])
    };
    documents.iter().map(status).collect()
}

#[test]
fn our_results_are_those_of_a_python_worker_that_does_the_same() {
    for python in Python::ALL {
        for settings in [PLAIN, ALL] {
            let report = look(python, settings);
            let about = format!("with {} and {settings:?}", python.name());
            for label in report.as_object().expect("labels").keys() {
                // For all but a success this release asks only the task's own option, not the message.
                let old = label.starts_with("ignored") && python == Python::CELERY_5_5_2;
                if label != "raised" && !old {
                    compare(&report, label, &about);
                }
            }
            let all = settings.len() > 1;
            for (label, plain, tracked) in [
                ("success", &["SUCCESS"][..], &["STARTED", "SUCCESS"][..]),
                ("failure", &["FAILURE"], &["STARTED", "FAILURE"]),
                (
                    "retry",
                    &["RETRY", "SUCCESS"],
                    &["STARTED", "RETRY", "STARTED", "SUCCESS"],
                ),
                ("expired", &["REVOKED"], &["REVOKED"]),
                ("ignored", &[], &[]),
                ("ignored failure", &[], &["FAILURE"]),
                ("ignored and expired", &[], &["REVOKED"]),
            ] {
                assert_eq!(
                    states(&report, label),
                    if all { tracked } else { plain },
                    "{label} {about}"
                );
            }
            look_at_exceptions(&report["raised"], &about);
        }
    }
}

/// `get()` raises the class that was named, or one made on the spot with its name.
fn look_at_exceptions(raised: &Value, about: &str) {
    for (label, kind, module, args) in [
        ("builtin", "KeyError", "builtins", json!(["nope"])),
        (
            "several arguments",
            "FileNotFoundError",
            "builtins",
            json!([2, "No such file or directory"]),
        ),
        ("without arguments", "RuntimeError", "builtins", json!([])),
        (
            "of Celery",
            "MaxRetriesExceededError",
            "celery.exceptions",
            json!(["Can't retry"]),
        ),
        (
            "of billiard",
            "SoftTimeLimitExceeded",
            "billiard.exceptions",
            json!([]),
        ),
        (
            "unknown class",
            "NobodyKnowsThis",
            "celery.exceptions",
            json!(["a", 1]),
        ),
        (
            "unknown module",
            "ExchangeError",
            "celery.exceptions",
            json!([{"code": -1003}]),
        ),
    ] {
        let seen = &raised[label];
        assert_eq!(seen["type"], kind, "{label} {about}: {seen}");
        assert_eq!(
            (&seen["module"], &seen["args"]),
            (&json!(module), &args),
            "{label} {about}: {seen}"
        );
        assert!(
            seen["bases"]
                .as_array()
                .expect("bases")
                .contains(&json!("Exception")),
            "{seen}"
        );
    }
}
