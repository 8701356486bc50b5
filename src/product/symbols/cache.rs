//! The lists in Redis: the keys that existing readers know, and new ones beside them.
//!
//! A refresh writes the primary list (which expires), the last-good list, its time and the success counter in one script, so
//! no reader sees a new list with an old time. Values have the bytes that Python's `json.dumps` would write. New facts
//! (network, host, count) go into the source key, which existing readers ignore.

mod foreign;
mod lease;
#[cfg(feature = "worker")]
mod unusable;
mod write;

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use redis::{Script, cmd};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

use super::changes::STREAM;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::market::{self, Market, PerMarket};

pub(super) use foreign::{ForeignLists, RefusedLists, SAME_SECONDS};
pub(super) use lease::{LEASE, LONGEST_PAUSE, LeaseReply, LeaseRequest, RefreshLease};
#[cfg(feature = "worker")]
pub(crate) use unusable::unusable_keys;
pub(super) use write::{ListWrite, WriteOutcome};

/// The network that a list describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListNetwork {
    /// The real exchange.
    Mainnet,
    /// Its testnets.
    Testnet,
    /// The sandbox. Nothing in such a list is real.
    Sandbox,
}

/// The source key: where a list came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListSource {
    /// Which network the list describes.
    pub network: ListNetwork,
    /// Scheme and host that served it, or `another program`.
    pub host: String,
    /// Unix seconds of the refresh.
    pub fetched_at: i64,
    /// Symbols in the list.
    pub count: usize,
    /// The exchange's clock in its answer, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_time: Option<i64>,
    /// Which kind of refresh fetched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<FetchedBy>,
    /// SHA-1 of the list that this describes, in hexadecimal. Another list under the same keys is another program's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sha1: String,
    /// SHA-1 of the symbols of all quote assets and statuses that belong to the list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub everything_sha1: Option<String>,
}

/// Which kind of refresh fetched a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FetchedBy {
    /// A warm-up task.
    Warmup,
    /// A reader that found no fresh list.
    Reader,
    /// Another program, whose list resembled the one before it. `network` is that of the list before.
    Other,
}

/// A market's keys in Redis.
#[derive(Debug, Default)]
pub(crate) struct StoredLists {
    /// The primary list, if it has not expired.
    pub primary: Option<Bytes>,
    /// Milliseconds until the primary list expires; `None` if it is absent or does not expire.
    pub ttl_ms: Option<i64>,
    /// The last-good list.
    pub last_good: Option<Bytes>,
    /// Where the list accepted last came from.
    pub(super) source: Option<ListSource>,
    /// The list accepted last. Only read if another list is in one of its places.
    pub(super) accepted: Option<Bytes>,
    /// Whether the list accepted last is here in the place of another one.
    pub(super) kept: bool,
    /// The keys of lists that are too large to be read, and why.
    pub(super) too_large: Vec<(String, String)>,
    /// Unix seconds of the last refresh; `None` if it is no time.
    pub last_refresh: Option<i64>,
    /// The same, as stored.
    pub(super) last_refresh_text: Vec<u8>,
}

/// Why a list could not be read or written.
#[derive(Debug, Error)]
pub enum CacheError {
    /// Redis failed.
    #[error("cannot access the {market} symbol cache in Redis")]
    Redis {
        /// The market.
        market: Market,
        /// The cause.
        source: RedisTrouble,
    },
    /// A sandbox list must not replace a real one.
    #[error(
        "refused to put sandbox data over the real {market} list in {place}: \
         use another Redis, for example with `up --sandbox --private-redis`, or delete the {market} list first"
    )]
    SandboxOverReal {
        /// The market.
        market: Market,
        /// The address of Redis, without secrets.
        place: String,
    },
    /// Other processes kept replacing the list during the comparison.
    #[error("other processes keep replacing the {market} list, try again")]
    Contended {
        /// The market.
        market: Market,
    },
    /// A counter could not be incremented.
    #[error("cannot increment {key}")]
    Counter {
        /// The counter's key.
        key: String,
        /// The cause.
        source: RedisTrouble,
    },
    /// Redis failed to return the changes.
    #[error("cannot read {STREAM}, the changes of the symbol lists, from Redis")]
    Changes(#[source] RedisTrouble),
    /// `since` is not the id of a stream entry.
    #[error("`{0}` is not the id of a change: write milliseconds, or milliseconds-number")]
    StreamId(String),
}

/// Names of a market's keys. Those of lists and counters are the existing deployment's.
#[derive(Debug, Clone, Copy)]
pub struct CacheKeys(pub Market);

impl CacheKeys {
    /// The primary list, which expires.
    #[must_use]
    pub fn primary(self) -> String {
        format!("cache:symbols:{}:v1", self.0)
    }

    /// The last-good list, which does not expire.
    #[must_use]
    pub fn last_good(self) -> String {
        format!("cache:symbols:{}:last_good", self.0)
    }

    /// The time of the last refresh: Unix seconds, as a JSON integer.
    #[must_use]
    pub fn last_refresh(self) -> String {
        format!("metrics:{}_symbols_cache:last_refresh_ts", self.0)
    }

    /// The list accepted last. Other programs do not know this key.
    #[must_use]
    pub fn accepted(self) -> String {
        format!("cache:symbols:{}:accepted", self.0)
    }

    /// The last list of another program that was refused: when, why, and how many within a day.
    #[must_use]
    pub fn refused(self) -> String {
        format!("cache:symbols:{}:refused", self.0)
    }

    /// When a warm-up of ours last succeeded, and when and why a refresh last failed, as a hash.
    #[must_use]
    pub fn refreshes(self) -> String {
        format!("cache:symbols:{}:refreshes", self.0)
    }

    /// Network, host, count and SHA-1 of the list, as a JSON object.
    #[must_use]
    pub fn source(self) -> String {
        format!("cache:symbols:{}:source", self.0)
    }

    /// The lock of the process that refreshes.
    #[must_use]
    pub fn lock(self) -> String {
        format!("cache:symbols:{}:refresh_lock", self.0)
    }

    /// Fencing numbers: that of the last lease issued, and that under which the list was written.
    #[must_use]
    pub fn fence(self) -> String {
        format!("cache:symbols:{}:fence", self.0)
    }

    /// Negative cache: why the last refresh for a reader failed. While it exists, no reader tries again.
    #[must_use]
    pub fn failure(self) -> String {
        format!("cache:symbols:{}:failure", self.0)
    }

    /// The held-back list, until a second fetch confirms it.
    #[must_use]
    pub fn held_back(self) -> String {
        format!("cache:symbols:{}:held_back", self.0)
    }

    /// The symbols of all quote assets and statuses, as a JSON array like the list.
    #[must_use]
    pub fn everything(self) -> String {
        format!("cache:symbols:{}:everything", self.0)
    }

    /// Symbols that are not trading, with their status, as a JSON object.
    #[must_use]
    pub fn not_trading(self) -> String {
        format!("cache:symbols:{}:not_trading", self.0)
    }

    /// Exists while the exchange wants no requests to a network, and expires with the pause.
    #[must_use]
    pub fn ban(self, network: market::Network) -> String {
        format!("cache:symbols:{}:ban:{network}", self.0)
    }

    /// Counter of reads that found a list.
    #[must_use]
    pub fn hit_counter(self) -> String {
        format!("metrics:cache_hit:symbols_{}", self.0)
    }

    /// Counter of reads that found none.
    #[must_use]
    pub fn miss_counter(self) -> String {
        format!("metrics:cache_miss:symbols_{}", self.0)
    }

    /// Counter of refreshes that succeeded.
    #[must_use]
    pub fn success_counter(self) -> String {
        format!("metrics:warmup_{}_symbols_cache:success", self.0)
    }

    /// Counter of refreshes that failed.
    #[must_use]
    pub fn error_counter(self) -> String {
        format!("metrics:warmup_{}_symbols_cache:error", self.0)
    }
}

/// The symbol cache of one Redis.
pub(crate) struct SymbolCache {
    pub(super) connection: Connection,
    ttl_seconds: PerMarket<i64>,
    clock: SharedClock,
    scripts: Scripts,
    /// What scripts found last in keys that hold something else.
    unusable: Mutex<Vec<String>>,
}

struct Scripts {
    refresh: Script,
    restore: Script,
    adopt: Script,
    begin: Script,
    give_up: Script,
    failed: Script,
    count: Script,
}

impl SymbolCache {
    /// A cache over `connection`, whose primary lists expire after `ttl_seconds`.
    #[must_use]
    pub(crate) fn new(connection: Connection, ttl_seconds: PerMarket<i64>, clock: SharedClock) -> Self {
        let script = |text: &str| Script::new(&format!("{}{text}", include_str!("scripts/usable.lua")));
        let scripts = Scripts {
            refresh: script(include_str!("scripts/refresh.lua")),
            restore: script(include_str!("scripts/restore.lua")),
            adopt: script(include_str!("scripts/adopt.lua")),
            begin: script(include_str!("scripts/begin.lua")),
            give_up: script(include_str!("scripts/give_up.lua")),
            failed: script(include_str!("scripts/failed.lua")),
            count: script(include_str!("scripts/count.lua")),
        };
        Self {
            connection,
            ttl_seconds,
            clock,
            scripts,
            unusable: Mutex::default(),
        }
    }

    /// Logs lists that are too large.
    pub(super) fn name_too_large(&self, lists: &StoredLists) {
        let named = lists.too_large.iter().map(|(key, why)| format!("{key}: {why}"));
        self.name_unusable(named.collect());
    }

    /// Logs the keys that hold something else than they should: once, until a script finds others.
    fn name_unusable(&self, found: Vec<String>) {
        // Locked for comparisons and assignments, never across an await.
        let mut known = self.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        if found.is_empty() || *known == found {
            return;
        }
        for what in &found {
            let (key, reason) = what.split_once(": ").unwrap_or((what, ""));
            warn!(
                key,
                reason, "passed over or replaced a key that holds something else than it should"
            );
        }
        *known = found;
    }

    /// The clock that dates refreshes.
    pub(super) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// Adds hits and misses of spot, then of futures, to the read counters. `batch` numbers the batches of `process`: a
    /// batch that is sent again is added only once. A counter that holds no number is passed over.
    ///
    /// # Errors
    /// When Redis fails. It may still have added the batch; send it again.
    pub(super) async fn count_reads(
        &self,
        process: &str,
        batch: u64,
        counts: [u64; 4],
    ) -> Result<(), RedisTrouble> {
        const REMEMBERED_SECONDS: u32 = 86_400;
        let mut call = self.scripts.count.prepare_invoke();
        call.key(format!("metrics:cache_counts:{process}"));
        call.arg(batch).arg(REMEMBERED_SECONDS);
        for market in Market::ALL {
            let keys = CacheKeys(market);
            call.key(keys.hit_counter()).key(keys.miss_counter());
        }
        for count in counts {
            call.arg(count);
        }
        let unusable = self.connection.script(None, &call).await?;
        self.name_unusable(unusable);
        Ok(())
    }

    /// Counts a failed warm-up, and remembers why it failed.
    ///
    /// # Errors
    /// [`CacheError::Counter`].
    pub(crate) async fn count_error(&self, market: Market, why: &str) -> Result<(), CacheError> {
        let keys = CacheKeys(market);
        let key = keys.error_counter();
        let mut call = self.scripts.failed.prepare_invoke();
        call.key(&key).key(keys.refreshes());
        call.arg(self.clock.now().timestamp()).arg(why);
        let called: Result<Vec<String>, _> = self.connection.script(None, &call).await;
        self.name_unusable(called.map_err(|source| CacheError::Counter { key, source })?);
        Ok(())
    }
}

impl StoredLists {
    /// Reads a market's keys in one transaction. A connection with client tracking tracks them from then on.
    ///
    /// # Errors
    /// [`CacheError::Redis`].
    pub(crate) async fn read(connection: &Connection, market: Market) -> Result<Self, CacheError> {
        let keys = CacheKeys(market);
        let lists = [keys.primary(), keys.last_good()];
        let asked = tokio::try_join!(too_large(connection, &lists[0]), too_large(connection, &lists[1]));
        let too_large: [_; 2] = asked
            .map_err(|source| CacheError::Redis { market, source })?
            .into();
        // A list that is too large is not read, and another key is read in its place.
        let [primary, last_good] = [0, 1].map(|place| match too_large[place] {
            Some(_) => keys.source(),
            None => lists[place].clone(),
        });
        let mut pipeline = redis::pipe();
        pipeline.atomic().pttl(keys.primary()).mget(&[
            primary,
            last_good,
            keys.source(),
            keys.last_refresh(),
        ]);
        let read: Result<(i64, [Option<Vec<u8>>; 4]), _> = connection.pipeline(&pipeline).await;
        let (ttl_ms, [primary, last_good, source, last_refresh]) =
            read.map_err(|source| CacheError::Redis { market, source })?;
        let [primary, last_good] = [
            primary.filter(|_| too_large[0].is_none()),
            last_good.filter(|_| too_large[1].is_none()),
        ];
        let last_refresh_text = last_refresh.unwrap_or_default();
        let mut stored = Self {
            primary: primary.map(Bytes::from),
            ttl_ms: (ttl_ms >= 0).then_some(ttl_ms),
            last_good: last_good.map(Bytes::from),
            too_large: lists
                .into_iter()
                .zip(too_large)
                .filter_map(|(key, why)| Some((key, why?)))
                .collect(),
            source: source.and_then(|json| serde_json::from_slice(&json).ok()),
            accepted: None,
            kept: false,
            last_refresh: serde_json::from_slice(&last_refresh_text)
                .ok()
                .filter(|at| *at >= 0),
            last_refresh_text,
        };
        if stored.has_foreign() {
            let read: Result<Option<Vec<u8>>, _> = connection.command(cmd("GET").arg(keys.accepted())).await;
            stored.accepted = read
                .map_err(|source| CacheError::Redis { market, source })?
                .map(Bytes::from);
        }
        Ok(stored)
    }

    /// Where a list came from; `None` if it is not the one accepted last.
    pub(crate) fn source_of(&self, list: &[u8]) -> Option<ListSource> {
        self.source.clone().filter(|source| source.describes(list))
    }

    fn has_foreign(&self) -> bool {
        let source = self.source.as_ref().filter(|source| !source.sha1.is_empty());
        let mut lists = self.primary.iter().chain(&self.last_good);
        source.is_some_and(|source| lists.any(|list| !source.describes(list)))
    }
}

impl ListSource {
    /// Whether it describes this list.
    pub(crate) fn describes(&self, list: &[u8]) -> bool {
        self.sha1 == sha1(list)
    }
}

/// More than ten times the size of any real list, and of all symbols of a market.
const LARGEST_LIST: u64 = 16 << 20;

/// Why the text of a key is not to be read, if so. If the server refuses to tell its length, it is read.
///
/// # Errors
/// When the server does not answer.
pub(crate) async fn too_large(connection: &Connection, key: &str) -> Result<Option<String>, RedisTrouble> {
    let length = match connection.command::<u64>(cmd("STRLEN").arg(key)).await {
        Err(RedisTrouble::Refused { .. }) => return Ok(None),
        asked => asked?,
    };
    Ok((length > LARGEST_LIST).then(|| format!("{length} bytes, more than any list of symbols")))
}

/// The digest that `redis.sha1hex` computes in a script.
pub(super) fn sha1(text: &[u8]) -> String {
    sha1_smol::Sha1::from(text).digest().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::binance::exchange_info::Symbol;
    use tradebot_wire::python_json;

    #[test]
    fn keys_are_those_of_the_existing_deployment() {
        let keys = CacheKeys(Market::Futures);
        assert_eq!(keys.primary(), "cache:symbols:futures:v1");
        assert_eq!(keys.last_good(), "cache:symbols:futures:last_good");
        assert_eq!(
            keys.last_refresh(),
            "metrics:futures_symbols_cache:last_refresh_ts"
        );
        assert_eq!(
            CacheKeys(Market::Spot).success_counter(),
            "metrics:warmup_spot_symbols_cache:success"
        );
        assert_eq!(
            CacheKeys(Market::Spot).error_counter(),
            "metrics:warmup_spot_symbols_cache:error"
        );
    }

    #[test]
    fn a_symbol_has_four_members_in_the_order_readers_expect() {
        let symbol = Symbol {
            symbol: "BTCUSDT".into(),
            base_asset: "BTC".into(),
            quote_asset: "USDT".into(),
            status: "TRADING".into(),
        };
        assert_eq!(
            python_json::to_string(&[symbol]).unwrap(),
            r#"[{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}]"#
        );
    }
}
