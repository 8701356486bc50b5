//! The lists in Redis beside those that this system would write now.

use serde::{Deserialize, Serialize};

use crate::config::{BinanceConfig, SymbolsConfig};
use crate::product::binance::client::Client;
use crate::product::binance::exchange_info::Symbol;
use crate::product::symbols::cache::CacheKeys;
use crate::product::symbols::prepare::prepare;
use tradebot_base::connection::Connection;
use tradebot_base::error_chain;
use tradebot_base::market::Market;
use tradebot_wire::python_json;

/// How many names are told of each difference.
const EXAMPLES: usize = 5;

/// What became of the comparison of one list.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Comparison {
    /// The same symbols in the same order, with the same members.
    Same {
        /// Symbols in it.
        count: usize,
        /// Whether the stored bytes are exactly those that would be written.
        same_bytes: bool,
    },
    /// Not the same.
    Differs {
        /// Symbols that are stored.
        stored: usize,
        /// Symbols that would be written.
        ours: usize,
        /// How they differ.
        differences: Vec<Difference>,
    },
    /// Nothing is stored.
    Nothing,
    /// It could not be compared.
    Failed {
        /// Why.
        reason: String,
    },
}

/// One kind of difference, with a few examples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What differs.
    pub what: &'static str,
    /// How many symbols it is about.
    pub symbols: usize,
    /// Names of some.
    pub examples: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Stored {
    symbol: String,
    #[serde(rename = "baseAsset")]
    base_asset: String,
    #[serde(rename = "quoteAsset")]
    quote_asset: String,
    status: String,
}

impl PartialEq<Symbol> for Stored {
    fn eq(&self, other: &Symbol) -> bool {
        (&self.symbol, &self.base_asset, &self.quote_asset, &self.status)
            == (
                &other.symbol,
                &other.base_asset,
                &other.quote_asset,
                &other.status,
            )
    }
}

/// Fetches a market's list and compares it with the stored one. Writes nothing.
pub(super) async fn compare(
    connection: &Connection,
    binance: BinanceConfig,
    symbols: &SymbolsConfig,
    market: Market,
) -> Comparison {
    let stored = match stored(connection, market).await {
        Ok(Some(text)) => text,
        Ok(None) => return Comparison::Nothing,
        Err(reason) => return Comparison::Failed { reason },
    };
    let client = match Client::new(binance, tradebot_base::random::Random::system()) {
        Ok(client) => client,
        Err(error) => {
            return Comparison::Failed {
                reason: error_chain(&error),
            };
        }
    };
    match client.exchange_info(market).await {
        Ok(fetched) => judge(&stored, &prepare(fetched.listing.symbols, market, symbols)),
        Err(error) => Comparison::Failed {
            reason: error_chain(&error),
        },
    }
}

/// The primary list, or the last good one when it has expired.
async fn stored(connection: &Connection, market: Market) -> Result<Option<String>, String> {
    for key in [CacheKeys(market).primary(), CacheKeys(market).last_good()] {
        let text: Option<String> = connection
            .command(redis::cmd("GET").arg(key))
            .await
            .map_err(|trouble| error_chain(&trouble))?;
        if text.is_some() {
            return Ok(text);
        }
    }
    Ok(None)
}

fn judge(text: &str, ours: &[Symbol]) -> Comparison {
    let stored: Vec<Stored> = match serde_json::from_str(text) {
        Ok(stored) => stored,
        Err(error) => {
            let reason = format!("the stored text is no list of symbols: {error}");
            return Comparison::Failed { reason };
        }
    };
    if stored.len() == ours.len() && stored.iter().zip(ours).all(|(one, other)| one == other) {
        let written = python_json::to_string(ours).expect("symbols are JSON");
        return Comparison::Same {
            count: ours.len(),
            same_bytes: written == text,
        };
    }
    let known = |name: &str| stored.iter().find(|one| one.symbol == name);
    let absent: Vec<String> = ours
        .iter()
        .filter(|one| known(&one.symbol).is_none())
        .map(|one| one.symbol.clone())
        .collect();
    let listed: std::collections::BTreeSet<&str> = ours.iter().map(|one| one.symbol.as_str()).collect();
    let extra: Vec<String> = stored
        .iter()
        .filter(|one| !listed.contains(one.symbol.as_str()))
        .map(|one| one.symbol.clone())
        .collect();
    let changed: Vec<String> = ours
        .iter()
        .filter(|one| known(&one.symbol).is_some_and(|stored| stored != *one))
        .map(|one| one.symbol.clone())
        .collect();
    let mut differences: Vec<Difference> = [
        ("not stored, and would be written", absent),
        ("stored, and would not be written", extra),
        ("stored with other members", changed),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(what, names)| difference(what, &names))
    .collect();
    if differences.is_empty() {
        let moved: Vec<String> = ours
            .iter()
            .zip(&stored)
            .filter(|(one, other)| one.symbol != other.symbol)
            .map(|(one, _)| one.symbol.clone())
            .collect();
        differences.push(difference("in another place, or twice", &moved));
    }
    Comparison::Differs {
        stored: stored.len(),
        ours: ours.len(),
        differences,
    }
}

fn difference(what: &'static str, names: &[String]) -> Difference {
    Difference {
        what,
        symbols: names.len(),
        examples: names.iter().take(EXAMPLES).cloned().collect(),
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
            Comparison::Differs { differences, .. } => {
                differences.iter().map(|one| (one.what, one.symbols)).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lists_are_compared_after_parsing_and_byte_for_byte() {
        let ours = ["BTC", "ETH", "ÇOK"].map(symbol);
        let text = python_json::to_string(&ours).unwrap();
        let same = |same_bytes| Comparison::Same { count: 3, same_bytes };
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
        assert!(matches!(judge("{", &ours), Comparison::Failed { .. }));
    }
}
