//! A market's list for readers: its bytes in the cache, and their origin.

use std::sync::OnceLock;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::cache::ListSource;
use crate::product::binance::exchange_info::{self, Symbol};

/// An immutable list, to share.
#[derive(Debug)]
pub struct SymbolList {
    json: Bytes,
    count: usize,
    fetched_at: Option<i64>,
    source: Option<ListSource>,
    symbols: OnceLock<Vec<Symbol>>,
}

impl SymbolList {
    /// Wraps a value of the cache; `None` unless it is a JSON array in UTF-8 with at least one element. Does not look at the
    /// elements.
    #[must_use]
    pub fn read(json: impl Into<Bytes>, fetched_at: Option<i64>, source: Option<ListSource>) -> Option<Self> {
        let json = json.into();
        // Strings that are ignored are not checked to be UTF-8.
        let text = std::str::from_utf8(&json).ok()?;
        let count = serde_json::from_str::<Vec<IgnoredAny>>(text).ok()?.len();
        (count > 0).then(|| Self {
            json,
            count,
            fetched_at,
            source,
            symbols: OnceLock::new(),
        })
    }

    /// The bytes in Redis: a JSON array as Python's `json.dumps` writes it.
    #[must_use]
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// The number of elements.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Unix seconds of the refresh, if known.
    #[must_use]
    pub fn fetched_at(&self) -> Option<i64> {
        self.fetched_at
    }

    /// Where the list came from; unknown if Python wrote it.
    #[must_use]
    pub fn source(&self) -> Option<&ListSource> {
        self.source.as_ref()
    }

    /// The symbols in order, without elements that are not symbols. Parsed on first use.
    pub fn symbols(&self) -> &[Symbol] {
        self.symbols
            .get_or_init(|| exchange_info::symbols_of(&self.json).unwrap_or_default())
    }

    /// Whether both have the same bytes, time and source.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.json == other.json && self.fetched_at == other.fetched_at && self.source == other.source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_array_with_something_in_it_is_a_list() {
        for text in ["", "[]", " [ ] ", "{}", "null", "7", "[1", "[1] 2"] {
            assert!(
                SymbolList::read(text.as_bytes().to_vec(), None, None).is_none(),
                "{text}"
            );
        }
        assert!(
            SymbolList::read(&b"[\"\xff\"]"[..], None, None).is_none(),
            "not UTF-8"
        );
        let list = SymbolList::read(&b"[1, {\"a\": [2, 3]}]"[..], Some(7), None).unwrap();
        assert_eq!(
            (list.count(), list.fetched_at(), list.symbols()),
            (2, Some(7), &[][..])
        );
    }

    #[test]
    fn symbols_are_read_from_the_text() {
        let text =
            r#"[{"symbol": "\u5e01USDT", "baseAsset": "\u5e01", "quoteAsset": "USDT", "status": "TRADING"}]"#;
        let list = SymbolList::read(text.as_bytes(), None, None).unwrap();
        let [symbol] = list.symbols() else {
            panic!("one symbol")
        };
        assert_eq!(
            (symbol.symbol.as_str(), symbol.base_asset.as_str()),
            ("币USDT", "币")
        );
    }
}
