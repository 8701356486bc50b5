//! A list that was fetched while Redis was away, once Redis is back.

use redis::AsyncCommands;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::{Level, SymbolReads};
use tradebot_test_support::{ChaosProxy, eventually};

use super::{SECOND, assert_fresh, peeked, python_list, python_writes, read, readers};
use crate::world::{GOOD_TEXT, PATIENCE, World, now, path};

const SPOT: Market = Market::Spot;

async fn until_connected(reads: &SymbolReads) {
    eventually("a look at Redis", PATIENCE, async || {
        reads.is_connected().then_some(())
    })
    .await;
}

/// Readers who have the list of the exchange, and no way to Redis until the proxy restores it.
async fn cut_off_with_a_list() -> (World, ChaosProxy, SymbolReads) {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let proxy = ChaosProxy::start(world.redis.port());
    let url = proxy.url();
    let reads = readers(&world, &[("REDIS_URL", &url), ("CELERY_BROKER_URL", &url)]);
    until_connected(&reads).await;
    proxy.cut();
    assert_fresh(&read(&reads, SPOT).await, Level::Upstream);
    (world, proxy, reads)
}

#[tokio::test]
async fn a_list_that_redis_missed_is_written_when_it_is_back() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let ttl = ("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "300");
    // Two processes that both have a list; one of them writes it.
    let both = [readers(&world, &[ttl]), readers(&world, &[ttl])];
    for reads in &both {
        until_connected(reads).await;
    }
    world.redis.kill();
    for reads in &both {
        assert_fresh(&read(reads, SPOT).await, Level::Upstream);
    }
    let fetched_at = now().timestamp();
    // It has so much less to live in Redis then.
    tokio::time::sleep(SECOND * 3).await;
    world.redis.restart();
    let world = world.reconnected().await;
    let keys = CacheKeys(SPOT);
    eventually("the list in Redis", PATIENCE, async || {
        world.get(&keys.primary()).await
    })
    .await;
    let lists = world.lists(SPOT).await;
    assert_eq!(lists.primary.as_deref(), Some(GOOD_TEXT));
    assert_eq!(lists.last_good.as_deref(), Some(GOOD_TEXT));
    let stored: i64 = lists.last_refresh.expect("a time").parse().expect("seconds");
    assert!(
        (0..=2).contains(&(fetched_at - stored)),
        "{stored} of {fetched_at}"
    );
    assert!(lists.source.expect("a source").contains("\"by\": \"reader\""));
    let left: i64 = redis::cmd("TTL")
        .arg(keys.primary())
        .query_async(&mut world.db())
        .await
        .expect("seconds");
    let age = now().timestamp() - stored;
    assert!(
        (1..=300 - 3).contains(&left) && (left - (300 - age)).abs() <= 2,
        "{left} at {age}"
    );
    eventually("no lease", PATIENCE, async || {
        world.get(&keys.lock()).await.is_none().then_some(())
    })
    .await;
    for reads in both {
        assert_fresh(&read(&reads, SPOT).await, Level::Memory);
        reads.stop().await;
    }
    assert_eq!(
        world.exchange.count(path(SPOT)),
        2,
        "one fetch each, none of them again"
    );
}

#[tokio::test]
async fn a_newer_list_stays_that_came_while_redis_was_away() {
    let (world, proxy, reads) = cut_off_with_a_list().await;
    let newer = python_list("NEW");
    python_writes(&world, SPOT, &newer, 300, -2).await;
    let before = world.lists(SPOT).await;
    proxy.restore();
    peeked(&reads, SPOT, "Python's list", |reading| {
        reading
            .list
            .symbols()
            .iter()
            .any(|symbol| symbol.base_asset == "NEW")
    })
    .await;
    // Longer than the list would wait for its turn.
    for _ in 0..20 {
        tokio::time::sleep(SECOND / 10).await;
        assert_eq!(world.lists(SPOT).await, before);
    }
    assert_eq!(world.get(&CacheKeys(SPOT).lock()).await, None);
    assert_eq!(world.exchange.count(path(SPOT)), 1);
    reads.stop().await;
}

#[tokio::test]
async fn a_list_that_redis_missed_is_written_though_others_fail_to_fetch_one() {
    let (world, proxy, reads) = cut_off_with_a_list().await;
    // As another process leaves it that was banned, and whose readers go on asking.
    let failure = CacheKeys(SPOT).failure();
    let mut db = world.db();
    let set: Result<(), _> = db.set_ex(&failure, "banned", 600).await;
    set.expect("a failure");
    proxy.restore();
    eventually("the list in Redis", PATIENCE, async || {
        world.get(&CacheKeys(SPOT).primary()).await
    })
    .await;
    assert_eq!(world.get(&failure).await, None, "there is a list now");
    assert_eq!(world.exchange.count(path(SPOT)), 1);
    reads.stop().await;
}
