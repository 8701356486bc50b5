//! Which symbols a list contains, and in which order.
//!
//! Readers, among them a web front end, depend on it: trading symbols of one quote asset, popular bases first in a fixed
//! order (equal bases in the exchange's order), then the rest by name in code-point order.

use crate::config::SymbolsConfig;
use crate::product::binance::exchange_info::Symbol;
use tradebot_base::market::Market;

/// Filters and sorts a market's symbols.
#[must_use]
pub(crate) fn prepare(symbols: Vec<Symbol>, market: Market, config: &SymbolsConfig) -> Vec<Symbol> {
    let listed = symbols.into_iter().filter(|symbol| is_listed(symbol, config));
    order(listed, market, config)
}

/// Whether a symbol belongs in the list.
pub(super) fn is_listed(symbol: &Symbol, config: &SymbolsConfig) -> bool {
    symbol.status == "TRADING" && symbol.quote_asset == config.quote_asset
}

/// The symbols that every real list has but this one lacks.
pub(in crate::product) fn missing_anchors(list: &[Symbol], config: &SymbolsConfig) -> Vec<String> {
    let names = config
        .anchor_bases
        .iter()
        .map(|base| format!("{base}{}", config.quote_asset));
    names
        .filter(|name| !list.iter().any(|symbol| symbol.symbol == *name))
        .collect()
}

/// Sorts symbols of any quote asset and status in the order of the list.
pub(super) fn order(
    symbols: impl IntoIterator<Item = Symbol>,
    market: Market,
    config: &SymbolsConfig,
) -> Vec<Symbol> {
    let popular = config.popular_bases.get(market);
    let mut listed: Vec<(usize, Symbol)> = symbols
        .into_iter()
        .map(|symbol| {
            let rank = popular
                .iter()
                .position(|base| *base == symbol.base_asset)
                .unwrap_or(popular.len());
            (rank, symbol)
        })
        .collect();
    // A stable sort keeps equal popular bases in the exchange's order. UTF-8 sorts by code point, like Python.
    listed.sort_by(|(rank, one), (other_rank, other)| {
        rank.cmp(other_rank).then_with(|| {
            if *rank == popular.len() {
                one.symbol.cmp(&other.symbol)
            } else {
                std::cmp::Ordering::Equal
            }
        })
    });
    listed.into_iter().map(|(_, symbol)| symbol).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tradebot_base::config::Reader;

    fn symbol(name: &str, base: &str, quote: &str, status: &str) -> Symbol {
        Symbol {
            symbol: name.into(),
            base_asset: base.into(),
            quote_asset: quote.into(),
            status: status.into(),
        }
    }

    fn names(symbols: Vec<Symbol>) -> Vec<String> {
        let vars = BTreeMap::new();
        let config = SymbolsConfig::read(&mut Reader::new(&vars));
        prepare(symbols, Market::Futures, &config)
            .into_iter()
            .map(|symbol| symbol.symbol)
            .collect()
    }

    #[test]
    fn popular_bases_lead_and_the_rest_follows_by_name() {
        let listed = names(vec![
            symbol("ZZZUSDT", "ZZZ", "USDT", "TRADING"),
            symbol("ETHUSDT_261225", "ETH", "USDT", "TRADING"),
            symbol("币安人生USDT", "币安人生", "USDT", "TRADING"),
            symbol("aUSDT", "a", "USDT", "TRADING"),
            symbol("ETHUSDT", "ETH", "USDT", "TRADING"),
            symbol("BTCUSDT", "BTC", "USDT", "TRADING"),
            symbol("LINKUSDT", "LINK", "USDT", "TRADING"),
        ]);
        assert_eq!(
            listed,
            [
                "BTCUSDT",
                "ETHUSDT_261225",
                "ETHUSDT",
                "LINKUSDT",
                "ZZZUSDT",
                "aUSDT",
                "币安人生USDT"
            ]
        );
    }

    #[test]
    fn only_trading_symbols_in_the_quote_asset_stay() {
        let listed = names(vec![
            symbol("BTCUSDC", "BTC", "USDC", "TRADING"),
            symbol("ETHUSDT", "ETH", "USDT", "BREAK"),
            symbol("BNBUSDT", "BNB", "USDT", "trading"),
            symbol("SOLUSDT", "SOL", "USDT", "TRADING"),
        ]);
        assert_eq!(listed, ["SOLUSDT"]);
    }
}
