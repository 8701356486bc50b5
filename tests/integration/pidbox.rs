//! What remote control leaves in Redis: nothing that lasts, even after a client or worker dies.

use std::time::Duration;

use futures_util::StreamExt;
use redis::AsyncCommands;
use serde_json::json;
use tradebot_test_support::eventually;
use tradebot_wire::keys::Keys;
use tradebot_wire::pidbox::{EXCHANGE, PidboxMessage, REPLY_EXCHANGE};

use crate::world::{PATIENCE, World};

#[tokio::test]
async fn an_answer_that_is_not_read_is_gone_after_a_minute() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    worker.wait_for_line("remote control ready", PATIENCE);
    let keys = Keys::default();
    let queue = format!("asker.{REPLY_EXCHANGE}");
    let mut redis = world.db();
    let bound: Result<u64, _> = redis
        .sadd(
            keys.binding(REPLY_EXCHANGE, false),
            keys.binding_member("asker", "", &queue),
        )
        .await;
    bound.expect("a binding");
    let body = json!({
        "method": "ping", "arguments": {}, "ticket": "t",
        "reply_to": {"exchange": REPLY_EXCHANGE, "routing_key": "asker"},
    });
    let ping = json!({"body": body.to_string(), "headers": {}, "properties": {}}).to_string();
    let heard: Result<u64, _> = redis.publish(keys.channel(0, EXCHANGE), ping).await;
    assert_eq!(heard.expect("a publication"), 1);
    eventually("an answer", PATIENCE, async || {
        (world.waiting(&queue).await.len() == 1).then_some(())
    })
    .await;
    let kept: i64 = redis.ttl(&queue).await.expect("an answer");
    assert!((1..=60).contains(&kept), "{kept} s");
}

/// kombu 5.7 sweeps out bindings past their deadline.
#[tokio::test]
async fn the_binding_of_a_worker_that_dies_is_swept_out_after_an_hour() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    worker.wait_for_line("remote control ready", PATIENCE);
    let mut redis = world.db();
    let deadline: f64 = redis
        .zscore(Keys::default().binding_deadlines(), EXCHANGE)
        .await
        .expect("a deadline");
    let (seconds, _): (f64, u64) = redis::cmd("TIME").query_async(&mut redis).await.expect("a time");
    let left = deadline / 1_000.0 - seconds;
    assert!((0.0..=3_601.0).contains(&left), "{left} s");
}

/// The limit is below ten times the second of Celery's mingle, even with `TEST_PATIENCE=3`.
#[tokio::test]
async fn a_neighbor_that_does_not_reply_delays_a_worker_by_a_second() {
    let world = World::new().await;
    let client = redis::Client::open(world.redis.url()).expect("a URL");
    let mut silent = client.get_async_pubsub().await.expect("a connection");
    let channel = Keys::default().channel(0, EXCHANGE);
    silent.subscribe(channel).await.expect("a subscription");
    let worker = world.worker(&[]).spawn();
    worker.wait_for_line("mingle: searching for neighbors", PATIENCE);
    worker.wait_for_line("mingle: all alone", Duration::from_secs(3));
    let hello = silent.on_message().next().await.expect("a hello");
    let hello = PidboxMessage::parse(hello.get_payload_bytes()).expect("a message");
    assert_eq!(hello.body["method"], "hello");
}
