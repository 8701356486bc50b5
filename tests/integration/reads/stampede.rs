//! Any number of readers make one request to the exchange, and none while it demands a pause.

use std::time::Duration;

use redis::AsyncCommands;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::Level;
use tradebot_test_support::{Process, Reply, bin, eventually};

use super::{SECOND, assert_fresh, assert_stale, peeked, python_list, python_writes, read, readers};
use crate::world::{PATIENCE, World, good_list, now, path};

#[tokio::test]
async fn a_thousand_cold_readers_in_four_processes_are_one_request() {
    let world = World::new().await;
    let slow = Reply::json(good_list()).delay(Duration::from_millis(500));
    world.exchange.always(path(Market::Spot), slow);
    let start = now().timestamp_millis() + 3_000;
    let processes: Vec<Process> = (0..4)
        .map(|_| {
            Process::builder(bin("test-readers"))
                .args(["spot", "250", &start.to_string()])
                .envs(world.environment())
                .env("ENABLE_SPOT_WARMUP_ON_STARTUP", "0")
                .env("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0")
                .spawn()
        })
        .collect();
    for process in &processes {
        assert!(process.wait_exit(PATIENCE).success(), "{}", process.output());
        let summary: serde_json::Value = serde_json::from_str(process.stdout().trim()).expect("JSON");
        assert_eq!(summary["read"], 250, "{summary}");
        assert_eq!(summary["counts"], serde_json::json!([2]), "{summary}");
    }
    assert_eq!(world.exchange.count(path(Market::Spot)), 1);
    let (hits, misses) = world.reads(Market::Spot).await;
    assert_eq!(hits + misses, 1000, "{hits} hits, {misses} misses");
}

#[tokio::test]
async fn a_failure_is_not_tried_again_by_every_process_in_turn() {
    let world = World::new().await;
    world
        .exchange
        .always(path(Market::Spot), Reply::status(500, "boom"));
    let processes = [(); 4].map(|()| readers(&world, &[]));
    for _ in 0..5 {
        for reads in &processes {
            let error = reads.read(Market::Spot).await.expect_err("no list");
            assert!(error.to_string().contains("status 500"), "{error}");
        }
    }
    // The first pause is about a second; a slow machine may see the end of it.
    assert!(world.exchange.count(path(Market::Spot)) <= 3);
    for reads in processes {
        reads.stop().await;
    }
}

#[tokio::test]
async fn a_process_that_dies_while_refreshing_delays_others_only_briefly() {
    let world = World::new().await;
    world.exchange_lists(Market::Spot);
    let lock: Result<(), _> = world
        .db()
        .pset_ex(CacheKeys(Market::Spot).lock(), "another", 2_000)
        .await;
    lock.expect("a lock");
    let reads = readers(&world, &[]);
    let started = tokio::time::Instant::now();
    assert_fresh(&read(&reads, Market::Spot).await, Level::Upstream);
    assert!(
        started.elapsed() >= Duration::from_millis(1_500),
        "{:?}",
        started.elapsed()
    );
    reads.stop().await;
}

#[tokio::test]
async fn readers_wait_for_the_list_that_another_process_is_fetching() {
    let world = World::new().await;
    let lock: Result<(), _> = world
        .db()
        .pset_ex(CacheKeys(Market::Spot).lock(), "another", 20_000)
        .await;
    lock.expect("a lock");
    let reads = readers(&world, &[]);
    let (reading, ()) = tokio::join!(read(&reads, Market::Spot), async {
        tokio::time::sleep(SECOND).await;
        python_writes(&world, Market::Spot, &python_list("A"), 300, 0).await;
    });
    assert!(!reading.stale);
    assert_eq!(reading.list.json(), python_list("A").as_bytes());
    assert_eq!(world.exchange.requests(), []);
    reads.stop().await;
}

#[tokio::test]
async fn a_refresh_that_other_processes_keep_from_starting_is_given_up_after_two_leases() {
    let world = World::new().await;
    let lock = CacheKeys(Market::Spot).lock();
    let hold = async || {
        let held: Result<(), _> = world.db().pset_ex(&lock, "another", 30_000).await;
        held.expect("a lock");
    };
    hold().await;
    let reads = readers(&world, &[("SYMBOLS_READ_TIMEOUT_SECONDS", "1")]);
    reads.read(Market::Spot).await.expect_err("no list");
    // Below ten times the limit even with `TEST_PATIENCE=3`.
    eventually("a refresh given up", SECOND * 100, async || {
        hold().await;
        let (reason, _) = reads.status(Market::Spot).failing?;
        assert_eq!(reason, "no refresh finished within 32 s");
        Some(())
    })
    .await;
    assert_eq!(world.exchange.requests(), []);
    reads.stop().await;
}

#[tokio::test]
async fn a_reader_waits_no_longer_than_configured() {
    let world = World::new().await;
    world.exchange.always(path(Market::Spot), Reply::json("").hang());
    let reads = readers(&world, &[("SYMBOLS_READ_TIMEOUT_SECONDS", "1")]);
    let started = tokio::time::Instant::now();
    let error = reads.read(Market::Spot).await.expect_err("no list");
    assert!(error.to_string().contains("within 1 s"), "{error}");
    assert!((SECOND..SECOND * 5).contains(&started.elapsed()));
    reads.stop().await;
}

#[tokio::test]
async fn readers_that_stop_during_a_refresh_let_others_begin_at_once() {
    let world = World::new().await;
    let spot = path(Market::Spot);
    world.exchange.always(spot, Reply::json("").hang());
    let leaving = readers(&world, &[("SYMBOLS_READ_TIMEOUT_SECONDS", "1")]);
    leaving.read(Market::Spot).await.expect_err("no list");
    assert_eq!(world.exchange.count(spot), 1, "a refresh that goes on");
    leaving.stop().await;
    assert_eq!(world.get(&CacheKeys(Market::Spot).lock()).await, None);
    world.exchange.always(spot, Reply::json(good_list()));
    // A lease lasts 15 s.
    let successor = readers(&world, &[("SYMBOLS_READ_TIMEOUT_SECONDS", "5")]);
    assert_fresh(&read(&successor, Market::Spot).await, Level::Upstream);
    successor.stop().await;
}

#[tokio::test]
async fn a_ban_of_one_process_stops_all() {
    let world = World::new().await;
    let spot = path(Market::Spot);
    let ban = Reply::status(418, "").header("Retry-After", "300");
    world.exchange.always(spot, ban);
    let (one, other) = (readers(&world, &[]), readers(&world, &[]));
    one.read(Market::Spot).await.expect_err("no list");
    assert_eq!(world.exchange.count(spot), 1);
    world.exchange.always(spot, Reply::json(good_list()));
    // Also without the memory of the failure: the ban itself is obeyed, by readers, warm-ups and after a restart.
    let deleted: Result<u64, _> = world.db().del(CacheKeys(Market::Spot).failure()).await;
    assert_eq!(deleted.expect("an answer"), 1);
    let error = other.read(Market::Spot).await.expect_err("no list");
    assert!(
        error
            .to_string()
            .contains("asked for a pause, which lasts another"),
        "{error}"
    );
    assert!(error.retry_after > Duration::from_secs(200), "{error:?}");
    let worker = world.start_worker(&[]);
    let (id, _) = world.run_last_try(Market::Spot).await;
    worker.wait_for_line(&id, PATIENCE);
    assert!(worker.output().contains("asked for a pause, which lasts another"));
    assert_eq!(world.exchange.count(spot), 1);
    // The other market is not banned.
    world.exchange_lists(Market::Futures);
    assert_fresh(&read(&other, Market::Futures).await, Level::Upstream);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_ban_of_a_worker_stops_readers_who_have_a_list_all_the_same() {
    let world = World::new().await;
    let spot = path(Market::Spot);
    python_writes(&world, Market::Spot, &python_list("A"), 300, 0).await;
    let reads = readers(&world, &[]);
    read(&reads, Market::Spot).await;
    let ban = Reply::status(429, "").header("Retry-After", "120");
    world.exchange.always(spot, ban);
    let _worker = world.start_worker(&[]);
    world.run_last_try(Market::Spot).await;
    let asked = world.exchange.count(spot);
    let deleted: Result<u64, _> = world.db().del(CacheKeys(Market::Spot).primary()).await;
    deleted.expect("an answer");
    let reading = peeked(&reads, Market::Spot, "a stale list", |reading| reading.stale).await;
    assert_stale(&reading, Level::Memory);
    eventually("a refusal", PATIENCE, async || {
        let _ = reads.peek(Market::Spot);
        reads.status(Market::Spot).failing
    })
    .await;
    assert_eq!(world.exchange.count(spot), asked);
    reads.stop().await;
}
