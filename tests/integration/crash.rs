//! kill -9: a claimed message stays where Celery's own transport recovers it.

use std::time::Duration;

use redis::AsyncCommands;
use serde_json::Value;
use tokio::time::Instant;
use tradebot_base::market::Market;
use tradebot_test_support::{Process, Reply, Signal, eventually, stretched};

use crate::world::{Lists, PATIENCE, QUEUE, World, good_list, now, path, warmup};

const SPOT: Market = Market::Spot;

fn kill(worker: &Process) {
    worker.signal(Signal::SIGKILL);
    worker.wait_exit(PATIENCE);
}

/// Does what kombu does with deliveries whose worker is gone: puts each message back to its queue.
async fn restore_unacked(world: &World) {
    let mut db = world.db();
    for (tag, record) in world.unacked().await {
        let [message, _, queue]: [Value; 3] = serde_json::from_str(&record).expect("kombu's triple");
        let queue = queue.as_str().expect("a routing key");
        let mut restore = redis::pipe();
        restore.atomic().rpush(queue, message.to_string());
        restore.hdel("unacked", &tag).zrem("unacked_index", &tag);
        let restored: Result<(), _> = restore.query_async(&mut db).await;
        restored.expect("a restored message");
    }
}

#[tokio::test]
async fn a_message_whose_worker_is_killed_is_in_unacked_as_kombu_would_have_it() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let worker = world.start_worker(&[]);
    let started = now().timestamp();
    let sent = world.enqueue(warmup(SPOT)).await;
    world.asked(SPOT, 1).await;
    kill(&worker);

    let unacked = world.unacked().await;
    let (tag, record) = unacked.iter().next().expect("a delivery");
    assert_eq!(unacked.len(), 1);
    assert_eq!(*record, format!(r#"[{}, "", "celery"]"#, sent.to_json()));
    let index: Vec<(String, f64)> = world
        .db()
        .zrange_withscores("unacked_index", 0, -1)
        .await
        .expect("a sorted set");
    let [(indexed, taken_at)] = index.as_slice() else {
        panic!("{index:?}")
    };
    assert_eq!(indexed, tag);
    let present = started as f64..=now().timestamp() as f64 + 1.0;
    assert!(present.contains(taken_at), "{taken_at} is not in {present:?}");
    assert_eq!(world.waiting(QUEUE).await, [""; 0]);
    assert_eq!(world.lists(SPOT).await, Lists::NONE);
    assert_eq!(world.errors(SPOT).await, 0);
    assert_eq!(world.stored(sent.id()).await, None);
}

#[tokio::test]
async fn a_message_restored_after_a_kill_is_run_by_the_next_worker() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let worker = world.start_worker(&[]);
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.asked(SPOT, 1).await;
    kill(&worker);
    restore_unacked(&world).await;
    world.exchange_lists(SPOT);
    let _next = world.start_worker(&[]);
    assert_eq!(world.ended(&id).await["result"], "WARMUP_OK:2");
    assert!(world.unacked().await.is_empty());
}

#[tokio::test]
async fn the_messages_of_a_killed_worker_are_run_by_another_one_within_seconds() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let killed = world.start_worker(&["-n", "killed"]);
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.asked(SPOT, 1).await;
    let other = world.start_worker(&["-n", "other"]);
    world.exchange_lists(SPOT);
    let killed_at = Instant::now();
    kill(&killed);
    assert_eq!(world.ended(&id).await["result"], "WARMUP_OK:2");
    let took = killed_at.elapsed();
    assert!(took < stretched(Duration::from_secs(15)), "{took:?}");
    other.wait_for_line("restored the messages of a worker that is gone", PATIENCE);
    assert!(world.unacked().await.is_empty());
}

#[tokio::test]
async fn a_late_settlement_does_not_touch_the_delivery_of_the_next_holder() {
    let world = World::new().await;
    world.exchange.always(
        path(SPOT),
        Reply::json(good_list()).delay(Duration::from_millis(700)),
    );
    let slow = world.start_worker(&["-n", "slow"]);
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.asked(SPOT, 1).await;
    // Another worker takes the slow one for dead, and the next holder is slow too.
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let next = world.start_worker(&["-n", "next"]);
    restore_unacked(&world).await;
    world.asked(SPOT, 2).await;
    let tag_of_next: Vec<String> = world.unacked().await.into_keys().collect();
    assert_eq!(world.result(&id, "SUCCESS").await["result"], "WARMUP_OK:2");
    slow.wait_for_line("the delivery was not held any more", PATIENCE);
    assert_eq!(world.unacked().await.into_keys().collect::<Vec<_>>(), tag_of_next);
    drop(next);
}

#[tokio::test]
async fn no_message_is_lost_however_often_the_worker_is_killed() {
    const MESSAGES: usize = 60;
    const KILLS: usize = 12;
    let world = World::new().await;
    world.exchange.always(
        path(SPOT),
        Reply::json(good_list()).delay(Duration::from_millis(15)),
    );
    let mut ids = Vec::new();
    for _ in 0..MESSAGES {
        ids.push(world.enqueue(warmup(SPOT)).await.id().to_owned());
    }
    let mut left_over = 0;
    for round in 0..KILLS {
        let worker = world.start_worker(&["-c", "3"]);
        // At different points of the work: before the first answer, after it, in the third.
        let asked = world.exchange.count(path(SPOT));
        let line = format!("{} requests", round % 4);
        eventually(&line, PATIENCE, async || {
            (world.exchange.count(path(SPOT)) >= asked + round % 4).then_some(())
        })
        .await;
        kill(&worker);
        left_over += assert_each_is_somewhere(&world, &ids).await;
        restore_unacked(&world).await;
    }
    assert!(left_over > 0, "no kill has hit a running task");
    let _last = world.start_worker(&["-c", "3"]);
    for id in &ids {
        assert_eq!(world.ended(id).await["status"], "SUCCESS");
    }
    assert!(world.unacked().await.is_empty());
    assert_eq!(world.waiting(QUEUE).await, [""; 0]);
}

/// Every message is either done, or in its queue, or in `unacked`, and in one of them only. Returns how many
/// are in `unacked`.
async fn assert_each_is_somewhere(world: &World, ids: &[String]) -> usize {
    let queued = world.waiting(QUEUE).await.join("\n");
    let unacked = world.unacked().await;
    let held = unacked.values().cloned().collect::<Vec<_>>().join("\n");
    for id in ids {
        let done = world
            .stored(id)
            .await
            .is_some_and(|result| result["status"] == "SUCCESS");
        let places = [done, queued.contains(id.as_str()), held.contains(id.as_str())];
        let count = places.iter().filter(|place| **place).count();
        assert_eq!(count, 1, "{id}: done, queued, held: {places:?}");
    }
    let index: usize = world.db().zcard("unacked_index").await.expect("a sorted set");
    assert_eq!(index, unacked.len());
    unacked.len()
}
