//! Mingle: a worker that starts gets the revoked ids of the others, between Python workers and ours in both directions.

use serde_json::json;
use tradebot_test_support::{Python, eventually};

use crate::fleet::PATIENCE;
use crate::remote::{OURS, Remote, THEIRS, answer, ask, until};

#[tokio::test]
async fn a_worker_that_starts_is_told_what_the_others_know() {
    for python in Python::ALL {
        let remote = Remote::start(python);
        let ours = remote.worker(&["-Q", "ours"]);
        remote.steps(&[ask(OURS, "revoke", json!({"task_id": "known to us"}))]);

        let theirs = remote.python_worker(&[]);
        theirs.wait_for_line("mingle: sync with 1 nodes", PATIENCE);
        theirs.wait_for_line("mingle: sync complete", PATIENCE);
        ours.wait_for_line("sync with theirs@tests", PATIENCE);
        let outcomes = remote.steps(&[
            until(THEIRS, "revoked", 1),
            ask(THEIRS, "revoke", json!({"task_id": "known to them"})),
            ask(THEIRS, "clock", json!({})),
        ]);
        let clock = answer(&outcomes[2], THEIRS)["clock"].as_u64().expect("a number");

        // Mingle waits one second for replies: a busy machine needs another try.
        let mut tries = 0;
        let third = eventually("a worker that is told by both", PATIENCE, async || {
            tries += 1;
            let worker = remote.worker_named(&format!("third{tries}@tests"), &["-Q", "third"]);
            worker.wait_for_line("mingle: sync ", PATIENCE);
            worker
                .output()
                .contains("mingle: sync with 2 nodes")
                .then_some(worker)
        })
        .await;
        let third_name = format!("third{tries}@tests");
        theirs.wait_for_line(&format!("sync with {third_name}"), PATIENCE);
        let outcomes = remote.steps(&[
            ask(&third_name, "revoked", json!({})),
            ask(&third_name, "clock", json!({})),
        ]);
        assert!(third.is_running());
        let mut known: Vec<&str> = answer(&outcomes[0], &third_name)
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|id| id.as_str())
            .collect();
        known.sort_unstable();
        assert_eq!(known, ["known to them", "known to us"]);
        assert!(answer(&outcomes[1], &third_name)["clock"].as_u64() > Some(clock));
        let left: Vec<String> = remote
            .redis(redis::cmd("KEYS").arg("*.reply.celery.pidbox"))
            .await;
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_worker_that_is_alone_does_not_wait() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let worker = remote.worker(&[]);
    worker.wait_for_line("mingle: all alone", PATIENCE);
    let silent = remote.worker_named("silent@tests", &["--without-mingle"]);
    assert!(!silent.output().contains("mingle"), "{}", silent.output());
}

/// Celery's client warns of two nodes with one name (`DuplicateNodenameWarning`); here both workers do.
#[tokio::test]
async fn two_workers_with_one_name_both_warn() {
    let remote = Remote::start(Python::CELERY_NEWEST);
    let line = "another worker has the same node name";
    let theirs = remote.python_worker(&[]);
    let ours = remote.worker_named(THEIRS, &["-Q", "ours"]);
    ours.wait_for_line(line, PATIENCE);
    let alone = remote.worker(&["-Q", "ours"]);
    alone.wait_for_line("mingle: sync ", PATIENCE);
    assert!(!alone.output().contains(line), "{}", alone.output());
    drop(ours);
    let first = remote.worker_named("twin@tests", &["-Q", "ours"]);
    first.wait_for_line("mingle: sync ", PATIENCE);
    let second = remote.worker_named("twin@tests", &["-Q", "ours"]);
    for twin in [&first, &second] {
        twin.wait_for_line(line, PATIENCE);
    }
    // Clients, too: two answers are two nodes.
    let outcomes = remote.steps(&[json!({"cli": ["inspect", "-t", "5", "ping"]})]);
    let output = outcomes[0]["output"].as_str().expect("text");
    assert!(output.contains("DuplicateNodenameWarning"), "{output}");
    assert!(theirs.is_running());
}
