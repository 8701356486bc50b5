//! An idle worker starts a task at once, without constant polling.

use std::future::ready;
use std::time::Duration;

use futures_util::StreamExt;
use redis::AsyncCommands;
use tokio::time::{Instant, sleep};
use tradebot_base::market::Market;
use tradebot_test_support::stretched;

use crate::queue::protocol_1;
use crate::world::{QUEUE, World, now, path, warmup};

const SPOT: Market = Market::Spot;

#[tokio::test]
async fn a_task_sent_to_an_idle_worker_starts_within_milliseconds() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    let mut waits = Vec::new();
    for number in 0..50 {
        let sent_at = Instant::now();
        let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
        while world.exchange.count(path(SPOT)) == number {
            assert!(
                sent_at.elapsed() < stretched(Duration::from_secs(10)),
                "send {number} is not picked up"
            );
            sleep(Duration::from_millis(1)).await;
        }
        waits.push(sent_at.elapsed());
        world.ended(&id).await;
    }
    waits.sort();
    let (median, worst) = (waits[waits.len() / 2], waits[waits.len() - 1]);
    println!("from sending to the exchange being asked: median {median:?}, worst {worst:?}");
    assert!(
        median < stretched(Duration::from_millis(50)),
        "median {median:?}, worst {worst:?}"
    );
}

/// Each look at a queue full of others' messages costs the server, so there is a pause between two looks. It grows with
/// the queue.
#[tokio::test]
async fn ten_thousand_messages_of_others_delay_ours_by_less_than_half_a_second() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let others = vec![r#"{"headers": {"task": "app.other", "id": "x"}}"#; 10_000];
    let pushed: Result<u64, _> = world.db().lpush(QUEUE, others).await;
    pushed.expect("pushed elements");
    let _worker = world.start_worker(&[]);
    let mut waits = Vec::new();
    for number in 0..7 {
        let sent_at = Instant::now();
        let message = warmup(SPOT).into_envelope("gen1@tests", now()).to_json();
        // At the end that is served first: what is measured is the pause and not the search.
        let pushed: Result<u64, _> = world.db().rpush(QUEUE, message).await;
        pushed.expect("a pushed element");
        world.asked(SPOT, number + 1).await;
        waits.push(sent_at.elapsed());
    }
    waits.sort();
    println!("first in a queue of ten thousand: {waits:?}");
    assert!(waits[3] < stretched(Duration::from_millis(500)), "{waits:?}");
}

#[tokio::test]
async fn the_next_task_is_not_late_after_a_message_that_had_to_be_looked_at() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    let of_celery_3 = protocol_1(SPOT.warmup_task(), "old", "tag-of-old");
    let of_others = protocol_1("app.other", "other", "tag-of-other");
    for unclear in ["not JSON", &of_celery_3, &of_others] {
        // Long enough for the worker to be waiting for a change, before and after.
        sleep(Duration::from_millis(200)).await;
        world.push(QUEUE, unclear).await;
        sleep(Duration::from_millis(200)).await;
        let sent_at = Instant::now();
        let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
        world.ended(&id).await;
        let took = sent_at.elapsed();
        assert!(
            took < stretched(Duration::from_secs(2)),
            "{took:?} after {unclear}"
        );
    }
}

#[tokio::test]
async fn an_idle_worker_leaves_redis_alone() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    world.run_last_try(SPOT).await;
    // Time has to pass here: what must not happen gives no sign to wait for.
    sleep(Duration::from_millis(300)).await;
    let client = redis::Client::open(world.redis.url()).expect("a valid URL");
    let monitor = client.get_async_monitor().await.expect("MONITOR");
    let lines = monitor
        .into_on_message::<String>()
        .take_until(sleep(Duration::from_secs(3)));
    // What a script does inside the server costs no round trip.
    let sent: Vec<String> = lines
        .filter(|line| ready(!line.contains(" lua]")))
        .collect()
        .await;
    println!("commands in three idle seconds: {}", sent.len());
    assert!(sent.len() <= 10, "{sent:#?}");
}
