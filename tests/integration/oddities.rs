//! Single odd messages and rights that once stopped a worker, or cost a message.

use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::{Process, Reply, eventually};

use crate::world::{PATIENCE, QUEUE, World, connected, embedding, good_list, now, path, task, warmup};

const SPOT: Market = Market::Spot;

async fn with_worker() -> (World, Process) {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let worker = world.start_worker(&["-c", "1"]);
    (world, worker)
}

async fn parked(world: &World) -> Vec<Value> {
    let entries = world.waiting("tradebot-symbols:parked").await;
    entries
        .iter()
        .map(|entry| serde_json::from_str(entry).expect("an entry is JSON"))
        .collect()
}

#[tokio::test]
async fn a_follow_up_for_a_key_that_is_no_list_is_parked_and_the_worker_goes_on() {
    let (world, _worker) = with_worker().await;
    world.set("occupied", "text").await;
    let link = json!([{"task": "tests.next", "args": [], "kwargs": {}, "options": {"queue": "occupied", "task_id": "n"},
        "subtask_type": null, "immutable": false}]);
    let id = world
        .enqueue(embedding(warmup(SPOT), "callbacks", link))
        .await
        .id()
        .to_owned();
    assert_eq!(world.ended(&id).await["status"], "SUCCESS");
    let parked = parked(&world).await;
    let message: Value =
        serde_json::from_str(parked[0]["message"].as_str().expect("text")).expect("a message");
    assert_eq!((&message["headers"]["id"], parked.len()), (&json!("n"), 1));
    assert!(
        parked[0]["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("`occupied`")),
        "{}",
        parked[0]
    );
    assert_eq!(world.get("occupied").await.as_deref(), Some("text"));
    assert!(world.unacked().await.is_empty());
    assert_eq!(
        world.run_last_try(SPOT).await.1["status"],
        "SUCCESS",
        "the next one"
    );
}

#[tokio::test]
async fn a_user_that_may_not_publish_loses_no_retry_and_is_told() {
    let world = World::new().await;
    world.exchange.reply(path(SPOT), Reply::status(400, "{}"));
    world.exchange.reply(path(SPOT), Reply::json(good_list()));
    let rules = ["SETUSER", "mute", "on", ">secret", "~*", "resetchannels", "+@all"];
    let set: Result<String, _> = redis::cmd("ACL").arg(&rules).query_async(&mut world.db()).await;
    set.expect("a user");
    let url = format!("redis://mute:secret@127.0.0.1:{}/0", world.redis.port());
    let worker = world
        .worker(&["-c", "1"])
        .env("CELERY_BROKER_URL", &url)
        .env("CELERY_RESULT_BACKEND", &url);
    let worker = connected(worker);
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    assert_eq!(
        world.result(&id, "SUCCESS").await["status"],
        "SUCCESS",
        "after the retry"
    );
    worker.wait_for_line("stored but not announced", PATIENCE);
    assert!(world.unacked().await.is_empty());
}

#[tokio::test]
async fn a_foreign_task_whose_name_is_no_text_does_not_hide_ours() {
    let (world, _worker) = with_worker().await;
    let foreign = [
        br#"{"headers": {"id": "x", "task": "a"#.as_slice(),
        &[0xff],
        br#""}}"#,
    ]
    .concat();
    world.push(QUEUE, &foreign).await;
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    assert_eq!(world.ended(&id).await["status"], "SUCCESS");
    let left: Vec<Vec<u8>> = world.db().lrange(QUEUE, 0, -1).await.expect("a list");
    assert_eq!(left, [foreign]);
}

#[tokio::test]
async fn an_invalid_time_is_parked_with_its_text_and_kills_no_worker() {
    let (world, worker) = with_worker().await;
    for (header, text) in [("eta", "2026-11-23T10:38:55+1é1"), ("expires", "soon")] {
        let mut odd = warmup(SPOT).into_envelope("gen1@tests", now());
        odd.set_header(header, json!(text));
        world.push(QUEUE, odd.to_json()).await;
    }
    let entries = eventually("two parked messages", PATIENCE, async || {
        Some(parked(&world).await).filter(|entries| entries.len() == 2)
    })
    .await;
    for (entry, header) in entries.iter().zip(["eta", "expires"]) {
        let reason = entry["reason"].as_str().expect("a reason");
        assert!(reason.contains(&format!("`{header}`")), "{reason}");
    }
    assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS");
    assert!(worker.is_running());
}

#[tokio::test]
async fn what_was_claimed_together_with_an_unreadable_message_runs() {
    let (world, _worker) = with_worker().await;
    world.push(QUEUE, "no message").await;
    let foreign = world.enqueue(task("tests.of_others")).await;
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    assert_eq!(world.ended(&id).await["status"], "SUCCESS");
    assert_eq!(parked(&world).await, [Value::Null; 0]);
    assert_eq!(world.waiting(QUEUE).await, ["no message", &foreign.to_json()]);
}

#[tokio::test]
async fn what_rust_cannot_hold_in_a_foreign_header_does_not_stop_the_task() {
    let (world, _worker) = with_worker().await;
    let message = warmup(SPOT).into_envelope("gen1@tests", now());
    let odd = r#""x-odd": ["\ud800", 1e999], "shadow""#;
    world
        .push(QUEUE, message.to_json().replacen(r#""shadow""#, odd, 1))
        .await;
    assert_eq!(world.ended(message.id()).await["status"], "SUCCESS");
    assert_eq!(parked(&world).await, [Value::Null; 0]);
    assert!(world.unacked().await.is_empty());
}
