//! Limits, queues and the pool, changed while the worker runs.

use serde_json::{Value, json};
use tradebot_test_support::Python;

use crate::remote::{OURS, Remote, answer, ask, send, until};

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
        ask(OURS, "pool_grow", json!({"n": 1_000_000})),
        ask(OURS, "stats", json!({})),
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
    assert_eq!(pool(&outcomes[29]), json!(10_000), "no pool is larger");
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
