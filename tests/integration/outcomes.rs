//! Messages that do not simply run: too late, too early, unreadable, wrong, or given up.

use base64::prelude::{BASE64_STANDARD, Engine};
use chrono::TimeDelta;
use futures_util::StreamExt;
use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::{Reply, eventually, stretched};
use tradebot_wire::keys::task_meta;

use crate::world::{MAX_RETRIES, PATIENCE, QUEUE, World, connected, now, path, tried, warmup};

const SPOT: Market = Market::Spot;
const PARKED: &str = "tradebot-symbols:parked";

async fn with_worker() -> (World, tradebot_test_support::Process) {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let worker = world.start_worker(&[]);
    (world, worker)
}

#[tokio::test]
async fn an_expired_message_is_revoked_and_not_run() {
    let (world, _worker) = with_worker().await;
    let mut task = warmup(SPOT);
    task.expires = Some(now() - TimeDelta::seconds(1));
    let id = world.enqueue(task).await.id().to_owned();
    let result = world.ended(&id).await;
    assert_eq!(result["status"], "REVOKED");
    let revoked = json!({"exc_type": "TaskRevokedError", "exc_message": ["expired"], "exc_module": "celery.exceptions"});
    assert_eq!(result["result"], revoked);
    assert!(world.unacked().await.is_empty());
    assert_eq!(world.exchange.requests(), []);
}

#[tokio::test]
async fn a_message_with_an_eta_is_not_run_before_it_and_then_is() {
    let (world, _worker) = with_worker().await;
    let mut task = warmup(SPOT);
    let eta = now() + TimeDelta::milliseconds(2500);
    task.eta = Some(eta);
    let sent = world.enqueue(task).await;
    // Taken at once, and held where a crash leaves it to be found.
    let held = eventually("the message in unacked", PATIENCE, async || {
        world.unacked().await.into_values().next()
    })
    .await;
    assert_eq!(held, format!(r#"[{}, "", "celery"]"#, sent.to_json()));
    assert!(now() < eta, "too slow to tell");
    assert_eq!(world.exchange.requests(), []);
    world.asked(SPOT, 1).await;
    assert!(now() >= eta);
    assert_eq!(world.ended(sent.id()).await["result"], "WARMUP_OK:2");
}

#[tokio::test]
async fn waiting_for_an_eta_takes_no_slot() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&["-c", "1"]);
    for _ in 0..3 {
        let mut task = warmup(SPOT);
        task.eta = Some(now() + TimeDelta::hours(1));
        world.enqueue(task).await;
    }
    assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS");
    assert_eq!(world.unacked().await.len(), 3);
}

#[tokio::test]
async fn what_cannot_be_read_is_set_aside_with_the_reason() {
    let (world, worker) = with_worker().await;
    let ours = |body: &str, content_type: &str| {
        json!({"body": body, "content-type": content_type, "content-encoding": "utf-8",
            "headers": {"task": SPOT.warmup_task(), "id": "unreadable"},
            "properties": {"body_encoding": "base64"}})
        .to_string()
        .into_bytes()
    };
    let eta = json!({"body": "W1tdLHt9LG51bGxd", "headers": {"task": SPOT.warmup_task(), "id": "late", "eta": "soon"},
        "properties": {"body_encoding": "base64"}});
    let no_id = json!({"headers": {"task": SPOT.warmup_task(), "id": ""}});
    let cut = format!(r#"{{"headers": {{"task": "{}", "id": "cut"#, SPOT.warmup_task());
    let cases: [(Vec<u8>, &str); 6] = [
        (no_id.to_string().into_bytes(), "`id`"),
        (cut.into_bytes(), "not JSON"),
        (ours("*not base64*", "application/json"), "not base64"),
        (
            ours("gASVCQ==", "application/x-python-serialize"),
            "`application/x-python-serialize` is refused",
        ),
        (
            ours(&BASE64_STANDARD.encode("[[], {}"), "application/json"),
            "body is not JSON",
        ),
        (eta.to_string().into_bytes(), "`eta`"),
    ];
    for (number, (raw, reason)) in cases.iter().enumerate() {
        world.push(QUEUE, raw).await;
        let parked = eventually(reason, PATIENCE, async || {
            let parked = world.waiting(PARKED).await;
            (parked.len() == number + 1).then(|| parked[number].clone())
        })
        .await;
        let entry: Value = serde_json::from_str(&parked).expect("JSON");
        assert!(
            entry["reason"].as_str().is_some_and(|text| text.contains(reason)),
            "{entry}"
        );
        assert_eq!((&entry["queue"], &entry["list"]), (&json!(QUEUE), &json!(QUEUE)));
        assert_eq!(entry["message"].as_str().map(str::as_bytes), Some(raw.as_slice()));
        worker.wait_for_nth_line("parked a message", number + 1, PATIENCE);
    }
    assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS");
    assert_eq!(world.waiting(QUEUE).await, [""; 0]);
    assert!(world.unacked().await.is_empty());
}

#[tokio::test]
async fn arguments_that_the_task_does_not_take_fail_it_as_a_python_call_would() {
    let (world, _worker) = with_worker().await;
    let name = "warmup_spot_symbols_cache()";
    let mut positional = warmup(SPOT);
    positional.body.args = vec![json!(1)];
    let mut keyword = warmup(SPOT);
    keyword.body.kwargs.insert("force".into(), json!(true));
    let cases = [
        (
            positional,
            format!("{name} takes 0 positional arguments but 1 was given"),
        ),
        (
            keyword,
            format!("{name} got an unexpected keyword argument 'force'"),
        ),
    ];
    for (task, text) in cases {
        let id = world.enqueue(task).await.id().to_owned();
        let result = world.ended(&id).await;
        let error = json!({"exc_type": "TypeError", "exc_message": [text], "exc_module": "builtins"});
        assert_eq!(
            (&result["status"], &result["result"]),
            (&json!("FAILURE"), &error)
        );
    }
    assert_eq!(world.exchange.requests(), []);
    assert!(world.unacked().await.is_empty());
}

#[tokio::test]
async fn the_last_of_all_tries_fails_for_good() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::status(404, ""));
    let _worker = world.start_worker(&[]);
    let (id, result) = world.run_last_try(SPOT).await;
    assert_eq!(result["status"], "FAILURE");
    assert_eq!(result["result"]["exc_type"], "RuntimeError");
    assert_eq!(result["result"]["exc_module"], "builtins");
    assert_eq!(result["task_id"], json!(id));
    let traceback = result["traceback"].as_str().expect("a text");
    assert!(
        traceback.starts_with("Traceback (most recent call last):\n")
            && traceback.contains("RuntimeError: cannot fetch the spot list")
    );
    assert!(
        result["date_done"]
            .as_str()
            .is_some_and(|time| time.ends_with("+00:00"))
    );
    assert_eq!(world.waiting(QUEUE).await, [""; 0]);
    assert!(world.unacked().await.is_empty());
    let ttl: i64 = world.db().ttl(task_meta("", &id)).await.expect("a TTL");
    assert!((86_000..=86_400).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn an_ignored_result_is_not_stored() {
    let (world, worker) = with_worker().await;
    let mut task = warmup(SPOT);
    task.headers.insert("ignore_result".into(), json!(true));
    let id = world.enqueue(task).await.id().to_owned();
    worker.wait_for_line("task succeeded", PATIENCE);
    assert_eq!(world.stored(&id).await, None);
    assert!(world.unacked().await.is_empty());
    assert_eq!(world.lists(SPOT).await.successes, 1);
}

#[tokio::test]
async fn the_limits_of_a_message_may_be_fractions_or_absent() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let _worker = world.start_worker(&[]);
    let cases = [
        (json!([0.3, null]), "TimeLimitExceeded", json!([0.3])),
        (json!([null, 0.2]), "SoftTimeLimitExceeded", json!([])),
        (json!([5, 0.25]), "SoftTimeLimitExceeded", json!([])),
    ];
    for (limits, exception, arguments) in cases {
        let mut task = tried(warmup(SPOT), MAX_RETRIES);
        task.headers.insert("timelimit".into(), limits.clone());
        let id = world.enqueue(task).await.id().to_owned();
        let result = world.ended(&id).await;
        let error =
            json!({"exc_type": exception, "exc_message": arguments, "exc_module": "billiard.exceptions"});
        assert_eq!(
            (&result["status"], &result["result"]),
            (&json!("FAILURE"), &error),
            "{limits}"
        );
    }
    world.exchange_lists(SPOT);
    for limits in [json!([null, null]), json!(null), json!([]), json!([1e12, 0])] {
        let mut task = warmup(SPOT);
        task.headers.insert("timelimit".into(), limits.clone());
        let id = world.enqueue(task).await.id().to_owned();
        assert_eq!(world.ended(&id).await["status"], "SUCCESS", "{limits}");
    }
}

#[tokio::test]
async fn the_limits_of_the_worker_apply_to_messages_without_any() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let worker = world
        .worker(&[])
        .env("CELERY_TASK_TIME_LIMIT", "0.5")
        .env("CELERY_TASK_SOFT_TIME_LIMIT", "0");
    let _worker = connected(worker);
    let (_, result) = world.run_last_try(SPOT).await;
    assert_eq!(result["result"]["exc_type"], "TimeLimitExceeded", "{result}");
    assert_eq!(result["result"]["exc_message"], json!([0.5]));
}

#[tokio::test]
async fn a_stored_success_is_never_replaced() {
    let (world, worker) = with_worker().await;
    let sent = world.enqueue(warmup(SPOT)).await;
    world.result(sent.id(), "SUCCESS").await;
    let stored = world.get(&task_meta("", sent.id())).await;
    // The same message comes again, as after a restore that was not needed, and fails this time.
    world.exchange.always(path(SPOT), Reply::status(404, ""));
    let again = tried(warmup(SPOT), MAX_RETRIES)
        .into_envelope("gen1@tests", now())
        .to_json();
    let id_again = again
        .split(r#""id": ""#)
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("an id")
        .to_owned();
    world.push(QUEUE, again.replace(&id_again, sent.id())).await;
    worker.wait_for_line("task failed", PATIENCE);
    eventually("its acknowledgement", PATIENCE, async || {
        world.unacked().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(world.get(&task_meta("", sent.id())).await, stored);
    assert_eq!(world.errors(SPOT).await, 1);
}

#[tokio::test]
async fn a_result_is_announced_on_the_channel_of_its_key() {
    let (world, _worker) = with_worker().await;
    let client = redis::Client::open(world.redis.url()).expect("a valid URL");
    let mut listener = client.get_async_pubsub().await.expect("a connection");
    let mut task = warmup(SPOT);
    task.id = "announced".into();
    listener
        .subscribe(task_meta("", &task.id))
        .await
        .expect("a subscription");
    world.enqueue(task).await;
    let mut messages = listener.on_message();
    let announced = tokio::time::timeout(stretched(PATIENCE), messages.next())
        .await
        .expect("an announcement")
        .expect("an open channel");
    let text: String = announced.get_payload().expect("a text");
    assert_eq!(world.get(&task_meta("", "announced")).await, Some(text));
}

#[tokio::test]
async fn results_may_be_kept_for_another_time_or_for_ever() {
    for (expires, range) in [("60", 30..=60), ("0", -1..=-1)] {
        let world = World::new().await;
        world.exchange_lists(SPOT);
        let _worker = connected(world.worker(&[]).env("CELERY_RESULT_EXPIRES", expires));
        let (id, _) = world.run_last_try(SPOT).await;
        let ttl: i64 = world.db().ttl(task_meta("", &id)).await.expect("a TTL");
        assert!(range.contains(&ttl), "{expires}: {ttl}");
    }
}
