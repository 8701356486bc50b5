//! Changes to the lists: a bounded Redis stream, written together with the lists.

use std::collections::{BTreeMap, HashMap};

use redis::streams::{StreamId, StreamRangeReply};
use serde::{Deserialize, Serialize};

use super::cache::{CacheError, SymbolCache};
use super::list::SymbolList;
use crate::product::binance::exchange_info::Symbol;
use tradebot_base::market::Market;

/// The stream of both markets.
pub(super) const STREAM: &str = "cache:symbols:changes";
/// Maximum number of changes in the stream.
pub(super) const KEPT: usize = 1000;

/// Symbols in the quote asset that are not trading, with their status.
pub(super) type NotTrading = BTreeMap<String, String>;

/// What one refresh changed in a market's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Stream id, `milliseconds-number`. Pass the last one seen as `since`.
    pub id: String,
    /// The market.
    pub market: Market,
    /// Unix seconds of the refresh.
    pub at: i64,
    /// What changed.
    pub diff: Diff,
}

/// The difference between two lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// Symbols that are new to the list.
    pub added: Vec<Symbol>,
    /// Symbols that are gone from the exchange's answer.
    pub removed: Vec<Symbol>,
    /// Symbols whose status changed, so that they entered or left the list.
    pub status_changed: Vec<StatusChange>,
}

/// A symbol's new status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusChange {
    /// The symbol's name.
    pub symbol: String,
    /// The status before.
    pub from: String,
    /// The status now.
    pub to: String,
}

/// A range of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Oldest first.
    pub changes: Vec<Change>,
    /// Whether the stream still has every change since `since`. It keeps the last thousand, and begins anew after a loss.
    pub complete: bool,
    /// Whether the stream has more after the last of them.
    pub more: bool,
}

impl Diff {
    /// Compares two lists; `None` if they are the same. `paused_before` and `paused_after` are the symbols not trading.
    pub(super) fn between(
        before: &SymbolList,
        paused_before: &NotTrading,
        after: &[Symbol],
        paused_after: &NotTrading,
    ) -> Option<Self> {
        let had: HashMap<&str, &Symbol> = before
            .symbols()
            .iter()
            .map(|symbol| (symbol.symbol.as_str(), symbol))
            .collect();
        let has: HashMap<&str, &Symbol> = after
            .iter()
            .map(|symbol| (symbol.symbol.as_str(), symbol))
            .collect();
        let mut diff = Self::default();
        for symbol in after {
            match (had.get(symbol.symbol.as_str()), paused_before.get(&symbol.symbol)) {
                (Some(before), _) if before.status == symbol.status => {}
                (Some(before), _) => diff.status(symbol, &before.status, &symbol.status),
                (None, Some(before)) => diff.status(symbol, before, &symbol.status),
                (None, None) => diff.added.push(symbol.clone()),
            }
        }
        for symbol in before.symbols() {
            match (has.get(symbol.symbol.as_str()), paused_after.get(&symbol.symbol)) {
                (Some(_), _) => {}
                (None, Some(now)) => diff.status(symbol, &symbol.status, now),
                (None, None) => diff.removed.push(symbol.clone()),
            }
        }
        (diff != Self::default()).then_some(diff)
    }

    fn status(&mut self, symbol: &Symbol, from: &str, to: &str) {
        self.status_changed.push(StatusChange {
            symbol: symbol.symbol.clone(),
            from: from.to_owned(),
            to: to.to_owned(),
        });
    }
}

/// Whether a text is a stream id: `milliseconds`, or `milliseconds-number`.
#[must_use]
pub(crate) fn is_stream_id(text: &str) -> bool {
    let number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && part.parse::<u64>().is_ok();
    match text.split_once('-') {
        None => number(text),
        Some((milliseconds, count)) => number(milliseconds) && number(count),
    }
}

impl SymbolCache {
    /// Returns at most `limit` changes after the stream id `since`, or from the oldest one on.
    ///
    /// # Errors
    /// [`CacheError::Changes`] when Redis fails, [`CacheError::StreamId`] when `since` is not a stream id.
    pub(crate) async fn changes(&self, since: Option<&str>, limit: usize) -> Result<Changes, CacheError> {
        if let Some(text) = since.filter(|text| !is_stream_id(text)) {
            return Err(CacheError::StreamId(text.chars().take(40).collect()));
        }
        let start = match since {
            None => "-".to_owned(),
            // Redis refuses to look behind the last possible id.
            Some(last) if id_numbers(last) == (u64::MAX, u64::MAX) => last.to_owned(),
            Some(place) => format!("({place}"),
        };
        let from = since.unwrap_or("-");
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline
            .xrange_count(STREAM, start, "+", limit.saturating_add(1))
            .xrange_count(STREAM, "-", "+", 1)
            .xrange_count(STREAM, from, "+", 1)
            .xlen(STREAM);
        let read: Result<(StreamRangeReply, StreamRangeReply, StreamRangeReply, usize), _> =
            self.connection.pipeline(&pipeline).await;
        let (mut read, oldest, reached, length) = read.map_err(CacheError::Changes)?;
        let more = read.ids.len() > limit;
        read.ids.truncate(limit);
        // A stream that was never full has dropped no change, but one that ends before `since` is another stream.
        let complete = since.is_none_or(|since| {
            let since = id_numbers(since);
            let begins_before = oldest
                .ids
                .first()
                .is_some_and(|oldest| id_numbers(&oldest.id) <= since);
            let ends_before = reached.ids.is_empty() && since > (0, 0);
            !ends_before && (length < KEPT || begins_before)
        });
        Ok(Changes {
            changes: read.ids.iter().filter_map(change).collect(),
            complete,
            more,
        })
    }
}

/// A stream id as comparable numbers.
fn id_numbers(text: &str) -> (u64, u64) {
    let (milliseconds, number) = text.split_once('-').unwrap_or((text, "0"));
    (
        milliseconds.parse().unwrap_or(u64::MAX),
        number.parse().unwrap_or(u64::MAX),
    )
}

fn change(entry: &StreamId) -> Option<Change> {
    let name: String = entry.get("market")?;
    Some(Change {
        id: entry.id.clone(),
        market: Market::ALL.into_iter().find(|market| market.name() == name)?,
        at: entry.get("at")?,
        diff: serde_json::from_str(&entry.get::<String>("change")?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(name: &str) -> Symbol {
        Symbol {
            symbol: name.into(),
            base_asset: name.trim_end_matches("USDT").into(),
            quote_asset: "USDT".into(),
            status: "TRADING".into(),
        }
    }

    fn list(names: &[&str]) -> SymbolList {
        let symbols: Vec<Symbol> = names.iter().copied().map(symbol).collect();
        SymbolList::read(serde_json::to_vec(&symbols).unwrap(), None, None).unwrap()
    }

    #[test]
    fn a_symbol_comes_goes_or_changes_its_status() {
        let paused = |names: &[(&str, &str)]| -> NotTrading {
            names
                .iter()
                .map(|(name, status)| ((*name).into(), (*status).into()))
                .collect()
        };
        let before = list(&["AUSDT", "BUSDT", "CUSDT"]);
        let after = [symbol("CUSDT"), symbol("DUSDT"), symbol("EUSDT")];
        let diff = Diff::between(
            &before,
            &paused(&[("EUSDT", "HALT")]),
            &after,
            &paused(&[("BUSDT", "BREAK")]),
        )
        .unwrap();
        assert_eq!(diff.added, [symbol("DUSDT")]);
        assert_eq!(diff.removed, [symbol("AUSDT")]);
        let changes: Vec<_> = diff
            .status_changed
            .iter()
            .map(|change| (change.symbol.as_str(), change.from.as_str(), change.to.as_str()))
            .collect();
        assert_eq!(
            changes,
            [("EUSDT", "HALT", "TRADING"), ("BUSDT", "TRADING", "BREAK")]
        );
        let same = before.symbols().to_vec();
        assert_eq!(Diff::between(&before, &paused(&[]), &same, &paused(&[])), None);
    }

    #[test]
    fn a_stream_id_has_one_or_two_numbers() {
        for place in ["0", "1700000000000", "1700000000000-0", "1-17"] {
            assert!(is_stream_id(place), "{place}");
        }
        for text in [
            "",
            "-",
            "+",
            "(1",
            "1-",
            "-1",
            "1-2-3",
            "$",
            "99999999999999999999",
        ] {
            assert!(!is_stream_id(text), "{text}");
        }
    }
}
