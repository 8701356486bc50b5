//! Reading the lists: each branch of the flow, over a real Redis and a scripted exchange.

mod bad_answers;
mod coherence;
mod flow;
mod foreign;
mod late;
mod stampede;
mod trouble;

use std::collections::BTreeMap;
use std::time::Duration;

use redis::AsyncCommands;
use tradebot_base::config::Vars;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::{Level, Reading, ReadsSettings, SymbolReads};
use tradebot_test_support::eventually;

use crate::world::{PATIENCE, World, exchange_info};

/// Readers of a world's lists, with `extra` in their environment. Nothing is fetched before the first read.
pub(crate) fn readers(world: &World, extra: &[(&str, &str)]) -> SymbolReads {
    SymbolReads::start(settings(world, extra), "tests").expect("readers")
}

fn settings(world: &World, extra: &[(&str, &str)]) -> ReadsSettings {
    let environment = world.environment();
    let mut vars: BTreeMap<&str, &str> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    vars.extend([
        ("ENABLE_SPOT_WARMUP_ON_STARTUP", "0"),
        ("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0"),
        ("SYMBOLS_REFRESH_AHEAD_PERCENT", "0"),
        ("BINANCE_RETRY_MAX_ATTEMPTS", "1"),
    ]);
    vars.extend(extra.iter().copied());
    ReadsSettings::read(&vars as &dyn Vars).expect("an environment")
}

/// A list as Python writes it, with this symbol at its end.
fn python_list(last: &str) -> String {
    format!(
        r#"[{{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}}, {{"symbol": "{last}USDT", "baseAsset": "{last}", "quoteAsset": "USDT", "status": "TRADING"}}]"#
    )
}

/// Stores a list as the Python routes do, so many seconds ago.
async fn python_writes(world: &World, market: Market, list: &str, ttl: u64, seconds_ago: i64) {
    let keys = CacheKeys(market);
    let mut db = world.db();
    let at = crate::world::now().timestamp() - seconds_ago;
    let set: Result<(), _> = db.set_ex(keys.primary(), list, ttl).await;
    set.expect("a primary list");
    world.set(&keys.last_good(), list).await;
    world.set(&keys.last_refresh(), &at.to_string()).await;
}

/// An exchange's list with the anchors and these.
fn listing(others: &[&str], server_time: i64) -> String {
    let symbols: Vec<_> = ["BTC", "ETH"]
        .iter()
        .chain(others)
        .map(|base| (*base, "USDT", "TRADING"))
        .collect();
    exchange_info(&symbols).replace("1791331200000", &server_time.to_string())
}

fn names(reading: &Reading) -> Vec<&str> {
    reading
        .list
        .symbols()
        .iter()
        .map(|symbol| symbol.symbol.as_str())
        .collect()
}

/// Waits until a peek finds what is wanted.
async fn peeked(
    reads: &SymbolReads,
    market: Market,
    what: &str,
    wanted: impl Fn(&Reading) -> bool,
) -> Reading {
    eventually(what, PATIENCE, async || {
        reads.peek(market).filter(|reading| wanted(reading))
    })
    .await
}

async fn read(reads: &SymbolReads, market: Market) -> Reading {
    reads.read(market).await.expect("a list")
}

fn assert_fresh(reading: &Reading, level: Level) {
    assert_eq!((reading.level, reading.stale), (level, false), "{reading:?}");
    assert!(reading.ttl.is_none_or(|ttl| ttl >= 0), "{reading:?}");
}

fn assert_stale(reading: &Reading, level: Level) {
    assert_eq!((reading.level, reading.stale), (level, true), "{reading:?}");
    assert!(reading.ttl.is_some_and(|ttl| ttl <= 0), "{reading:?}");
}

const SECOND: Duration = Duration::from_secs(1);
