//! An outage of Redis makes no task run twice and loses no outcome.

use std::time::Duration;

use serde_json::json;
use tradebot_base::market::Market;
use tradebot_test_support::{ChaosProxy, Process, RedisServer, Reply};

use crate::world::{PATIENCE, QUEUE, World, connected, embedding, good_list, path, warmup};

const SPOT: Market = Market::Spot;
/// How long the exchange thinks: long enough to do something to Redis meanwhile.
const THINKING: Duration = Duration::from_millis(800);

/// A worker whose broker and results are behind `proxy`; the lists are not, or the refresh itself would fail.
fn worker_behind(proxy: &ChaosProxy, world: &World) -> Process {
    connected(
        world
            .worker(&[])
            .env("CELERY_BROKER_URL", proxy.url())
            .env("CELERY_RESULT_BACKEND", proxy.url()),
    )
}

/// A message that publishes another one when it has succeeded.
async fn enqueue_with_link(world: &World) -> String {
    let link = json!([{"task": "app.tests.after", "args": [], "kwargs": {}, "options": {"task_id": "after"},
        "subtask_type": null, "immutable": false}]);
    let task = embedding(warmup(SPOT), "callbacks", link);
    world.enqueue(task).await.id().to_owned()
}

/// The task ran once, its result is there, what follows was published once, and nothing is left over.
async fn assert_settled_once(world: &World, id: &str) {
    assert_eq!(world.ended(id).await["result"], "WARMUP_OK:2");
    assert!(world.unacked().await.is_empty());
    let next = world.waiting(QUEUE).await;
    assert_eq!(next.len(), 1, "{next:?}");
    assert!(next[0].contains(r#""id": "after""#), "{next:?}");
    assert_eq!(world.exchange.count(path(SPOT)), 1);
    assert_eq!(world.lists(SPOT).await.successes, 1);
}

/// The worker is as good as before.
async fn assert_goes_on(world: &World) {
    let (_, result) = world.run_last_try(SPOT).await;
    assert_eq!(result["result"], "WARMUP_OK:2");
}

#[tokio::test]
async fn an_outcome_is_stored_after_the_connection_is_back_and_the_task_is_not_run_again() {
    let world = World::new().await;
    let proxy = ChaosProxy::start(world.redis.port());
    let worker = worker_behind(&proxy, &world);
    world
        .exchange
        .always(path(SPOT), Reply::json(good_list()).delay(THINKING));
    let id = enqueue_with_link(&world).await;
    world.asked(SPOT, 1).await;
    proxy.cut();
    worker.wait_for_line("cannot settle a message yet", PATIENCE);
    assert_eq!(world.stored(&id).await, None);
    assert_eq!(world.unacked().await.len(), 1);
    proxy.restore();
    assert_settled_once(&world, &id).await;
    assert_goes_on(&world).await;
}

#[tokio::test]
async fn a_connection_that_is_reset_while_a_task_runs_costs_nothing() {
    let world = World::new().await;
    let proxy = ChaosProxy::start(world.redis.port());
    let _worker = worker_behind(&proxy, &world);
    world
        .exchange
        .always(path(SPOT), Reply::json(good_list()).delay(THINKING));
    let id = enqueue_with_link(&world).await;
    world.asked(SPOT, 1).await;
    proxy.reset_all();
    assert_settled_once(&world, &id).await;
    assert_goes_on(&world).await;
}

#[tokio::test]
async fn a_settlement_whose_answer_was_lost_is_not_done_twice() {
    let world = World::new().await;
    let proxy = ChaosProxy::start(world.redis.port());
    let worker = worker_behind(&proxy, &world);
    // The server knows the script by now: what arrives late is carried out, not asked for again.
    world.exchange_lists(Market::Futures);
    world.run_last_try(Market::Futures).await;
    world
        .exchange
        .always(path(SPOT), Reply::json(good_list()).delay(THINKING));
    let id = enqueue_with_link(&world).await;
    world.asked(SPOT, 1).await;
    // What the worker sends from now on is held up, and arrives after it has given up waiting for an answer.
    proxy.freeze();
    worker.wait_for_line("cannot settle a message yet", PATIENCE);
    proxy.restore();
    // The second settlement finds the delivery gone: the first one has arrived after all.
    worker.wait_for_line("the delivery was not held any more", PATIENCE);
    assert_settled_once(&world, &id).await;
    assert_goes_on(&world).await;
}

#[tokio::test]
async fn a_redis_that_is_restarted_while_a_task_runs_gets_its_outcome() {
    let lists = RedisServer::start();
    let world = World::on(RedisServer::start_with(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]))
    .await;
    let _worker = connected(world.worker(&[]).env("REDIS_URL", lists.url()));
    world
        .exchange
        .always(path(SPOT), Reply::json(good_list()).delay(THINKING));
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.asked(SPOT, 1).await;
    world.redis.restart();
    let world = world.reconnected().await;
    assert_eq!(world.ended(&id).await["result"], "WARMUP_OK:2");
    assert!(world.unacked().await.is_empty());
    assert_eq!(world.exchange.count(path(SPOT)), 1);
    assert_goes_on(&world).await;
}

#[tokio::test]
async fn a_refresh_whose_list_cannot_be_written_is_tried_again() {
    let lists = RedisServer::start();
    let world = World::new().await;
    let worker = connected(world.worker(&[]).env("REDIS_URL", lists.url()));
    world.exchange_lists(SPOT);
    lists.kill();
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    let result = world.result(&id, "RETRY").await;
    assert_eq!(result["result"]["exc_type"], "ConnectionError", "{result}");
    let message = result["result"]["exc_message"][0].as_str().unwrap_or_default();
    assert!(
        message.contains("cannot write the spot list") && message.contains(&lists.port().to_string()),
        "{message}"
    );
    worker.wait_for_line("cannot count the failed refresh in Redis", PATIENCE);
    lists.restart();
    assert_eq!(world.ended(&id).await["result"], "WARMUP_OK:2");
}

#[tokio::test]
async fn a_worker_started_before_its_redis_begins_once_it_is_there() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    world.redis.kill();
    let worker = world.worker(&[]).spawn();
    let line = worker.wait_for_line("broker in trouble", PATIENCE);
    assert!(line.contains(&world.redis.url()), "{line}");
    world.redis.restart();
    let world = world.reconnected().await;
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    assert_eq!(world.ended(&id).await["result"], "WARMUP_OK:2");
    let told = worker.output().matches("broker in trouble").count();
    assert_eq!(told, 1, "it says so once");
}

#[tokio::test]
async fn a_redis_that_lost_everything_gets_the_bindings_again() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    world.redis.restart();
    let world = world.reconnected().await;
    assert_goes_on(&world).await;
    for key in ["_kombu.binding.celery", "_kombu.binding_permanent.celery"] {
        let members: Vec<String> = redis::AsyncCommands::smembers(&mut world.db(), key)
            .await
            .expect("a set");
        assert_eq!(members, ["celery\u{6}\u{16}\u{6}\u{16}celery"], "{key}");
    }
}

#[tokio::test]
async fn a_refresh_after_an_idle_connection_was_closed_succeeds_at_the_first_try() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    assert_goes_on(&world).await;
    // As the server's own `timeout` does, or a router between the two.
    let clients: String = redis::cmd("CLIENT")
        .arg("LIST")
        .query_async(&mut world.db())
        .await
        .expect("a list");
    let of_the_cache = clients
        .lines()
        .find(|client| client.contains("-cache "))
        .expect("the worker's connection");
    let id = of_the_cache.split(['=', ' ']).nth(1).expect("its id");
    let killed: u64 = redis::cmd("CLIENT")
        .arg(&["KILL", "ID", id])
        .query_async(&mut world.db())
        .await
        .expect("a number");
    assert_eq!(killed, 1);
    assert_goes_on(&world).await;
    assert_eq!(world.errors(SPOT).await, 0);
}
