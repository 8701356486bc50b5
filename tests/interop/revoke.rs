//! Revoking tasks of our worker from Python: before they are taken, while they wait, and while they run.

use serde_json::{Value, json};
use tradebot_test_support::{Python, Signal};

use crate::fleet::PATIENCE;
use crate::remote::{OURS, Remote, answer, ask, send, until};

fn revoked(outcome: &Value, reason: &str) {
    assert_eq!(outcome["state"], "REVOKED", "{outcome}");
    assert_eq!(
        outcome["exception"],
        json!({"type": "TaskRevokedError", "args": [reason]})
    );
}

#[tokio::test]
async fn a_task_is_revoked_before_it_starts_while_it_waits_and_while_it_runs() {
    for python in Python::ALL {
        let remote = Remote::start(python);
        let _worker = remote.worker(&["-c", "1"]);
        let started = "started";
        let outcomes = remote.steps(&[
            // Before it is sent.
            ask(OURS, "revoke", json!({"task_id": "before"})),
            send("tests.record", "before", json!([started]), json!({})),
            json!({"get": "before"}),
            // While it waits for its eta.
            send("tests.record", "later", json!([started]), json!({"countdown": 1000})),
            until(OURS, "scheduled", 1),
            json!({"control": "revoke", "args": ["later"]}),
            json!({"get": "later"}),
            until(OURS, "scheduled", 0),
            // While it runs: it goes on, unless it is to be terminated.
            send("tests.sleep", "runs", json!([100]), json!({})),
            until(OURS, "active", 1),
            ask(OURS, "revoke", json!({"task_id": "runs"})),
            json!({"sleep": 0.5}),
            json!({"state": "runs"}),
            until(OURS, "active", 1),
            json!({"control": "revoke", "args": ["runs"], "kwargs": {"terminate": true, "signal": "SIGKILL"}}),
            json!({"get": "runs"}),
            until(OURS, "active", 0),
            // In the queue behind another, with several at a time.
            send("tests.sleep", "busy", json!([100]), json!({})),
            send("tests.record", "queued1", json!([started]), json!({})),
            send("tests.record", "queued2", json!([started]), json!({})),
            until(OURS, "active", 1),
            json!({"control": "revoke", "args": [["queued1", "queued2"]]}),
            json!({"control": "terminate", "args": ["busy"]}),
            json!({"get": "busy"}),
            json!({"get": "queued1"}),
            json!({"get": "queued2"}),
            // A task that ended keeps its result.
            send("tests.noop", "done", json!([]), json!({})),
            json!({"get": "done"}),
            ask(OURS, "revoke", json!({"task_id": "done"})),
            json!({"state": "done"}),
            ask(OURS, "revoked", json!({})),
        ]);
        revoked(&outcomes[2], "revoked");
        revoked(&outcomes[6], "revoked");
        assert_eq!(outcomes[12], "PENDING", "it runs");
        revoked(&outcomes[15], "terminated");
        revoked(&outcomes[23], "terminated");
        revoked(&outcomes[24], "revoked");
        revoked(&outcomes[25], "revoked");
        assert_eq!(outcomes[29], "SUCCESS");
        let mut ids: Vec<&str> = answer(&outcomes[30], OURS)
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        ids.sort_unstable();
        assert_eq!(
            ids,
            ["before", "busy", "done", "later", "queued1", "queued2", "runs"]
        );
        assert!(
            remote.starts(started).await.is_empty(),
            "none of them was started"
        );
        let unacked: usize = remote.redis(redis::cmd("HLEN").arg("unacked")).await;
        let queued: usize = remote.redis(redis::cmd("LLEN").arg("celery")).await;
        assert_eq!((unacked, queued), (0, 0), "all of them are acknowledged");
    }
}

#[tokio::test]
async fn tasks_are_revoked_by_their_stamps() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let _worker = remote.worker(&["-c", "2"]);
    let stamped = |value: Value, more: Value| {
        let mut options = more;
        options["headers"] = json!({"stamped_headers": ["run"], "stamps": {"run": value}});
        options
    };
    let revoke = |terminate: bool| {
        let arguments = json!({"headers": {"run": ["x"]}, "terminate": terminate});
        ask(OURS, "revoke_by_stamped_headers", arguments)
    };
    let outcomes = remote.steps(&[
        send(
            "tests.noop",
            "later",
            json!([]),
            stamped(json!("x"), json!({"countdown": 1000})),
        ),
        until(OURS, "scheduled", 1),
        send(
            "tests.sleep",
            "runs",
            json!([100]),
            stamped(json!(["w", "x"]), json!({})),
        ),
        send(
            "tests.sleep",
            "other",
            json!([100]),
            stamped(json!("y"), json!({})),
        ),
        until(OURS, "active", 2),
        revoke(false),
        json!({"get": "later"}),
        until(OURS, "active", 2),
        revoke(true),
        json!({"get": "runs"}),
        send("tests.noop", "after", json!([]), stamped(json!("x"), json!({}))),
        json!({"get": "after"}),
        until(OURS, "active", 1),
        ask(OURS, "revoke", json!({"task_id": "other", "terminate": true})),
        json!({"get": "other"}),
    ]);
    revoked(&outcomes[6], "revoked");
    revoked(&outcomes[9], "terminated");
    revoked(&outcomes[11], "revoked");
    revoked(&outcomes[14], "terminated");
    assert_eq!(
        answer(&outcomes[8], OURS)["ok"],
        "headers defaultdict(<class 'set'>, {'run': {'x'}}) revoked"
    );
}

#[tokio::test]
async fn what_was_revoked_outlives_the_worker_in_its_state_file() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pattern = directory.path().join("%n-%h.state");
    let args = ["-c", "1", "--statedb", pattern.to_str().expect("a UTF-8 path")];
    let worker = remote.worker(&args);
    remote.steps(&[ask(OURS, "revoke", json!({"task_id": ["killed", "other"]}))]);
    // Not even its last breath is needed for it.
    worker.signal(Signal::SIGKILL);
    worker.wait_exit(PATIENCE);
    assert!(directory.path().join("ours-tests.state").is_file());

    let worker = remote.worker(&args);
    let outcomes = remote.steps(&[
        send("tests.noop", "killed", json!([]), json!({})),
        json!({"get": "killed"}),
        ask(OURS, "revoke", json!({"task_id": "third"})),
    ]);
    revoked(&outcomes[1], "revoked");
    worker.signal(Signal::SIGTERM);
    assert!(worker.wait_exit(PATIENCE).success());

    let _worker = remote.worker(&args);
    let outcomes = remote.steps(&[ask(OURS, "revoked", json!({}))]);
    assert_eq!(answer(&outcomes[0], OURS), &json!(["killed", "other", "third"]));
}
