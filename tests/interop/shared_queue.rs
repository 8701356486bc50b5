//! One queue for two kinds of workers: a Python worker and ours on `celery`. How they fare in numbers is in
//! [`mixed_fleet`](crate::mixed_fleet).
//!
//! A Python worker takes whatever comes first. One that does not have the warm-ups would answer them with
//! `NotRegistered`; the deployment's have them, and so has the one here wherever both serve the queue together.

use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, Signal};

use crate::fleet::{BOT_TASK, FUTURES_OK, Fleet, OURS, PATIENCE, SPOT_OK, WARMUPS, message, task_of, text};

const EACH: usize = 200;

#[tokio::test]
async fn bot_tasks_wait_untouched_for_a_python_worker_while_warm_ups_run() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let mut orders: Vec<Value> = (0..EACH)
            .flat_map(|number| [bot_order(number), warmup_order(number)])
            .collect();
        for order in &mut orders {
            order["wait"] = Value::Null;
        }
        let sent = fleet.send(&orders);
        let before = bot_messages(&fleet).await;
        assert_eq!(before.len(), EACH);

        let worker = fleet.worker();
        let warmups: Vec<String> = sent
            .iter()
            .skip(1)
            .step_by(2)
            .map(|answer| text(&answer["id"]))
            .collect();
        for (number, answer) in fleet.results(&warmups).iter().enumerate() {
            assert_eq!(answer["result"], result_of(number), "{answer}");
        }
        assert_eq!(successes(&fleet).await, EACH, "each once");
        // The same messages, byte for byte, in the same order, in the same lists; and nothing else.
        assert!(fleet.waiting().await == before, "a bot task was touched");
        assert_eq!(fleet.unacked().await, Vec::<Value>::new());

        let _python = fleet.python_worker(&[]);
        let runs = fleet.wait_for_runs(EACH).await;
        fleet.wait_until_all_is_done().await;
        let served: Vec<Value> = before
            .iter()
            .map(|raw| message(raw)["headers"]["id"].clone())
            .collect();
        let ran: Vec<Value> = runs.iter().map(|run| run["id"].clone()).collect();
        assert_eq!(ran, served, "each once, in the order of the queue");
        stop(&worker);
    }
}

#[tokio::test]
async fn warm_ups_on_a_queue_of_their_own_are_safe_from_a_python_worker_that_has_none() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _workers = (fleet.worker_on(OURS), fleet.python_worker(&[]));
        let mut orders: Vec<Value> = (0..EACH / 4)
            .flat_map(|number| [bot_order(number), warmup_order(number)])
            .collect();
        for order in orders.iter_mut().skip(1).step_by(2) {
            order["options"] = json!({"queue": OURS});
        }
        let answers = fleet.send(&orders);
        for (number, answer) in answers.iter().skip(1).step_by(2).enumerate() {
            assert_eq!(answer["result"], result_of(number), "{answer}");
        }
        assert_eq!(fleet.wait_for_runs(EACH / 4).await.len(), EACH / 4);
        fleet.wait_until_all_is_done().await;
        assert_eq!(fleet.waiting_on(OURS).await.len(), 0);
    }
}

/// Arguments that do not survive careless hands: not ASCII, large, small, nested, empty.
pub(crate) fn bot_order(number: usize) -> Value {
    json!({
        "name": BOT_TASK,
        "args": [number, "çok güzel 币安 \u{1F680} \"\\ \n", 1e-8, 12_345_678_901_234_567_890_u64, {"size": "0.10"}],
        "kwargs": {"user": null, "flags": [true, false, []], "0": {}},
        // All four lists of the queue.
        "options": {"priority": number % 10},
    })
}

pub(crate) fn warmup_order(number: usize) -> Value {
    let name = WARMUPS[number % 2];
    json!({"name": name, "wait": 60})
}

/// What our worker returns for the warm-up of this number.
fn result_of(number: usize) -> &'static str {
    [SPOT_OK, FUTURES_OK][number % 2]
}

/// Arguments as text, in which also the order of members and the spelling of numbers count.
pub(crate) fn arguments(task: &Value) -> (String, String) {
    (task["args"].to_string(), task["kwargs"].to_string())
}

/// The bot tasks' messages as they are, in the order in which they are served.
async fn bot_messages(fleet: &Fleet) -> Vec<Vec<u8>> {
    let mut messages = fleet.waiting().await;
    messages.retain(|raw| task_of(raw) == BOT_TASK);
    messages
}

/// Refreshes that our worker counted.
pub(crate) async fn successes(fleet: &Fleet) -> usize {
    let mut sum = 0;
    for market in ["spot", "futures"] {
        sum += fleet
            .number(&format!("metrics:warmup_{market}_symbols_cache:success"))
            .await;
    }
    usize::try_from(sum).expect("a small number")
}

fn stop(worker: &Process) {
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_exit(PATIENCE).code(), Some(0));
}
