//! The symbol lists in Redis: what readers find, how old it is, and how often they find it.

use std::collections::BTreeMap;

use redis::cmd;
use serde::{Deserialize, Serialize};

use super::finding::{self, Finding, Kind};
use super::samples::{Counts, Recent};
use super::settings::Settings;
use super::{Trouble, ask, ask_all};
use crate::product::symbols::cache::{CacheKeys, ListNetwork, ListSource};
use tradebot_base::connection::Connection;
use tradebot_base::market::Market;

/// What a refresh may be late beside one that was missed.
const GRACE_SECONDS: i64 = 30;
/// Fewer reads or refreshes than this say nothing.
const ENOUGH_READS: u64 = 20;
/// What share of reads may miss.
const MISSES: f64 = 0.2;

/// What a key holds.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Entry {
    /// Nothing.
    Missing,
    /// Something else than a text.
    WrongType {
        /// Redis's name of the type.
        found: String,
    },
    /// A text that is no list of symbols.
    Unreadable {
        /// Why.
        reason: String,
    },
    /// A list.
    List {
        /// Symbols in it.
        count: usize,
        /// Its size.
        bytes: usize,
        /// Assets that every list has, and this one has not.
        lacks: Vec<String>,
    },
}

/// What there is of one market.
#[derive(Debug, Clone, Serialize)]
pub struct MarketLists {
    /// Name of the market.
    pub market: &'static str,
    /// The list with a lifetime.
    pub primary: Entry,
    /// The list without one.
    pub last_good: Entry,
    /// Seconds that the primary list has left; absent without expiry.
    pub ttl_seconds: Option<i64>,
    /// Seconds since the last refresh, by the server's clock.
    pub age_seconds: Option<i64>,
    /// Where the list came from; absent for one that another program wrote.
    pub source: Option<ListSource>,
    /// Counters since they exist.
    pub counts: Counts,
    /// Counters since an earlier look, if there was one.
    pub recent: Option<Recent>,
    /// Keys that cannot be counted in, with what they hold.
    pub unusable: BTreeMap<String, String>,
}

/// A symbol as readers expect it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    #[serde(rename = "symbol")]
    _symbol: String,
    #[serde(rename = "baseAsset")]
    base_asset: String,
    #[serde(rename = "quoteAsset")]
    _quote_asset: String,
    #[serde(rename = "status")]
    _status: String,
}

impl Entry {
    fn of(found: &str, text: Option<Vec<u8>>, anchors: &[String]) -> Self {
        let Some(text) = text else {
            return match found {
                "none" | "string" => Self::Missing,
                other => Self::WrongType { found: other.into() },
            };
        };
        match serde_json::from_slice::<Vec<Listed>>(&text) {
            Err(error) => Self::Unreadable {
                reason: format!(
                    "{:?} error at line {} column {}",
                    error.classify(),
                    error.line(),
                    error.column()
                ),
            },
            Ok(list) => Self::List {
                count: list.len(),
                bytes: text.len(),
                lacks: anchors
                    .iter()
                    .filter(|base| list.iter().all(|one| one.base_asset != **base))
                    .cloned()
                    .collect(),
            },
        }
    }

    fn is_list(&self) -> bool {
        matches!(self, Self::List { .. })
    }
}

/// Names of a market's counters: reads that hit, that missed, refreshes that succeeded, that failed.
fn counters(market: Market) -> [String; 4] {
    let keys = CacheKeys(market);
    [
        keys.hit_counter(),
        keys.miss_counter(),
        keys.success_counter(),
        keys.error_counter(),
    ]
}

impl MarketLists {
    /// Reads a market's keys; `now` is the server's time.
    pub(super) async fn look(
        connection: &Connection,
        market: Market,
        anchors: &[String],
        now: i64,
    ) -> Result<Self, Trouble> {
        let keys = CacheKeys(market);
        let mut names = vec![
            keys.primary(),
            keys.last_good(),
            keys.last_refresh(),
            keys.source(),
        ];
        names.extend(counters(market));
        let mut types = redis::pipe();
        for name in &names {
            types.cmd("TYPE").arg(name);
        }
        let types: Vec<String> = ask_all(connection, &types).await?;
        // A key of another type would spoil the whole answer.
        let mut texts: Vec<Option<Vec<u8>>> = Vec::new();
        for (name, found) in names.iter().zip(&types) {
            let text = if found == "string" {
                match ask(connection, cmd("GET").arg(name)).await {
                    Err(trouble) if trouble.code.as_deref() == Some("WRONGTYPE") => None,
                    other => other?,
                }
            } else {
                None
            };
            texts.push(text);
        }
        let ttl: i64 = ask(connection, cmd("TTL").arg(keys.primary())).await?;
        let mut texts = texts.into_iter();
        let mut next = || texts.next().flatten();
        let primary = Entry::of(&types[0], next(), anchors);
        let last_good = Entry::of(&types[1], next(), anchors);
        let refreshed: Option<i64> =
            next().and_then(|text| std::str::from_utf8(&text).ok()?.trim().parse().ok());
        let source = next().and_then(|text| serde_json::from_slice::<ListSource>(&text).ok());
        let mut unusable = BTreeMap::new();
        let mut numbers = [0_u64; 4];
        for (place, name) in counters(market).into_iter().enumerate() {
            let (found, text) = (&types[4 + place], next());
            let number = text.map(|text| std::str::from_utf8(&text).ok()?.parse::<i64>().ok());
            match (found.as_str(), number) {
                ("none", _) | ("string", None) => {}
                ("string", Some(Some(number))) => numbers[place] = number.max(0).unsigned_abs(),
                ("string", Some(None)) => drop(unusable.insert(name, "a text that is no number".into())),
                (other, _) => drop(unusable.insert(name, format!("a {other}"))),
            }
        }
        let [hits, misses, successes, errors] = numbers;
        Ok(Self {
            market: market.name(),
            primary,
            last_good,
            ttl_seconds: (ttl >= 0).then_some(ttl),
            age_seconds: refreshed.map(|at| now - at),
            source: source.filter(|source| refreshed == Some(source.fetched_at)),
            counts: Counts {
                hits,
                misses,
                successes,
                errors,
            },
            recent: None,
            unusable,
        })
    }

    /// What is wrong with it.
    pub(super) fn judge(&self, market: Market, settings: &Settings) -> Vec<Finding> {
        let mut found = self.judge_entries(market);
        let mut add = |kind: &Kind, what: String| found.push(kind.found(self.market, what));
        let configured = *settings.symbols.ttl_seconds.get(market);
        let served = self.primary.is_list();
        if served && self.ttl_seconds.is_none() && configured > 0 {
            add(
                &finding::LIST_NEVER_EXPIRES,
                format!("it has no expiry; configured are {configured} s"),
            );
        }
        match (self.age_seconds, settings.schedule.warmup_interval.get(market)) {
            (None, _) if served => add(
                &finding::LIST_AGE_UNKNOWN,
                format!("{} holds no time", CacheKeys(market).last_refresh()),
            ),
            (Some(age), _) if age < -GRACE_SECONDS => add(
                &finding::REFRESH_IN_FUTURE,
                format!(
                    "the last refresh is dated {} ahead of the server's clock",
                    span(-age)
                ),
            ),
            (Some(age), Some(interval)) if served => {
                let interval = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX);
                if age > interval.saturating_mul(2).saturating_add(GRACE_SECONDS) {
                    let what = format!(
                        "the last refresh was {} ago, the interval is {}",
                        span(age),
                        span(interval)
                    );
                    add(&finding::LIST_STALE, what);
                }
            }
            _ => {}
        }
        if let Some(what) = self.wrong_network(market, settings) {
            add(&finding::LIST_WRONG_NETWORK, what);
        }
        for (name, held) in &self.unusable {
            add(&finding::COUNTER_UNUSABLE, format!("{name} holds {held}"));
        }
        let counts = self.recent.as_ref().map_or(self.counts, |recent| recent.counts);
        let since = self.recent.as_ref().map_or("so far".to_owned(), |recent| {
            format!("in the last {}", span(recent.seconds))
        });
        let reads = counts.hits + counts.misses;
        if reads >= ENOUGH_READS && counts.miss_ratio().is_some_and(|ratio| ratio > MISSES) {
            let what = format!("{} of {reads} reads missed {since}", counts.misses);
            add(&finding::CACHE_MISSES, what);
        }
        if counts.errors > 0 && counts.successes == 0 {
            add(
                &finding::REFRESHES_FAILING,
                format!("{} refreshes failed and none succeeded {since}", counts.errors),
            );
        }
        found
    }

    fn judge_entries(&self, market: Market) -> Vec<Finding> {
        let keys = CacheKeys(market);
        let mut found = Vec::new();
        for (entry, key, unreadable, empty) in [
            (
                &self.primary,
                keys.primary(),
                &finding::LIST_UNREADABLE,
                &finding::LIST_EMPTY,
            ),
            (
                &self.last_good,
                keys.last_good(),
                &finding::LAST_GOOD_UNREADABLE,
                &finding::LAST_GOOD_EMPTY,
            ),
        ] {
            let (kind, what) = match entry {
                Entry::WrongType { found } => (&finding::LIST_WRONG_TYPE, format!("{key} holds a {found}")),
                Entry::Unreadable { reason } => {
                    (unreadable, format!("{key} holds no list of symbols: {reason}"))
                }
                Entry::List { count: 0, .. } => (empty, format!("{key} holds an empty list")),
                Entry::List { lacks, count, .. } if !lacks.is_empty() => (
                    &finding::LIST_LACKS_ANCHORS,
                    format!("{key} lists {count} symbols and none of {}", lacks.join(", ")),
                ),
                Entry::Missing | Entry::List { .. } => continue,
            };
            found.push(kind.found(self.market, what));
        }
        let age = self
            .age_seconds
            .map_or("never".to_owned(), |age| format!("{} ago", span(age)));
        match (&self.primary, &self.last_good) {
            (Entry::Missing, Entry::Missing) => {
                let what = format!("neither {} nor {} is there", keys.primary(), keys.last_good());
                found.push(finding::LIST_MISSING.found(self.market, what));
            }
            (Entry::Missing, _) => {
                let what = format!("{} is gone; the last refresh was {age}", keys.primary());
                found.push(finding::LIST_EXPIRED.found(self.market, what));
            }
            (_, Entry::Missing) => {
                let what = format!("{} is not there", keys.last_good());
                found.push(finding::LAST_GOOD_MISSING.found(self.market, what));
            }
            _ => {}
        }
        found
    }

    /// A list of the sandbox is wrong unless the sandbox is configured as the exchange.
    fn wrong_network(&self, market: Market, settings: &Settings) -> Option<String> {
        let source = self.source.as_ref()?;
        if settings.binance.base_urls.get(market).contains(&source.host) {
            return None;
        }
        let wanted = if settings.binance.testnet {
            ListNetwork::Testnet
        } else {
            ListNetwork::Mainnet
        };
        (source.network != wanted).then(|| {
            format!(
                "the list is of the {:?} ({}), and the {wanted:?} is configured",
                source.network, source.host
            )
            .to_lowercase()
        })
    }
}

/// Seconds as an operator says them.
#[must_use]
pub fn span(seconds: i64) -> String {
    match seconds {
        ..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_a_list_of_symbols_or_not() {
        let symbol = |base: &str| {
            format!(
                r#"{{"symbol": "{base}USDT", "baseAsset": "{base}", "quoteAsset": "USDT", "status": "TRADING"}}"#
            )
        };
        let of = |text: &str| {
            Entry::of(
                "string",
                Some(text.as_bytes().to_vec()),
                &["BTC".into(), "ETH".into()],
            )
        };
        let good = format!("[{}, {}]", symbol("BTC"), symbol("ETH"));
        assert!(matches!(of(&good), Entry::List { count: 2, lacks, .. } if lacks.is_empty()));
        let cut = format!("[{}]", symbol("ETH"));
        assert!(matches!(of(&cut), Entry::List { count: 1, lacks, .. } if lacks == ["BTC"]));
        for text in ["", "null", "{}", "[1]", r#"[{"symbol": "A"}]"#, &good[..40]] {
            assert!(matches!(of(text), Entry::Unreadable { .. }), "{text}");
        }
        assert_eq!(Entry::of("none", None, &[]), Entry::Missing);
        assert_eq!(
            Entry::of("hash", None, &[]),
            Entry::WrongType { found: "hash".into() }
        );
    }

    #[test]
    fn spans_are_short() {
        assert_eq!(
            [span(-5), span(119), span(120), span(7200), span(172_800)],
            ["-5 s", "119 s", "2 min", "2 h", "2 days"]
        );
    }
}
