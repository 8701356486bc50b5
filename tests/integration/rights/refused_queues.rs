//! A queue that the server refuses stops no other.

use std::time::Instant;

use super::*;

/// Asserts that a queue that is refused is named once, stops no other, and is served again once it is mended.
async fn a_refused_queue_stops_no_other(rights: &str, broken: &str, named: &str) {
    let all = rules(&["broker", "results", "lists", "named"], "");
    let world = World::new().await;
    let url = world.redis.user("tradebot", &format!("{all} {rights}")).await;
    if !broken.is_empty() {
        world.set(broken, "a text").await;
    }
    let worker = Process::builder(bin("test-worker"))
        .args(["-c", "2", "-Q", "orders,celery", "-l", "debug"])
        .envs(world.environment())
        .envs(URLS.map(|name| (name, &url)));
    let worker = connected(worker);
    let line = worker.wait_for_line("the broker refuses a queue", PATIENCE);
    for part in [named, "queue=\"orders\""] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let started = Instant::now();
    for _ in 0..50 {
        let id = world.enqueue(task("tests.noop")).await.id().to_owned();
        assert_eq!(world.ended(&id).await["status"], "SUCCESS", "{named}");
    }
    let took = started.elapsed();
    assert!(took < stretched(Duration::from_secs(5)), "{named}: {took:?}");
    worker.wait_for_line("still refuses a queue", PATIENCE);

    world
        .redis
        .user("tradebot", &format!("{all} ~orders* ~_kombu.binding.orders"))
        .await;
    if !broken.is_empty() {
        let _: u64 = world.db().del(broken).await.expect("DEL");
    }
    let mut to_orders = task("tests.noop");
    to_orders.queue = "orders".to_owned();
    let id = world.enqueue(to_orders).await.id().to_owned();
    assert_eq!(world.ended(&id).await["status"], "SUCCESS", "{named}");
    let bound: bool = world
        .db()
        .exists("_kombu.binding.orders")
        .await
        .expect("an answer");
    assert!(bound, "{named}");
    for text in ["the broker refuses", "serves a queue again"] {
        assert_eq!(worker.output().matches(text).count(), 1, "{}", worker.output());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forbidden_queue_stops_no_other() {
    a_refused_queue_stops_no_other("", "", "lacks the right to the key `orders` (`~`)").await;
}

/// Only the script that claims is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_may_only_be_read_stops_no_other() {
    a_refused_queue_stops_no_other("%R~orders*", "", "to write a key (`%W~`)").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_a_wrong_type_stops_no_other() {
    let named = "`orders\\u{6}\\u{16}3` holds a string";
    a_refused_queue_stops_no_other("~orders*", "orders\u{6}\u{16}3", named).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_bindings_of_a_wrong_type_stops_no_other() {
    let key = "_kombu.binding.orders";
    a_refused_queue_stops_no_other("~orders*", key, &format!("the key `{key}` holds a string")).await;
}
