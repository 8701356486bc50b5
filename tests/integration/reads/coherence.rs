//! Readers see at once what other programs do to the keys.

use std::time::Duration;

use redis::AsyncCommands;
use tokio::time::Instant;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::SymbolReads;
use tradebot_test_support::{ChaosProxy, RedisServer, Reply, eventually, stretched};

use super::{SECOND, listing, names, peeked, python_list, python_writes, read, readers, settings};
use crate::world::{PATIENCE, World, path};

/// What takes a few milliseconds on an idle machine. The median is held to it, so that one hiccup of the machine fails
/// nothing.
const AT_ONCE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn a_writer_is_seen_within_50_ms() {
    let world = World::new().await;
    python_writes(&world, Market::Spot, &python_list("C0"), 300, 0).await;
    let reads = readers(&world, &[]);
    read(&reads, Market::Spot).await;
    let key = CacheKeys(Market::Spot).primary();
    let mut db = world.db();
    let mut took = Vec::new();
    for round in 1..=15 {
        let name = format!("C{round}");
        let wrote = Instant::now();
        let set: Result<(), _> = db.set_ex(&key, python_list(&name), 300).await;
        set.expect("a list");
        took.push(
            seen(&reads, wrote, |reads| {
                let reading = reads.peek(Market::Spot)?;
                (names(&reading)[1] == format!("{name}USDT")).then_some(())
            })
            .await,
        );
    }
    took.sort();
    assert!(took[took.len() / 2] < AT_ONCE, "{took:?}");
    reads.stop().await;
}

#[tokio::test]
async fn a_deleted_list_and_a_flush_are_seen_within_50_ms() {
    let world = World::new().await;
    let refused = Reply::status(500, "boom");
    world.exchange.always(path(Market::Spot), refused);
    let reads = readers(&world, &[]);
    let mut db = world.db();
    let mut took = Vec::new();
    for round in 0..10 {
        python_writes(&world, Market::Spot, &python_list("A"), 300, 0).await;
        peeked(&reads, Market::Spot, "a fresh list", |reading| !reading.stale).await;
        let deleted = Instant::now();
        let gone: Result<(), _> = if round % 2 == 0 {
            db.del(CacheKeys(Market::Spot).primary()).await
        } else {
            redis::cmd("FLUSHALL").query_async(&mut db).await
        };
        gone.expect("an answer");
        took.push(
            seen(&reads, deleted, |reads| {
                let reading = reads.peek(Market::Spot).expect("an old list at least");
                reading.stale.then_some(())
            })
            .await,
        );
    }
    took.sort();
    assert!(took[took.len() / 2] < AT_ONCE, "{took:?}");
    reads.stop().await;
}

async fn seen(reads: &SymbolReads, since: Instant, look: impl Fn(&SymbolReads) -> Option<()>) -> Duration {
    while look(reads).is_none() {
        assert!(since.elapsed() < PATIENCE, "never seen");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    since.elapsed()
}

#[tokio::test]
async fn a_change_behind_a_lost_connection_is_seen_after_it() {
    let world = World::new().await;
    python_writes(&world, Market::Spot, &python_list("OLD"), 300, 0).await;
    let proxy = ChaosProxy::start(world.redis.port());
    let proxied = proxy.url();
    let reads = readers(&world, &[("REDIS_URL", &proxied)]);
    read(&reads, Market::Spot).await;
    proxy.cut();
    python_writes(&world, Market::Spot, &python_list("NEW"), 300, 0).await;
    for _ in 0..100 {
        let reading = reads.peek(Market::Spot).expect("the list from before");
        assert!(!reading.stale, "its lifetime has not ended");
    }
    proxy.restore();
    peeked(&reads, Market::Spot, "the new list", |reading| {
        names(reading)[1] == "NEWUSDT"
    })
    .await;
    reads.stop().await;
}

#[tokio::test]
async fn a_lost_connection_prolongs_no_lifetime() {
    let world = World::new().await;
    python_writes(&world, Market::Spot, &python_list("OLD"), 2, 0).await;
    let proxy = ChaosProxy::start(world.redis.port());
    let proxied = proxy.url();
    let reads = readers(&world, &[("REDIS_URL", &proxied)]);
    read(&reads, Market::Spot).await;
    world
        .exchange
        .always(path(Market::Spot), Reply::status(500, "boom"));
    proxy.freeze();
    let reading = peeked(&reads, Market::Spot, "the end of its lifetime", |reading| {
        reading.stale
    })
    .await;
    assert!(
        reading.age.is_some_and(|age| age >= Duration::from_secs(2)),
        "{reading:?}"
    );
    reads.stop().await;
}

#[tokio::test]
async fn a_refresh_that_comes_too_late_leaves_readers_the_newer_list() {
    let world = World::new().await;
    let slow = Reply::json(listing(&["LATE"], 1)).delay(SECOND);
    world.exchange.always(path(Market::Spot), slow);
    let reads = readers(&world, &[]);
    let (late, ()) = tokio::join!(read(&reads, Market::Spot), async {
        eventually("a request", PATIENCE, async || {
            (world.exchange.count(path(Market::Spot)) == 1).then_some(())
        })
        .await;
        // Another process, under a later lease.
        let later: Result<(), _> = world
            .db()
            .hset_multiple(
                CacheKeys(Market::Spot).fence(),
                &[("issued", 1000), ("written", 1000)],
            )
            .await;
        later.expect("a lease");
        python_writes(&world, Market::Spot, &python_list("NEW"), 300, 0).await;
    });
    assert!(names(&late).contains(&"LATEUSDT"), "{late:?}");
    peeked(&reads, Market::Spot, "the newer list", |reading| {
        names(reading)[1] == "NEWUSDT"
    })
    .await;
    reads.stop().await;
}

#[tokio::test]
async fn a_server_that_reports_no_changes_is_looked_at() {
    let redis = RedisServer::start();
    let mut db = redis.connection().await;
    let rule: Result<(), _> = redis::cmd("ACL")
        .arg(&[
            "SETUSER",
            "plain",
            "on",
            ">pw",
            "~*",
            "&*",
            "+@all",
            "-client|tracking",
        ])
        .query_async(&mut db)
        .await;
    rule.expect("a user");
    let world = World::on(redis).await;
    python_writes(&world, Market::Spot, &python_list("OLD"), 300, 0).await;
    let url = world.redis.url().replace("redis://", "redis://plain:pw@");
    let reads = SymbolReads::start(settings(&world, &[("REDIS_URL", &url)]), "tests").expect("readers");
    read(&reads, Market::Spot).await;
    let began = Instant::now();
    for new in ["A", "B", "C", "D", "E", "F", "G", "H"] {
        python_writes(&world, Market::Spot, &python_list(new), 300, 0).await;
        peeked(&reads, Market::Spot, "the new list", |reading| {
            names(reading)[1] == format!("{new}USDT")
        })
        .await;
    }
    // Eight looks take two seconds. The limit is below ten times that, even with `TEST_PATIENCE=3`.
    let took = began.elapsed();
    assert!(took < stretched(SECOND * 5), "{took:?}");
    reads.stop().await;
}

#[tokio::test]
async fn changes_are_returned_from_any_id_on() {
    let world = World::new().await;
    let reads = readers(&world, &[]);
    let spot = path(Market::Spot);
    let round = async |others: &[&str], time: i64| {
        world.exchange.always(spot, Reply::json(listing(others, time)));
        let deleted: Result<(), _> = world.db().del(CacheKeys(Market::Spot).primary()).await;
        deleted.expect("an answer");
        peeked_or_read(&reads, others.len() + 2).await;
    };
    round(&["A", "B", "C", "D", "E", "F", "G", "H"], 1).await;
    let nothing = reads.changes(None, 10).await.expect("changes");
    assert_eq!(
        (nothing.changes.len(), nothing.complete, nothing.more),
        (0, true, false)
    );
    round(&["A", "B", "C", "D", "E", "F", "G", "H", "I"], 2).await;
    round(&["B", "C", "D", "E", "F", "G", "H", "I"], 3).await;
    let all = reads.changes(None, 10).await.expect("changes");
    let [added, removed] = &all.changes[..] else {
        panic!("{all:?}")
    };
    assert_eq!((added.market, added.diff.added.len()), (Market::Spot, 1));
    assert_eq!(added.diff.added[0].symbol, "IUSDT");
    assert_eq!(removed.diff.removed[0].symbol, "AUSDT");
    let rest = reads.changes(Some(&added.id), 10).await.expect("changes");
    assert_eq!(&rest.changes[..], std::slice::from_ref(removed));
    assert!(rest.complete && !rest.more);
    let part = reads.changes(Some("0"), 1).await.expect("changes");
    assert_eq!(
        (&part.changes[..], part.more),
        (std::slice::from_ref(added), true)
    );
    assert!(reads.changes(Some("yesterday"), 1).await.is_err());
    // Those who read the old list during a refresh do not start another.
    assert_eq!(world.exchange.count(spot), 3);
    reads.stop().await;
}

async fn peeked_or_read(reads: &SymbolReads, count: usize) {
    eventually(&format!("a list of {count}"), PATIENCE, async || {
        let reading = reads.read(Market::Spot).await.ok()?;
        (!reading.stale && reading.list.count() == count).then_some(())
    })
    .await;
}
