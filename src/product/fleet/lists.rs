//! The symbol lists in Redis: contents, age, origin and counters.

use std::collections::BTreeMap;

use redis::cmd;
use serde::Serialize;

use super::FleetReader;
use super::counters::{MarketCounters, integer};
use super::trend::{self, Recent};
use crate::product::binance::exchange_info::Symbol;
use crate::product::symbols::cache::{CacheKeys, ListSource, unusable_keys};
use tradebot_base::clock::Clock;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::market::{Market, Network};

/// The value under a list's key.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub(crate) enum ListValue {
    /// Nothing.
    Missing,
    /// Another type than a string.
    WrongType {
        /// Redis's name of the type.
        found: String,
    },
    /// A string that is not a list of symbols.
    Unreadable {
        /// Where parsing failed.
        reason: String,
    },
    /// A list.
    List {
        /// Symbols in it.
        count: usize,
        /// Its size.
        bytes: usize,
        /// Missing anchor assets.
        lacks: Vec<String>,
    },
}

/// The state of one market's lists.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MarketLists {
    /// Name of the market.
    pub market: &'static str,
    /// The list with a lifetime.
    pub primary: ListValue,
    /// The list without one.
    pub last_good: ListValue,
    /// Seconds that the primary list has left; absent without expiry.
    pub ttl_seconds: Option<i64>,
    /// Seconds since the last refresh, by the server's clock.
    pub age_seconds: Option<i64>,
    /// Where the list came from; absent for one that another program wrote.
    pub source: Option<ListSource>,
    /// Counters in total.
    pub counts: MarketCounters,
    /// Counters since an earlier reading, if any.
    pub recent: Option<Recent>,
    /// Values of counters that cannot be incremented.
    pub unusable: BTreeMap<String, String>,
    /// Other keys that hold something else than they should, and what.
    pub unusable_keys: BTreeMap<String, String>,
}

impl ListValue {
    fn of(found: &str, text: Option<&[u8]>, anchors: &[String]) -> Self {
        let Some(text) = text else {
            return match found {
                "none" | "string" => Self::Missing,
                other => Self::WrongType { found: other.into() },
            };
        };
        match serde_json::from_slice::<Vec<Symbol>>(text) {
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

    /// Whether readers are served from it.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self, Self::List { .. })
    }
}

impl MarketLists {
    /// Reads the lists of both markets, and stores the counters for comparison with the next reading.
    pub(crate) async fn read_all(
        reader: &FleetReader,
        anchors: &[String],
    ) -> Result<Vec<Self>, RedisTrouble> {
        let (now, _): (i64, i64) = reader.cache.command(&cmd("TIME")).await?;
        let mut lists = Vec::new();
        for market in Market::ALL {
            lists.push(Self::read(reader, market, anchors, now).await?);
        }
        let counts = lists
            .iter()
            .map(|one| (one.market.to_owned(), one.counts))
            .collect();
        // Without write access there is no trend; the server's write probe reports why.
        let recent = trend::counters(&reader.cache, now, &counts).await;
        let mut recent = recent.unwrap_or_default();
        for one in &mut lists {
            one.recent = recent.remove(one.market);
        }
        Ok(lists)
    }

    async fn read(
        reader: &FleetReader,
        market: Market,
        anchors: &[String],
        now: i64,
    ) -> Result<Self, RedisTrouble> {
        let keys = CacheKeys(market);
        let counters = MarketCounters::keys(market);
        let mut names = vec![
            keys.primary(),
            keys.last_good(),
            keys.last_refresh(),
            keys.source(),
        ];
        names.extend_from_slice(&counters);
        let mut types = redis::pipe();
        for name in &names {
            types.cmd("TYPE").arg(name);
        }
        let types: Vec<String> = reader.cache.pipeline(&types).await?;
        // MGET returns nil for a key of another type, where GET would fail.
        let mut values = redis::pipe();
        values.cmd("MGET").arg(&names).ttl(keys.primary());
        let (texts, ttl): (Vec<Option<Vec<u8>>>, i64) = reader.cache.pipeline(&values).await?;
        let text = |place: usize| texts.get(place).and_then(|text| text.as_deref());
        let held = |place: usize| types.get(place).map_or("none", String::as_str);
        let refreshed: Option<i64> = text(2).and_then(|text| serde_json::from_slice(text).ok());
        let refreshed = refreshed.filter(|at| *at >= 0);
        let source = text(3).and_then(|text| serde_json::from_slice::<ListSource>(text).ok());
        let unusable = counters.into_iter().enumerate().filter_map(|(place, name)| {
            let place = place + 4;
            match (held(place), text(place)) {
                ("string", Some(text)) if integer(text).is_none_or(|count| count == i64::MAX) => Some((
                    name,
                    "a text that is not a number, or none that can be incremented".to_owned(),
                )),
                ("none" | "string", _) => None,
                (other, _) => Some((name, format!("a {other}"))),
            }
        });
        Ok(Self {
            market: market.name(),
            primary: ListValue::of(held(0), text(0), anchors),
            last_good: ListValue::of(held(1), text(1), anchors),
            ttl_seconds: (ttl >= 0).then_some(ttl),
            age_seconds: refreshed.map(|at| now - at),
            source: source.filter(|source| refreshed == Some(source.fetched_at)),
            counts: MarketCounters::of(texts.get(4..).unwrap_or_default()),
            recent: None,
            unusable: unusable.collect(),
            unusable_keys: unusable_keys(&reader.cache, market).await?,
        })
    }
}

/// The ends of the bans that workers and readers observe, by market, in Unix seconds.
pub(crate) async fn ban_ends(
    reader: &FleetReader,
    network: Network,
    clock: &dyn Clock,
) -> Result<BTreeMap<&'static str, i64>, RedisTrouble> {
    let mut ends = redis::pipe();
    for market in Market::ALL {
        ends.pttl(CacheKeys(market).ban(network));
    }
    let now = clock.now().timestamp_millis();
    let left: Vec<i64> = reader.cache.pipeline(&ends).await?;
    let bans = Market::ALL.iter().zip(left).filter(|(_, left)| *left > 0);
    Ok(bans
        .map(|(market, left)| (market.name(), (now + left) / 1000))
        .collect())
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
        let of = |text: &str| ListValue::of("string", Some(text.as_bytes()), &["BTC".into(), "ETH".into()]);
        let good = format!("[{}, {}]", symbol("BTC"), symbol("ETH"));
        assert!(matches!(of(&good), ListValue::List { count: 2, lacks, .. } if lacks.is_empty()));
        let cut = format!("[{}]", symbol("ETH"));
        assert!(matches!(of(&cut), ListValue::List { count: 1, lacks, .. } if lacks == ["BTC"]));
        for text in ["", "null", "{}", "[1]", r#"[{"symbol": "A"}]"#, &good[..40]] {
            assert!(matches!(of(text), ListValue::Unreadable { .. }), "{text}");
        }
        assert_eq!(ListValue::of("none", None, &[]), ListValue::Missing);
        assert_eq!(
            ListValue::of("hash", None, &[]),
            ListValue::WrongType { found: "hash".into() }
        );
    }
}
