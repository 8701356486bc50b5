//! Redis in trouble: readers with a list keep it, and no reader waits long.

use std::time::Duration;

use tokio::time::Instant;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::{Level, SymbolReads};
use tradebot_test_support::{RedisServer, Reply, eventually};

use super::{SECOND, assert_fresh, listing, names, peeked, python_list, python_writes, read, readers};
use crate::world::{PATIENCE, World, path};

/// Reads for a while; none may fail, and all but a few are quick.
async fn read_for(reads: &SymbolReads, duration: Duration) {
    let mut took = Vec::new();
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let began = Instant::now();
        read(reads, Market::Spot).await;
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    took.sort();
    let p99 = took[took.len() * 99 / 100];
    assert!(p99 < Duration::from_millis(50), "{p99:?} of {}", took.len());
}

#[tokio::test]
async fn readers_who_have_a_list_notice_no_outage() {
    let world = World::new().await;
    world.exchange_lists(Market::Spot);
    // The lifetime ends in the middle of each outage.
    let reads = readers(&world, &[("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "1")]);
    read(&reads, Market::Spot).await;
    world.redis.pause();
    read_for(&reads, SECOND * 3).await;
    world.redis.resume();
    read_for(&reads, SECOND).await;
    world.redis.kill();
    read_for(&reads, SECOND * 3).await;
    world.redis.restart();
    read_for(&reads, SECOND).await;
    let world = world.reconnected().await;
    for _ in 0..20 {
        let flushed: Result<(), _> = redis::cmd("FLUSHALL").query_async(&mut world.db()).await;
        flushed.expect("an empty server");
        read_for(&reads, SECOND / 10).await;
    }
    eventually("a list in Redis again", PATIENCE, async || {
        read(&reads, Market::Spot).await;
        world.get(&CacheKeys(Market::Spot).primary()).await
    })
    .await;
    reads.stop().await;
}

#[tokio::test]
async fn a_full_redis_keeps_no_list_from_its_readers() {
    let world = World::on(RedisServer::start_with(&["--maxmemory-policy", "noeviction"])).await;
    world.exchange_lists(Market::Spot);
    let room = async |bytes: &str| {
        let set: Result<(), _> = redis::cmd("CONFIG")
            .arg(&["SET", "maxmemory", bytes])
            .query_async(&mut world.db())
            .await;
        set.expect("an answer");
    };
    room("1").await;
    let reads = readers(&world, &[]);
    assert_fresh(&read(&reads, Market::Spot).await, Level::Upstream);
    read_for(&reads, SECOND).await;
    assert_eq!(
        world.exchange.count(path(Market::Spot)),
        1,
        "the list in memory has its lifetime"
    );
    assert_eq!(world.get(&CacheKeys(Market::Spot).primary()).await, None);
    // 0: as much as there is.
    room("0").await;
    eventually("the list in Redis", PATIENCE, async || {
        world.get(&CacheKeys(Market::Spot).primary()).await
    })
    .await;
    assert_eq!(world.exchange.count(path(Market::Spot)), 1);
    reads.stop().await;
}

#[tokio::test]
async fn without_redis_from_the_start_readers_have_the_exchange() {
    for stopped in [false, true] {
        let world = World::new().await;
        world.exchange_lists(Market::Spot);
        if stopped {
            world.redis.pause();
        } else {
            world.redis.kill();
        }
        let reads = readers(&world, &[]);
        let began = Instant::now();
        assert_fresh(&read(&reads, Market::Spot).await, Level::Upstream);
        assert!(began.elapsed() < SECOND * 6, "{:?}", began.elapsed());
        assert!(!reads.is_connected());
        read_for(&reads, SECOND / 2).await;
        assert_eq!(world.exchange.count(path(Market::Spot)), 1);
        reads.stop().await;
        if stopped {
            world.redis.resume();
        }
    }
}

#[tokio::test]
async fn a_list_that_looks_wrong_reaches_no_reader_until_it_is_confirmed() {
    let world = World::new().await;
    let spot = path(Market::Spot);
    python_writes(&world, Market::Spot, &python_list("A"), 1, 0).await;
    let reads = readers(&world, &[("SYMBOLS_CONFIRM_AFTER_SECONDS", "2")]);
    read(&reads, Market::Spot).await;
    // The second answer is the very first over again, the third comes from an exchange that lives.
    let without_anchor = |time| listing(&["A", "B"], time).replace("\"ETHUSDT\"", "\"XTHUSDT\"");
    world.exchange.reply(spot, Reply::json(without_anchor(1_000)));
    world.exchange.reply(spot, Reply::json(without_anchor(1_000)));
    world.exchange.reply(spot, Reply::json(without_anchor(9_000)));
    let confirmed = peeked(&reads, Market::Spot, "the confirmed list", |reading| {
        reading.list.count() == 4
    })
    .await;
    assert!(names(&confirmed).contains(&"XTHUSDT"));
    assert_eq!(world.exchange.count(spot), 3);
    let source = confirmed.list.source().expect("a source");
    assert_eq!(source.server_time, Some(9_000));
    assert_eq!(world.get(&CacheKeys(Market::Spot).held_back()).await, None);
    reads.stop().await;
}
