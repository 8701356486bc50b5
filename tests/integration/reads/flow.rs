//! Primary, upstream, last good, nothing; and what is counted.

use std::time::Duration;

use redis::AsyncCommands;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::Level;
use tradebot_test_support::{Reply, eventually};

use super::{
    SECOND, assert_fresh, assert_stale, listing, names, peeked, python_list, python_writes, read, readers,
};
use crate::world::{GOOD_TEXT, PATIENCE, World, now, path};

#[tokio::test]
async fn a_list_that_is_there_is_a_hit_and_the_exchange_is_not_asked() {
    let world = World::new().await;
    for market in Market::ALL {
        python_writes(&world, market, &python_list("币"), 300, 20).await;
    }
    let reads = readers(&world, &[]);
    for market in Market::ALL {
        let first = read(&reads, market).await;
        assert!(matches!(first.level, Level::Redis | Level::Memory), "{first:?}");
        let second = reads.peek(market).expect("a list in memory");
        assert_fresh(&second, Level::Memory);
        assert_eq!(second.list.json(), python_list("币").as_bytes());
        assert_eq!(names(&second), ["BTCUSDT", "币USDT"]);
        assert!(
            second.age.is_some_and(|age| (20..60).contains(&age.as_secs())),
            "{second:?}"
        );
        assert!(
            second.ttl.is_some_and(|ttl| (200..=300).contains(&ttl)),
            "{second:?}"
        );
        assert_eq!((second.list.count(), second.list.source()), (2, None));
    }
    reads.stop().await;
    assert_eq!(world.reads(Market::Spot).await, (2, 0));
    assert_eq!(world.reads(Market::Futures).await, (2, 0));
    assert_eq!(world.exchange.requests(), []);
}

#[tokio::test]
async fn a_missing_list_is_fetched_and_written_for_all() {
    let world = World::new().await;
    let reads = readers(&world, &[]);
    for market in Market::ALL {
        world.exchange_lists(market);
        let before = now().timestamp();
        let first = read(&reads, market).await;
        assert_fresh(&first, Level::Upstream);
        assert_eq!(first.list.json(), GOOD_TEXT.as_bytes());
        assert!(first.age.is_some_and(|age| age < PATIENCE));
        let stored = world.lists(market).await;
        assert_eq!(stored.primary.as_deref(), Some(GOOD_TEXT));
        assert_eq!(stored.last_good, stored.primary);
        let at: i64 = stored.last_refresh.expect("a time").parse().expect("a number");
        assert!((before..=now().timestamp()).contains(&at));
        assert_eq!(stored.successes, 0, "no warm-up has run");
        let ttl: i64 = world.db().ttl(CacheKeys(market).primary()).await.expect("a TTL");
        assert!((200..=300).contains(&ttl), "{ttl}");
        let second = read(&reads, market).await;
        assert_fresh(&second, Level::Memory);
        assert_eq!(second.list.json(), first.list.json());
        assert_eq!(world.exchange.count(path(market)), 1);
        assert_eq!(world.get(&CacheKeys(market).lock()).await, None);
    }
    reads.stop().await;
    for market in Market::ALL {
        assert_eq!(world.reads(market).await, (1, 1));
    }
}

#[tokio::test]
async fn what_is_no_list_in_the_primary_key_is_a_miss() {
    for text in ["[]", "", "{\"detail\": 1}", "[1", "null"] {
        let world = World::new().await;
        world.set(&CacheKeys(Market::Spot).primary(), text).await;
        world.exchange_lists(Market::Spot);
        let reads = readers(&world, &[]);
        assert_fresh(&read(&reads, Market::Spot).await, Level::Upstream);
        reads.stop().await;
        assert_eq!(world.reads(Market::Spot).await, (0, 1), "{text}");
        let stored = world.lists(Market::Spot).await;
        assert_eq!(stored.primary.as_deref(), Some(GOOD_TEXT), "{text}");
    }
}

#[tokio::test]
async fn everything_fails_and_the_last_good_list_is_returned_whatever_its_age() {
    let world = World::new().await;
    let keys = CacheKeys(Market::Spot);
    world.set(&keys.last_good(), &python_list("OLD")).await;
    world.set(&keys.last_refresh(), "1700000000").await;
    world
        .exchange
        .always(path(Market::Spot), Reply::status(500, "boom"));
    let reads = readers(&world, &[]);
    let reading = read(&reads, Market::Spot).await;
    assert_stale(&reading, Level::LastGood);
    assert_eq!(names(&reading), ["BTCUSDT", "OLDUSDT"]);
    assert!(reading.age.is_some_and(|age| age > Duration::from_secs(86_400)));
    // The failure is remembered for a moment: readers do not wait for the exchange again.
    for _ in 0..20 {
        assert_stale(&read(&reads, Market::Spot).await, Level::LastGood);
    }
    assert!(world.exchange.count(path(Market::Spot)) <= 2);
    let status = reads.status(Market::Spot);
    assert!(
        status
            .failing
            .is_some_and(|(reason, _)| reason.contains("status 500: boom"))
    );
    // It goes on by itself when the exchange is back.
    world.exchange_lists(Market::Spot);
    eventually("a list of the exchange", PATIENCE, async || {
        (!read(&reads, Market::Spot).await.stale).then_some(())
    })
    .await;
    reads.stop().await;
}

#[tokio::test]
async fn without_any_list_a_reader_is_told_why_and_when_to_come_back() {
    let world = World::new().await;
    world
        .exchange
        .always(path(Market::Spot), Reply::status(500, "boom"));
    let ban = Reply::status(418, "").header("Retry-After", "600");
    world.exchange.always(path(Market::Futures), ban);
    let reads = readers(&world, &[]);
    let error = reads.read(Market::Spot).await.expect_err("no list");
    assert!(error.to_string().contains("status 500: boom"), "{error}");
    assert!(error.retry_after <= Duration::from_secs(20), "{error:?}");
    let error = reads.read(Market::Futures).await.expect_err("no list");
    assert!(error.to_string().contains("status 418"), "{error}");
    assert!((Duration::from_secs(500)..=Duration::from_secs(600)).contains(&error.retry_after));
    assert!(reads.peek(Market::Spot).is_none());
    reads.stop().await;
    assert_eq!(
        world.reads(Market::Spot).await,
        (0, 1),
        "a peek without a list counts nothing"
    );
}

#[tokio::test]
async fn a_list_past_its_lifetime_is_returned_at_once_and_refreshed_meanwhile() {
    let world = World::new().await;
    let keys = CacheKeys(Market::Spot);
    // Expired long ago, and not too long: an endpoint that starts now finds only the last good list.
    world.set(&keys.last_good(), &python_list("OLD")).await;
    world
        .set(&keys.last_refresh(), &(now().timestamp() - 1000).to_string())
        .await;
    let slow = Reply::json(listing(&[], 1)).delay(SECOND);
    world.exchange.always(path(Market::Spot), slow);
    let reads = readers(&world, &[]);
    let started = tokio::time::Instant::now();
    let reading = read(&reads, Market::Spot).await;
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "{:?}",
        started.elapsed()
    );
    assert_stale(&reading, Level::LastGood);
    assert!(
        reading.ttl.is_some_and(|ttl| (-760..=-690).contains(&ttl)),
        "{reading:?}"
    );
    let fresh = peeked(&reads, Market::Spot, "a refreshed list", |reading| !reading.stale).await;
    assert_eq!(names(&fresh), ["BTCUSDT", "ETHUSDT"]);
    assert_eq!(world.exchange.count(path(Market::Spot)), 1);

    // Past the age that may be served, a reader waits for the exchange.
    let strict = readers(&world, &[("SYMBOLS_MAX_STALE_SECONDS", "0")]);
    read(&strict, Market::Spot).await;
    let deleted: Result<u64, _> = world.db().del(keys.primary()).await;
    assert_eq!(deleted.expect("an answer"), 1);
    eventually("a miss", PATIENCE, async || {
        strict.peek(Market::Spot).is_none().then_some(())
    })
    .await;
    assert!(!read(&strict, Market::Spot).await.stale);
    strict.stop().await;
    reads.stop().await;
}

#[tokio::test]
async fn a_list_is_refreshed_ahead_of_its_end_unless_warm_ups_do_it() {
    let world = World::new().await;
    for market in Market::ALL {
        world.exchange_lists(market);
    }
    let extra = [
        ("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "4"),
        ("FUTURES_SYMBOLS_CACHE_TTL_SECONDS", "0"),
        ("SYMBOLS_REFRESH_AHEAD_PERCENT", "50"),
        ("ENABLE_SPOT_WARMUP_ON_STARTUP", "1"),
    ];
    let (one, other) = (readers(&world, &extra), readers(&world, &extra));
    // Started for both, fetched once; then again and again before its end, by one of them.
    let spot = path(Market::Spot);
    eventually("a third refresh", PATIENCE, async || {
        let stale = [&one, &other]
            .iter()
            .any(|reads| reads.peek(Market::Spot).is_some_and(|reading| reading.stale));
        assert!(!stale, "no reader gets an expired list");
        (world.exchange.count(spot) >= 3).then_some(())
    })
    .await;
    let refreshed = one.status(Market::Spot).refreshes + other.status(Market::Spot).refreshes;
    assert!(refreshed >= world.exchange.count(spot) as u64 - 1, "{refreshed}");
    assert_eq!(world.exchange.count(path(Market::Futures)), 0);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn no_read_is_counted_twice_or_not_at_all() {
    let world = World::new().await;
    python_writes(&world, Market::Spot, &python_list("A"), 300, 0).await;
    let reads = readers(&world, &[]);
    read(&reads, Market::Spot).await;
    let mut counted = 1;
    // While Redis is stopped and gone, what is counted waits; answers that are lost are asked for again.
    for round in 0..3 {
        world.redis.pause();
        for _ in 0..500 {
            reads.peek(Market::Spot).expect("a list");
            counted += 1;
        }
        tokio::time::sleep(Duration::from_millis(2200)).await;
        world.redis.resume();
        eventually("counters", PATIENCE, async || {
            let (hits, misses) = world.reads(Market::Spot).await;
            assert!(
                hits <= counted && misses == 0,
                "{hits} of {counted}, {misses}, round {round}"
            );
            (hits == counted).then_some(())
        })
        .await;
    }
    for _ in 0..7 {
        reads.peek(Market::Spot).expect("a list");
    }
    reads.stop().await;
    assert_eq!(world.reads(Market::Spot).await, (counted + 7, 0));
}
