//! What a worker reports to monitors and to its operator when something is wrong.

use std::time::Duration;

use futures_util::StreamExt;
use redis::cmd;
use serde_json::Value;
use tradebot_base::market::Market;
use tradebot_test_support::{Process, RedisServer, Signal, bin, eventually, stretched};
use tradebot_wire::task_message::TaskMessage;

use crate::world::{PATIENCE, QUEUE, World, connected, path, task, warmup};

const SPOT: Market = Market::Spot;

#[tokio::test]
async fn a_result_backend_that_stays_away_is_logged_and_costs_no_result_and_no_second_run() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let backend = RedisServer::start();
    let results = backend.url().replace("/0", "/5");
    let worker = connected(
        world
            .worker(&["-c", "2"])
            .env("CELERY_RESULT_BACKEND", &results)
            .env("CELERY_TASK_TRACK_STARTED", "true"),
    );
    backend.kill();
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    worker.wait_for_line("cannot store a result yet", PATIENCE);
    let line = worker.wait_for_line("still cannot store a result", PATIENCE);
    for told in ["waiting=1", "slots=2"] {
        assert!(line.contains(told), "{line}");
    }
    assert_eq!(
        world.unacked().await.len(),
        1,
        "not acknowledged before its result is stored"
    );
    backend.restart();
    let mut db = backend.connection().await;
    cmd("SELECT")
        .arg(5)
        .exec_async(&mut db)
        .await
        .expect("a database");
    let key = format!("celery-task-meta-{id}");
    let stored: String = eventually("the result", PATIENCE, async || {
        cmd("GET").arg(&key).query_async(&mut db.clone()).await.ok()
    })
    .await;
    let stored: Value = serde_json::from_str(&stored).expect("a result is JSON");
    assert_eq!(stored["result"], "WARMUP_OK:2", "{stored}");
    eventually("the acknowledgement", PATIENCE, async || {
        world.unacked().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(world.exchange.count(path(SPOT)), 1);
}

/// The channels on which a worker's events arrive, until one arrives that ends in `last`.
async fn channels_until(events: &mut redis::aio::PubSub, last: &str) -> Vec<String> {
    let mut channels = Vec::new();
    let mut stream = events.on_message();
    let all = async {
        while let Some(message) = stream.next().await {
            channels.push(message.get_channel_name().to_owned());
            if message.get_channel_name().ends_with(last) {
                break;
            }
        }
    };
    let patience = stretched(PATIENCE);
    tokio::time::timeout(patience, all)
        .await
        .unwrap_or_else(|_| panic!("no event on a channel that ends in {last}"));
    channels
}

async fn subscribe(world: &World, pattern: &str) -> redis::aio::PubSub {
    let client = redis::Client::open(world.redis.url()).expect("a valid URL");
    let mut events = client.get_async_pubsub().await.expect("a subscription");
    events.psubscribe(pattern).await.expect("a subscription");
    events
}

#[tokio::test]
async fn heartbeats_go_on_while_every_thread_is_busy_and_task_events_are_off() {
    let world = World::new().await;
    let mut events = subscribe(&world, "/0.celeryev/*").await;
    let worker = Process::builder(bin("test-worker"))
        .args(["-c", "2"])
        .env("TOKIO_WORKER_THREADS", "1")
        .envs(world.environment());
    let worker = connected(worker);
    assert_eq!(channels_until(&mut events, "worker.online").await.len(), 1);
    let mut spin = task("tests.spin");
    spin.body.args.push(9.0.into());
    let id = world.enqueue(spin).await.id().to_owned();
    for _ in 0..3 {
        let channels = channels_until(&mut events, "worker.heartbeat").await;
        assert_eq!(channels, ["/0.celeryev/worker.heartbeat"]);
        assert_eq!(world.stored(&id).await, None, "it still spins");
    }
    worker.signal(Signal::SIGTERM);
    let channels = channels_until(&mut events, "worker.offline").await;
    assert!(
        channels.iter().all(|channel| !channel.contains("task")),
        "{channels:?}"
    );
}

#[tokio::test]
async fn after_an_outage_events_go_on_with_the_prefix_of_all_keys() {
    let world = World::new().await;
    let worker = Process::builder(bin("test-worker"))
        .args(["-E"])
        .envs(world.environment())
        .env("CELERY_GLOBAL_KEYPREFIX", "p:");
    let _worker = connected(worker);
    world.redis.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.redis.restart();
    let world = world.reconnected().await;
    let mut events = subscribe(&world, "p:/0.celeryev/*").await;
    channels_until(&mut events, "worker.heartbeat").await;
    world
        .enqueue(TaskMessage {
            queue: format!("p:{QUEUE}"),
            ..task("tests.noop")
        })
        .await;
    channels_until(&mut events, "p:/0.celeryev/task.multi").await;
}

#[tokio::test]
async fn a_user_who_may_not_publish_events_is_warned_once_and_works() {
    let world = World::new().await;
    let mut db = world.db();
    let rules = [
        "on",
        ">secret",
        "~*",
        "+@all",
        "resetchannels",
        "&celery-task-meta-*",
    ];
    cmd("ACL")
        .arg("SETUSER")
        .arg("mute")
        .arg(&rules)
        .exec_async(&mut db)
        .await
        .expect("a user");
    let url = world.redis.url().replace("redis://", "redis://mute:secret@");
    let worker = Process::builder(bin("test-worker"))
        .args(["-E"])
        .envs(world.environment())
        .env("CELERY_BROKER_URL", url);
    let worker = connected(worker);
    worker.wait_for_line("may not publish events", PATIENCE);
    for _ in 0..20 {
        let id = world.enqueue(task("tests.noop")).await.id().to_owned();
        world.result(&id, "SUCCESS").await;
    }
    assert_eq!(worker.output().matches("may not publish events").count(), 1);
}
