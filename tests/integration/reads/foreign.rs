//! Lists that other programs write over ours: good ones are served, bad ones are not and do not last.

use std::time::Duration;

use tokio::time::Instant;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::{FetchedBy, ListNetwork, SymbolReads};
use tradebot_test_support::{Reply, Signal, eventually};

use super::{Level, assert_fresh, listing, names, peeked, python_writes, read, readers};
use crate::world::{PATIENCE, World, now, path};

const SPOT: Market = Market::Spot;
const BASES: [&str; 10] = ["C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8", "C9", "D1"];

/// A list as Python writes it, of symbols in USDT.
fn python_list(bases: &[&str]) -> String {
    let symbol = |base: &&str| {
        format!(
            r#"{{"symbol": "{base}USDT", "baseAsset": "{base}", "quoteAsset": "USDT", "status": "TRADING"}}"#
        )
    };
    let symbols: Vec<String> = bases.iter().map(symbol).collect();
    format!("[{}]", symbols.join(", "))
}

fn python_list_with_anchors(others: &[&str]) -> String {
    let bases: Vec<&str> = ["BTC", "ETH"].iter().chain(others).copied().collect();
    python_list(&bases)
}

/// Readers with a list of ours in memory, and its text.
async fn with_a_list(extra: &[(&str, &str)]) -> (World, SymbolReads, String) {
    let world = World::new().await;
    world
        .exchange
        .always(path(SPOT), Reply::json(listing(&BASES, 1_791_331_200_000)));
    let lasting = [("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "300")];
    let reads = readers(&world, &[&lasting[..], extra].concat());
    eventually("a look at Redis", PATIENCE, async || {
        reads.is_connected().then_some(())
    })
    .await;
    assert_fresh(&read(&reads, SPOT).await, Level::Upstream);
    let ours = python_list_with_anchors(&BASES);
    peeked(&reads, SPOT, "the list of Redis", |reading| {
        reading.list.json() == ours.as_bytes() && !reading.stale
    })
    .await;
    (world, reads, ours)
}

/// Lists that must never be served in place of ours.
fn bad_lists() -> [(&'static str, String); 7] {
    let half = python_list_with_anchors(&BASES[..4]);
    let without_anchor = python_list(&[&["ETH", "E1"], &BASES[..]].concat());
    let others: Vec<String> = (0..12).map(|number| format!("T{number}")).collect();
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let another_market = python_list_with_anchors(&others);
    let more = python_list_with_anchors(&[&BASES[..], &others[..]].concat());
    [
        ("an empty list", "[]".to_owned()),
        ("no list", "{\"detail\": \"oops\"}".to_owned()),
        ("numbers", "[1, 2, 3]".to_owned()),
        ("half a list", half),
        ("a list without BTC", without_anchor),
        ("a list of another market", another_market),
        ("a list that is twice as long", more),
    ]
}

#[tokio::test]
async fn a_bad_list_of_another_program_is_neither_served_nor_left_in_redis() {
    for (what, bad) in bad_lists() {
        let (world, reads, ours) = with_a_list(&[]).await;
        let asked = world.exchange.count(path(SPOT));
        python_writes(&world, SPOT, &bad, 300, 0).await;
        let keys = CacheKeys(SPOT);
        let began = Instant::now();
        eventually("our list in Redis again", PATIENCE, async || {
            let reading = reads.peek(SPOT).expect("a list");
            assert_eq!(reading.list.json(), ours.as_bytes(), "{what}");
            let restored = world.get(&keys.primary()).await.as_deref() == Some(&*ours)
                && world.get(&keys.last_good()).await.as_deref() == Some(&*ours);
            restored.then_some(())
        })
        .await;
        eventually("a refresh", PATIENCE, async || {
            (world.exchange.count(path(SPOT)) > asked).then_some(())
        })
        .await;
        let reading = peeked(&reads, SPOT, "the refreshed list", |reading| {
            reading.level != Level::Kept
        })
        .await;
        assert_eq!(names(&reading).len(), 12, "{what}, after {:?}", began.elapsed());
        assert_eq!(reads.status(SPOT).refused, 1, "{what}");
        let times: String = redis::cmd("HGET")
            .arg(keys.refused())
            .arg("times")
            .query_async(&mut world.db())
            .await
            .expect("a record");
        assert_eq!(times, "1", "{what}");
    }
}

#[tokio::test]
async fn readers_keep_the_accepted_list_while_the_exchange_is_away() {
    let (world, reads, ours) = with_a_list(&[]).await;
    world.exchange.always(path(SPOT), Reply::status(503, ""));
    python_writes(&world, SPOT, "[]", 300, 0).await;
    let reading = peeked(&reads, SPOT, "the kept list", |reading| {
        reading.level == Level::Kept
    })
    .await;
    assert_eq!(reading.list.json(), ours.as_bytes());
    // One that starts now finds it too.
    let late = readers(&world, &[]);
    let reading = peeked(&late, SPOT, "the list", |_| true).await;
    assert_eq!(reading.list.json(), ours.as_bytes());
    let keys = CacheKeys(SPOT);
    assert_eq!(world.get(&keys.last_good()).await.as_deref(), Some(&*ours));
}

#[tokio::test]
async fn a_reader_that_starts_after_a_bad_list_gets_the_accepted_one() {
    let (world, reads, ours) = with_a_list(&[]).await;
    reads.stop().await;
    world.exchange.always(path(SPOT), Reply::status(503, ""));
    for (what, bad) in bad_lists() {
        python_writes(&world, SPOT, &bad, 300, 0).await;
        let reads = readers(&world, &[]);
        let reading = read(&reads, SPOT).await;
        assert_eq!(reading.list.json(), ours.as_bytes(), "{what}");
        let source = reading.list.source().expect("a source");
        assert_eq!(source.network, ListNetwork::Mainnet, "{what}");
        reads.stop().await;
    }
}

/// A market may change by a fifth.
#[tokio::test]
async fn a_good_list_of_another_program_is_served_and_becomes_the_accepted_one() {
    let (world, reads, _) = with_a_list(&[]).await;
    let keys = CacheKeys(SPOT);
    let mut bases = BASES.to_vec();
    // Far from the first list in the end, but never far from the one before.
    for number in ["N1", "N2", "N3", "N4", "N5", "N6", "N7", "N8"] {
        bases.remove(0);
        bases.push(number);
        let good = python_list_with_anchors(&bases);
        python_writes(&world, SPOT, &good, 300, 0).await;
        peeked(&reads, SPOT, "Python's list", |reading| {
            reading.list.json() == good.as_bytes() && reading.level == Level::Memory
        })
        .await;
        eventually("the list as the accepted one", PATIENCE, async || {
            (world.get(&keys.accepted()).await.as_deref() == Some(&*good)).then_some(())
        })
        .await;
    }
    let reading = peeked(&reads, SPOT, "its source", |reading| {
        reading.list.source().is_some()
    })
    .await;
    assert_eq!(
        reading.list.source().and_then(|source| source.by),
        Some(FetchedBy::Other)
    );
    assert_eq!(reads.status(SPOT).refused, 0);
    // A bad list is now replaced by that of Python, not by ours of long ago.
    let last = python_list_with_anchors(&bases);
    world.exchange.always(path(SPOT), Reply::status(503, ""));
    python_writes(&world, SPOT, "[]", 300, 0).await;
    eventually("Python's list again", PATIENCE, async || {
        (world.get(&keys.primary()).await.as_deref() == Some(&*last)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_list_within_the_same_second_is_not_taken_for_ours() {
    let (world, reads, _) = with_a_list(&[]).await;
    let good = python_list_with_anchors(&[&BASES[..], &["N1"]].concat());
    let keys = CacheKeys(SPOT);
    let at: i64 = world
        .get(&keys.last_refresh())
        .await
        .expect("a time")
        .parse()
        .expect("seconds");
    python_writes(&world, SPOT, &good, 300, now().timestamp() - at).await;
    let reading = peeked(&reads, SPOT, "Python's list", |reading| {
        reading.list.json() == good.as_bytes()
    })
    .await;
    let by = reading.list.source().and_then(|source| source.by);
    assert_ne!(by, Some(FetchedBy::Reader));
}

#[tokio::test]
async fn a_warm_up_restores_the_list_even_if_it_cannot_fetch_one() {
    let (world, reads, ours) = with_a_list(&[]).await;
    reads.stop().await;
    world.exchange.always(path(SPOT), Reply::status(503, ""));
    python_writes(&world, SPOT, "[]", 300, 0).await;
    let _worker = world.start_worker(&[]);
    let (_, result) = world.run_last_try(SPOT).await;
    assert_eq!(result["status"], "FAILURE");
    let keys = CacheKeys(SPOT);
    eventually("our list in Redis again", PATIENCE, async || {
        let restored = world.get(&keys.primary()).await.as_deref() == Some(&*ours)
            && world.get(&keys.last_good()).await.as_deref() == Some(&*ours);
        restored.then_some(())
    })
    .await;
}

/// Where no endpoint of ours runs, Python's routes are the only readers.
#[tokio::test]
async fn a_worker_restores_the_list_at_once() {
    let world = World::new().await;
    world
        .exchange
        .always(path(SPOT), Reply::json(listing(&BASES, 1_791_331_200_000)));
    let worker = world.start_worker(&[]);
    world.run_last_try(SPOT).await;
    let keys = CacheKeys(SPOT);
    let ours = world.get(&keys.primary()).await.expect("our list");
    for (what, bad) in bad_lists() {
        python_writes(&world, SPOT, &bad, 300, 0).await;
        eventually(
            &format!("our list in Redis again, after {what}"),
            PATIENCE,
            async || {
                let restored = world.get(&keys.primary()).await.as_deref() == Some(&*ours)
                    && world.get(&keys.last_good()).await.as_deref() == Some(&*ours);
                restored.then_some(())
            },
        )
        .await;
    }
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_exit(PATIENCE).code(), Some(0), "{}", worker.output());
}

/// A writer of bad lists costs the exchange one call, however often it writes.
#[tokio::test]
async fn bad_lists_in_a_row_cause_one_refresh() {
    let (world, reads, ours) = with_a_list(&[]).await;
    let asked = world.exchange.count(path(SPOT));
    let keys = CacheKeys(SPOT);
    for number in 0..20 {
        let bad = python_list_with_anchors(&BASES[..number % 5]);
        python_writes(&world, SPOT, &bad, 300, 0).await;
        eventually("our list in Redis again", PATIENCE, async || {
            (world.get(&keys.last_good()).await.as_deref() == Some(&*ours)).then_some(())
        })
        .await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(world.exchange.count(path(SPOT)) - asked, 1);
    assert_eq!(read(&reads, SPOT).await.list.json(), ours.as_bytes());
}

/// A real shrink gets through: the exchange confirms it.
#[tokio::test]
async fn a_market_that_really_shrank_is_served_once_the_exchange_confirms_it() {
    let extra = [("SYMBOLS_CONFIRM_AFTER_SECONDS", "1")];
    let (world, reads, _) = with_a_list(&extra).await;
    for second in 1..=2 {
        let answer = listing(&["C1"], 1_791_331_200_000 + second * 1000);
        world.exchange.reply(path(SPOT), Reply::json(&answer));
    }
    let shrunk = python_list_with_anchors(&["C1"]);
    python_writes(&world, SPOT, &shrunk, 300, 0).await;
    peeked(&reads, SPOT, "the shrunk list", |reading| {
        reading.list.json() == shrunk.as_bytes()
    })
    .await;
}
