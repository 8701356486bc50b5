//! One kind of worker ends and the other takes over what it held: each reads the other's `unacked` entries and
//! returned messages.

use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, Reply, Signal, eventually};

use crate::fleet::{
    Fleet, PATIENCE, PYTHON_OK, SPOT_OK, SPOT_PATH, WARMUP_SPOT, WITH_WARMUPS, message, text,
};

const VISIBILITY_TIMEOUT: f64 = 3.0;

#[tokio::test]
async fn a_warm_up_of_a_killed_worker_is_restored_and_run_by_python() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let (worker, id) = worker_in_the_middle_of_a_task(&fleet).await;
        worker.signal(Signal::SIGKILL);
        worker.wait_exit(PATIENCE);
        let timeout = wait_for_the_visibility_timeout(&fleet).await;
        let _python = fleet.python_worker(&[WITH_WARMUPS, ("VISIBILITY_TIMEOUT", &timeout)]);
        assert_run_by_python(&fleet, &id).await;
    }
}

#[tokio::test]
async fn a_warm_up_that_a_cold_stop_interrupted_is_run_by_python() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let (worker, id) = worker_in_the_middle_of_a_task(&fleet).await;
        worker.signal(Signal::SIGTERM);
        worker.wait_for_line("warm stop", PATIENCE);
        worker.signal(Signal::SIGTERM);
        assert_eq!(worker.wait_exit(PATIENCE).code(), Some(0));
        assert_given_back(&fleet, &id).await;

        let _python = fleet.python_worker(&[WITH_WARMUPS]);
        assert_run_by_python(&fleet, &id).await;
    }
}

#[tokio::test]
async fn a_warm_up_that_python_gave_back_is_run_by_us() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let theirs = fleet.python_worker(&[WITH_WARMUPS]);
        let id = held_by_python(&fleet, &theirs);
        theirs.signal(Signal::SIGTERM);
        theirs.wait_exit(PATIENCE);
        assert_given_back(&fleet, &id).await;

        let _ours = fleet.worker();
        assert_run_by_us(&fleet, id).await;
    }
}

#[tokio::test]
async fn a_warm_up_of_a_killed_python_worker_is_restored_and_run_by_us() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let theirs = fleet.python_worker(&[WITH_WARMUPS]);
        let id = held_by_python(&fleet, &theirs);
        theirs.signal(Signal::SIGKILL);
        theirs.wait_exit(PATIENCE);

        let timeout = wait_for_the_visibility_timeout(&fleet).await;
        let _ours = fleet.worker_with("celery", &[("CELERY_VISIBILITY_TIMEOUT", &timeout)]);
        assert_run_by_us(&fleet, id).await;
    }
}

/// Sends a warm-up that this worker receives and holds until its time comes.
fn held_by_python(fleet: &Fleet, worker: &Process) -> String {
    let sent = fleet.send(&[json!({"name": WARMUP_SPOT, "options": {"countdown": 6}})]);
    let id = text(&sent[0]["id"]);
    worker.wait_for_line(&format!("{id}] received"), PATIENCE);
    id
}

/// kombu restores when it starts, and then about every 100 s: waits until there is something to restore.
async fn wait_for_the_visibility_timeout(fleet: &Fleet) -> String {
    assert_eq!(fleet.unacked().await.len(), 1);
    assert!(fleet.waiting().await.is_empty(), "it is in no queue any more");
    eventually("the visibility timeout", PATIENCE, async || {
        (fleet.oldest_delivery().await > VISIBILITY_TIMEOUT).then_some(())
    })
    .await;
    VISIBILITY_TIMEOUT.to_string()
}

/// Our worker while it waits for an exchange that does not answer, and the id of the task.
async fn worker_in_the_middle_of_a_task(fleet: &Fleet) -> (Process, String) {
    fleet.exchange.always(SPOT_PATH, Reply::json("").hang());
    let worker = fleet.worker();
    let order = json!({"name": WARMUP_SPOT, "options": {"headers": {"x-trace": "41"}, "priority": 5}});
    let id = text(&fleet.send(&[order])[0]["id"]);
    eventually("a running warm-up", PATIENCE, async || {
        (fleet.exchange.count(SPOT_PATH) == 1).then_some(())
    })
    .await;
    (worker, id)
}

/// The message is back in its queue, with the marks of a redelivery where kombu puts them.
async fn assert_given_back(fleet: &Fleet, id: &str) {
    let waiting = fleet.waiting().await;
    assert_eq!(waiting.len(), 1);
    let message = message(&waiting[0]);
    assert_eq!(message["headers"]["id"], id);
    assert_eq!(message["headers"]["redelivered"], true);
    assert_eq!(message["properties"]["delivery_info"]["redelivered"], true);
    assert_eq!(fleet.unacked().await, Vec::<Value>::new());
}

async fn assert_run_by_python(fleet: &Fleet, id: &str) {
    let result = &fleet.results(&[id.to_owned()])[0];
    assert_eq!(result["result"], PYTHON_OK, "{result}");
    let runs = fleet.ran().await;
    assert_eq!(runs.len(), 1, "{runs:?}");
    let run = &runs[0];
    assert_eq!((&run["task"], &run["id"]), (&json!(WARMUP_SPOT), &json!(id)));
    assert_eq!(run["delivery_info"]["redelivered"], true, "{run}");
    assert_eq!(run["delivery_info"]["priority"], 5, "{run}");
    assert_eq!((&run["retries"], &run["root_id"]), (&json!(0), &json!(id)));
    fleet.wait_until_all_is_done().await;
}

async fn assert_run_by_us(fleet: &Fleet, id: String) {
    let result = &fleet.results(&[id])[0];
    assert_eq!(result["result"], SPOT_OK, "{result}");
    assert_eq!(fleet.exchange.count(SPOT_PATH), 1);
    assert_eq!(fleet.ran().await, Vec::<Value>::new());
    fleet.wait_until_all_is_done().await;
}
