//! Flower shows our worker as it shows a Python worker: over its API, and on its pages in a real browser.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, RedisServer, bin, free_port};

use crate::fleet::text;

const OURS: &str = "ours@lab";
const PYTHON: &str = "python@lab";

/// What `flower_pages.py` saw of a worker of each kind.
fn look() -> Value {
    let python = Python::CELERY_NEWEST;
    let redis = RedisServer::start();
    let url = redis.url();
    let env = [
        ("CELERY_BROKER_URL", url.as_str()),
        ("CELERY_RESULT_BACKEND", url.as_str()),
        ("REDIS_URL", url.as_str()),
        ("FLOWER_UNAUTHENTICATED_API", "true"),
    ];
    let port = free_port();
    let flower = format!("http://127.0.0.1:{port}");
    let port = format!("--port={port}");
    let worker = [
        "-A",
        "tests_app",
        "worker",
        "--concurrency",
        "1",
        "-n",
        PYTHON,
        "-Q",
        "python",
    ];
    let _processes: [Process; 3] = [
        python.celery(&["-A", "tests_app", "flower", "--address=127.0.0.1", &port], &env),
        python.celery(&[&worker[..], &["-E"]].concat(), &env),
        Process::builder(bin("test-worker"))
            .args(["-E", "-n", OURS, "-Q", "ours", "-c", "2"])
            .envs(env)
            .spawn(),
    ];
    python.script_within(
        Duration::from_secs(150),
        "flower_pages.py",
        &[&flower, OURS, PYTHON],
        &env,
    )
}

#[test]
fn flower_shows_our_worker_and_its_tasks_as_it_shows_pythons() {
    let report = look();
    for (page, status) in report["pages"].as_object().expect("pages") {
        assert_eq!(*status, 200, "{page}");
    }
    compare_tasks(&report);
    for name in ["status", "active", "processed", "freq"] {
        let of = |node: &str| &report["workers"][node][name];
        assert_eq!(of(OURS), of(PYTHON), "{name}: {}", report["workers"]);
    }
    assert_eq!(report["workers"][OURS]["sw_ident"], "tradebot-symbols");
    assert_eq!(report["metrics"][OURS], report["metrics"][PYTHON]);
    let succeeded = r#"flower_events_total{task="tests.add",type="task-succeeded",}"#;
    assert_eq!(report["metrics"][OURS][succeeded], 1.0, "{}", report["metrics"]);
    look_at_pages(&report);
}

fn compare_tasks(report: &Value) {
    for (label, ids) in report["tasks"].as_object().expect("labels") {
        let of = |node: &str| {
            let id = text(&ids[node]);
            let mut task = report["api"][&id].clone();
            assert_eq!(task["worker"].take(), node);
            for (name, value) in task.as_object_mut().expect("a task") {
                match name.as_str() {
                    // The task's own, and a traceback with Python's lines.
                    "uuid" | "clock" | "traceback" => *value = json!(!value.is_null()),
                    "root_id" | "parent_id" | "root" | "parent" => {
                        *value = json!(value.as_str() == Some(&id));
                    }
                    "children" => *value = json!(value.as_array().map(Vec::len)),
                    // Chance decides whether a retry waits.
                    "eta" if label == "retry" => *value = Value::Null,
                    "eta" => *value = json!(!value.is_null()),
                    // A time, or there is none.
                    _ if value.is_f64() => *value = json!("time"),
                    _ => {}
                }
            }
            task
        };
        assert_eq!(of(OURS), of(PYTHON), "{label}");
    }
    let states = |label: &str| text(&report["api"][text(&report["tasks"][label][OURS])]["state"]);
    assert_eq!(states("success"), "SUCCESS");
    assert_eq!(states("failure"), "FAILURE");
    assert_eq!(states("retry"), "SUCCESS");
    assert_eq!(states("expired"), "REVOKED");
    assert_eq!(states("scheduled"), "RECEIVED");
}

/// What a person sees in the browser.
fn look_at_pages(report: &Value) {
    let browser = &report["browser"];
    assert_eq!(browser["complaints"], json!([]));
    let cells = |row: &Value| -> Vec<String> { row.as_array().expect("cells").iter().map(text).collect() };
    let rows = |table: &str| {
        browser[table]
            .as_array()
            .expect("rows")
            .iter()
            .map(cells)
            .collect::<Vec<_>>()
    };
    let mut workers: BTreeMap<String, Vec<String>> = rows("workers")
        .into_iter()
        .map(|mut row| (row.remove(0), row))
        .collect();
    for row in workers.values_mut() {
        // The last column is the machine's load.
        let load = row.pop().expect("a load");
        assert_eq!(
            load.split_whitespace()
                .filter_map(|load| load.parse::<f64>().ok())
                .count(),
            3,
            "{load}"
        );
    }
    assert_eq!(workers[OURS], workers[PYTHON]);
    assert_eq!(workers[OURS][0], "Online");

    let listed = rows("tasks");
    for ids in report["tasks"].as_object().expect("labels").values() {
        let row = |node: &str| {
            let id = text(&ids[node]);
            let found = listed.iter().find(|row| row.contains(&id));
            let found = found.unwrap_or_else(|| panic!("{id} is not listed: {listed:#?}"));
            // Name and state; beside them stand the id, times and the worker.
            assert!(found.contains(&node.to_owned()), "{found:?}");
            (found[0].clone(), found[2].clone())
        };
        assert_eq!(row(OURS), row(PYTHON));
    }
    assert_eq!(browser["revoked"][OURS], json!(["REVOKED", "REVOKED"]));
    assert_eq!(browser["revoked"][OURS], browser["revoked"][PYTHON]);
    for (node, queue) in [(OURS, "ours"), (PYTHON, "python")] {
        let page = text(&browser["worker"][node]);
        for shown in [node, queue, "tests.retry", "redis"] {
            assert!(page.contains(shown), "{shown}: {page}");
        }
    }
    let page = |label: &str| text(&browser["task"][label]);
    for shown in ["tests.echo", "SUCCESS", OURS, "it\\'s <b>text</b>"] {
        assert!(page("text").contains(shown), "{shown}: {}", page("text"));
    }
    for shown in ["tests.fail", "FAILURE", "ValueError('boom')", "ValueError: boom"] {
        assert!(page("failure").contains(shown), "{shown}: {}", page("failure"));
    }
}
