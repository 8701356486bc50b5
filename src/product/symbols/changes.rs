//! What refreshes changed: a bounded stream in Redis, written together with the lists.

use crate::market::Market;
use crate::product::binance::exchange_info::Symbol;

/// What one refresh changed in a market's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Place in the stream, `milliseconds-number`; pass the last one seen as `since`.
    pub id: String,
    /// The market.
    pub market: Market,
    /// Unix seconds of the refresh.
    pub at: i64,
    /// Symbols that the list did not have before.
    pub added: Vec<Symbol>,
    /// Symbols that the exchange does not name any more.
    pub removed: Vec<Symbol>,
    /// Symbols that the exchange names with another status than before; they came to the list or left it.
    pub status_changed: Vec<StatusChange>,
}

/// A symbol's new status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// The symbol's name.
    pub symbol: String,
    /// The status before.
    pub from: String,
    /// The status now.
    pub to: String,
}

/// A stretch of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Oldest first.
    pub changes: Vec<Change>,
    /// Whether nothing between `since` and the first of them has been dropped from the stream.
    pub complete: bool,
    /// Whether there are more behind the last of them.
    pub more: bool,
}
