//! Compares the stored lists with those that this system would write now.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

use crate::config::{BinanceConfig, SymbolsConfig};
use crate::product::binance::client::Client;
use crate::product::binance::exchange_info::Symbol;
use crate::product::symbols::cache::CacheKeys;
use crate::product::symbols::prepare::prepare;
use tradebot_base::connection::Connection;
use tradebot_base::error_chain;
use tradebot_base::market::Market;
use tradebot_base::random::Random;
use tradebot_wire::python_json;

/// Number of example names per difference.
const EXAMPLES: usize = 5;

/// From this likeness on, lists are of the same network. In a year a market changes less.
const ALIKE: f64 = 0.7;

/// The result of comparing one list.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub(crate) enum Comparison {
    /// Same symbols, order and members.
    Same {
        /// Symbols in it.
        count: usize,
        /// Whether the bytes are the same, too.
        same_bytes: bool,
    },
    /// Different symbols, order or members.
    Differs {
        /// Symbols that are stored.
        stored: usize,
        /// Symbols that would be written.
        ours: usize,
        /// How they differ.
        differences: Vec<Difference>,
    },
    /// The stored list is rather one of the network that is not chosen.
    OtherNetwork {
        /// Symbols that are stored.
        stored: usize,
        /// The network that they resemble.
        resembles: &'static str,
        /// The network that is chosen.
        chosen: &'static str,
    },
    /// Nothing is stored.
    Nothing,
    /// The comparison failed.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One kind of difference, with a few examples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// What differs.
    pub what: &'static str,
    /// Number of such symbols.
    pub symbols: usize,
    /// Some of their names.
    pub examples: Vec<String>,
}

/// Fetches a market's list and compares it with the stored one. Writes nothing. The error is a readable reason.
pub(super) async fn compare(
    connection: &Connection,
    binance: BinanceConfig,
    symbols: &SymbolsConfig,
    market: Market,
) -> Result<Comparison, String> {
    let Some(stored) = stored(connection, market).await? else {
        return Ok(Comparison::Nothing);
    };
    let (chosen, other) = (binance.network().name(), binance.of_the_other_network());
    let ours = fetch(binance, symbols, market).await?;
    let compared = judge(&stored, &ours)?;
    let Comparison::Differs { stored: count, .. } = compared else {
        return Ok(compared);
    };
    let names = names(&serde_json::from_str::<Vec<Symbol>>(&stored).unwrap_or_default());
    let likeness = likeness(&names, &ours);
    if likeness >= ALIKE {
        return Ok(compared);
    }
    // Without an answer of the other network, the difference is reported as it is.
    let resembles = other.network().name();
    match fetch(other, symbols, market).await {
        Ok(others) if self::likeness(&names, &others) > likeness => Ok(Comparison::OtherNetwork {
            stored: count,
            resembles,
            chosen,
        }),
        _ => Ok(compared),
    }
}

async fn fetch(
    binance: BinanceConfig,
    symbols: &SymbolsConfig,
    market: Market,
) -> Result<Vec<Symbol>, String> {
    let client = Client::new(binance, Random::system()).map_err(|error| error_chain(&error))?;
    let fetched = client.exchange_info(market).await;
    let fetched = fetched.map_err(|error| error_chain(&error))?;
    Ok(prepare(fetched.listing.symbols, market, symbols))
}

fn names(list: &[Symbol]) -> HashSet<String> {
    list.iter().map(|symbol| symbol.symbol.clone()).collect()
}

/// The share of symbols that are in both lists, of those in either.
fn likeness(stored: &HashSet<String>, list: &[Symbol]) -> f64 {
    let list = names(list);
    #[expect(clippy::cast_precision_loss, reason = "a ratio of some hundred names")]
    let ratio = |part: usize, whole: usize| part as f64 / whole.max(1) as f64;
    ratio(stored.intersection(&list).count(), stored.union(&list).count())
}

/// The primary list, or the last good one when it has expired.
async fn stored(connection: &Connection, market: Market) -> Result<Option<String>, String> {
    for key in [CacheKeys(market).primary(), CacheKeys(market).last_good()] {
        let text: Result<Option<String>, _> = connection.command(redis::cmd("GET").arg(key)).await;
        let text = text.map_err(|trouble| error_chain(&trouble))?;
        if text.is_some() {
            return Ok(text);
        }
    }
    Ok(None)
}

fn judge(text: &str, ours: &[Symbol]) -> Result<Comparison, String> {
    let stored: Vec<Symbol> = serde_json::from_str(text)
        .map_err(|error| format!("the stored text is not a list of symbols: {error}"))?;
    if stored == ours {
        let written = python_json::to_string(ours).expect("symbols are JSON");
        return Ok(Comparison::Same {
            count: ours.len(),
            same_bytes: written == text,
        });
    }
    let by_name = |list: &[Symbol]| -> BTreeMap<String, Symbol> {
        list.iter().map(|one| (one.symbol.clone(), one.clone())).collect()
    };
    let (known, listed) = (by_name(&stored), by_name(ours));
    let absent = ours.iter().filter(|one| !known.contains_key(&one.symbol));
    let extra = stored.iter().filter(|one| !listed.contains_key(&one.symbol));
    let changed = ours.iter().filter(|one| {
        let stored = known.get(&one.symbol);
        stored.is_some_and(|stored| stored != *one)
    });
    let mut differences: Vec<Difference> = [
        difference("not stored, and would be written", absent),
        difference("stored, and would not be written", extra),
        difference("stored with other members", changed),
    ]
    .into_iter()
    .filter(|difference| difference.symbols > 0)
    .collect();
    if differences.is_empty() {
        let pairs = ours.iter().zip(&stored);
        let moved = pairs.filter(|(one, other)| one.symbol != other.symbol);
        let moved = moved.map(|(one, _)| one);
        differences.push(difference("in another place, or twice", moved));
    }
    Ok(Comparison::Differs {
        stored: stored.len(),
        ours: ours.len(),
        differences,
    })
}

fn difference<'s>(what: &'static str, symbols: impl Iterator<Item = &'s Symbol>) -> Difference {
    let names: Vec<&String> = symbols.map(|symbol| &symbol.symbol).collect();
    Difference {
        what,
        symbols: names.len(),
        examples: names.into_iter().take(EXAMPLES).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(base: &str) -> Symbol {
        Symbol {
            symbol: format!("{base}USDT"),
            base_asset: base.into(),
            quote_asset: "USDT".into(),
            status: "TRADING".into(),
        }
    }

    fn whats(text: &str, ours: &[Symbol]) -> Vec<(&'static str, usize)> {
        match judge(text, ours) {
            Ok(Comparison::Differs { differences, .. }) => {
                differences.iter().map(|one| (one.what, one.symbols)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_are_compared_after_parsing_and_byte_for_byte() {
        let ours = ["BTC", "ETH", "ÇOK"].map(symbol);
        let text = python_json::to_string(&ours).unwrap();
        let same = |same_bytes| Ok(Comparison::Same { count: 3, same_bytes });
        assert_eq!(judge(&text, &ours), same(true));
        assert_eq!(judge(&serde_json::to_string(&ours).unwrap(), &ours), same(false));
        assert_eq!(
            whats(&text, &ours[..2]),
            [("stored, and would not be written", 1)]
        );
        assert_eq!(whats("[]", &ours), [("not stored, and would be written", 3)]);
        assert_eq!(
            whats(&text.replace("TRADING", "BREAK"), &ours),
            [("stored with other members", 3)]
        );
        let swapped = [ours[1].clone(), ours[0].clone(), ours[2].clone()];
        assert_eq!(whats(&text, &swapped), [("in another place, or twice", 2)]);
        assert!(judge("{", &ours).is_err());
    }
}
