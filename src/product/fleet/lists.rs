//! The symbol lists in Redis: contents, age, origin and counters.

use std::collections::BTreeMap;

use redis::cmd;
use serde::Serialize;

use super::FleetReader;
use super::counters::{MarketCounters, integer};
use super::trend::{self, Recent};
use crate::config::{BinanceConfig, SymbolsConfig};
use crate::product::binance::bans::stored_pause;
use crate::product::binance::error::Pause;
use crate::product::binance::exchange_info::Symbol;
use crate::product::symbols::cache::{
    CacheKeys, FetchedBy, ListSource, StoredLists, too_large, unusable_keys,
};
use crate::product::symbols::guard::{self, HeldBackList};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::market::Market;

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
    /// What is wrong with a list that another program wrote, by key.
    pub bad_lists: BTreeMap<String, String>,
    /// The lists of other programs that were refused within a day.
    pub refused: Option<RefusedLists>,
    /// A list of the exchange that is held back.
    pub held_back: Option<PastEvent>,
    /// Seconds since a warm-up last succeeded, as far as is known.
    pub last_warmup_seconds: Option<i64>,
    /// The last refresh that failed.
    pub last_failure: Option<PastEvent>,
}

/// Something that happened, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PastEvent {
    /// How long ago.
    pub seconds_ago: i64,
    /// Why.
    pub why: String,
}

/// Lists of other programs that were refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RefusedLists {
    /// How many.
    pub times: u64,
    /// The last one.
    pub last: PastEvent,
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
        symbols: &SymbolsConfig,
    ) -> Result<Vec<Self>, RedisTrouble> {
        let (now, _): (i64, i64) = reader.cache.command(&cmd("TIME")).await?;
        let mut lists = Vec::new();
        for market in Market::ALL {
            lists.push(Self::read(reader, market, symbols, now).await?);
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
        symbols: &SymbolsConfig,
        now: i64,
    ) -> Result<Self, RedisTrouble> {
        let (keys, anchors) = (CacheKeys(market), &symbols.anchor_bases);
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
        let asked = tokio::try_join!(
            too_large(&reader.cache, &names[0]),
            too_large(&reader.cache, &names[1])
        );
        let too_large: [_; 2] = asked?.into();
        // A list that is too large is not read, and another key is read in its place.
        let mut read = names.clone();
        for place in [0, 1] {
            if too_large[place].is_some() {
                read[place].clone_from(&names[2]);
            }
        }
        // MGET returns nil for a key of another type, where GET would fail.
        let mut values = redis::pipe();
        values.cmd("MGET").arg(&read).ttl(keys.primary());
        let (texts, ttl): (Vec<Option<Vec<u8>>>, i64) = reader.cache.pipeline(&values).await?;
        let is_read = |place: usize| too_large.get(place).is_none_or(Option::is_none);
        let text = |place: usize| {
            texts
                .get(place)
                .and_then(|text| text.as_deref())
                .filter(|_| is_read(place))
        };
        let held = |place: usize| types.get(place).map_or("none", String::as_str);
        let refreshed: Option<i64> = text(2).and_then(|text| serde_json::from_slice(text).ok());
        let refreshed = refreshed.filter(|at| *at >= 0);
        let source = text(3).and_then(|text| serde_json::from_slice::<ListSource>(text).ok());
        let list = text(0).or(text(1));
        let source = source.filter(|source| list.is_some_and(|list| source.describes(list)));
        let (warmed_at, last_failure) = refreshes(&reader.cache, keys, now).await?;
        // Python's warm-ups leave no other trace than their list.
        let foreign = source
            .as_ref()
            .is_none_or(|source| source.by == Some(FetchedBy::Other));
        let last_warmup = warmed_at.max(refreshed.filter(|_| foreign));
        let last_warmup_seconds = last_warmup.map(|at| now - at);
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
        let value = |place: usize| match &too_large[place] {
            Some(reason) => ListValue::Unreadable {
                reason: reason.clone(),
            },
            None => ListValue::of(held(place), text(place), anchors),
        };
        Ok(Self {
            market: market.name(),
            primary: value(0),
            last_good: value(1),
            ttl_seconds: (ttl >= 0).then_some(ttl),
            age_seconds: refreshed.map(|at| now - at),
            source,
            counts: MarketCounters::of(texts.get(4..).unwrap_or_default()),
            recent: None,
            unusable: unusable.collect(),
            unusable_keys: unusable_keys(&reader.cache, market).await?,
            bad_lists: bad_lists(&reader.cache, market, symbols).await?,
            refused: refused(&reader.cache, keys, now).await?,
            held_back: held_back(&reader.cache, keys, now).await?,
            last_warmup_seconds,
            last_failure,
        })
    }
}

/// What is wrong with lists that another program wrote, by key.
async fn bad_lists(
    connection: &Connection,
    market: Market,
    symbols: &SymbolsConfig,
) -> Result<BTreeMap<String, String>, RedisTrouble> {
    let found = StoredLists::bad(connection, market, symbols).await?;
    Ok(found
        .into_iter()
        .map(|(key, concerns)| (key, guard::describe(&concerns)))
        .collect())
}

/// The fields of a hash; `None` for a key of another type.
async fn fields(
    connection: &Connection,
    key: &str,
    names: &[&str],
) -> Result<Vec<Option<String>>, RedisTrouble> {
    let held: String = connection.command(cmd("TYPE").arg(key)).await?;
    if held != "hash" {
        return Ok(vec![None; names.len()]);
    }
    let mut ask = redis::pipe();
    for name in names {
        ask.hget(key, name);
    }
    let values: Vec<Option<Vec<u8>>> = connection.pipeline(&ask).await?;
    let text = |value: Vec<u8>| String::from_utf8_lossy(&value).into_owned();
    Ok(values.into_iter().map(|value| value.map(text)).collect())
}

fn past_event(at: Option<&String>, why: Option<&String>, now: i64) -> Option<PastEvent> {
    Some(PastEvent {
        seconds_ago: now - at?.parse::<i64>().ok()?,
        why: why?.clone(),
    })
}

/// When a warm-up of ours last succeeded, in Unix seconds, and the last refresh that failed.
async fn refreshes(
    connection: &Connection,
    keys: CacheKeys,
    now: i64,
) -> Result<(Option<i64>, Option<PastEvent>), RedisTrouble> {
    let names = ["warmed_at", "failed_at", "failure"];
    let values = fields(connection, &keys.refreshes(), &names).await?;
    let [warmed_at, failed_at, failure] = &values[..] else {
        return Ok((None, None));
    };
    let warmed_at = warmed_at.as_ref().and_then(|at| at.parse().ok());
    Ok((warmed_at, past_event(failed_at.as_ref(), failure.as_ref(), now)))
}

async fn refused(
    connection: &Connection,
    keys: CacheKeys,
    now: i64,
) -> Result<Option<RefusedLists>, RedisTrouble> {
    let values = fields(connection, &keys.refused(), &["times", "at", "why"]).await?;
    let [Some(times), at, why] = &values[..] else {
        return Ok(None);
    };
    let last = past_event(at.as_ref(), why.as_ref(), now);
    Ok(times
        .parse()
        .ok()
        .zip(last)
        .map(|(times, last)| RefusedLists { times, last }))
}

async fn held_back(
    connection: &Connection,
    keys: CacheKeys,
    now: i64,
) -> Result<Option<PastEvent>, RedisTrouble> {
    // MGET returns nil for a key of another type, where GET would fail.
    let [text]: [Option<Vec<u8>>; 1] = connection.command(cmd("MGET").arg(keys.held_back())).await?;
    let held_back = text.and_then(|text| serde_json::from_slice::<HeldBackList>(&text).ok());
    Ok(held_back.map(|held_back| PastEvent {
        seconds_ago: now - held_back.first_seen_ms() / 1000,
        why: guard::describe(held_back.concerns()),
    }))
}

/// The pauses of the exchange that workers and readers obey, by market.
pub(crate) async fn pauses(
    reader: &FleetReader,
    binance: &BinanceConfig,
) -> Result<BTreeMap<&'static str, Pause>, RedisTrouble> {
    let mut ask = redis::pipe();
    for market in Market::ALL {
        let key = CacheKeys(market).ban(binance.network());
        ask.pttl(&key).get(&key);
    }
    let stored: [(i64, Option<Vec<u8>>); 2] = reader.cache.pipeline(&ask).await?;
    let pauses = Market::ALL
        .into_iter()
        .zip(stored)
        .filter_map(|(market, (left, value))| {
            let pause = stored_pause(left, &value?, binance.base_urls.get(market))?;
            Some((market.name(), pause))
        });
    Ok(pauses.collect())
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
