//! Why a refresh brings no list.

use std::time::Duration;

use thiserror::Error;

use crate::product::binance::error::UpstreamError;
use crate::product::symbols::cache::CacheError;
use crate::product::symbols::guard::{self, ListConcern};
use tradebot_base::market::Market;

/// Why a refresh left the lists as they were.
#[derive(Debug, Error)]
pub enum RefreshError {
    /// No list was fetched.
    #[error("no {market} list from the exchange")]
    Upstream {
        /// The market.
        market: Market,
        /// Where and why.
        #[source]
        source: UpstreamError,
    },
    /// The list was fetched, and nothing of it may be listed. That is what maintenance looks like, and a
    /// list that users trade by is not emptied for it.
    #[error(
        "{host} lists no trading {market} symbol quoted in {quote} ({symbols} symbols in all, {malformed} unreadable)"
    )]
    Empty {
        /// The market.
        market: Market,
        /// Who answered.
        host: String,
        /// The quote asset that was looked for.
        quote: String,
        /// Symbols of any status and quote asset.
        symbols: usize,
        /// Entries that could not be read.
        malformed: usize,
    },
    /// The list cannot be what was asked for.
    #[error("{host} gave another list than that of {market}: {what}")]
    Contradiction {
        /// The market.
        market: Market,
        /// Who answered.
        host: String,
        /// What it is instead.
        what: &'static str,
    },
    /// The list looks wrong. A second fetch that finds the same confirms it.
    #[error("the {market} list of {host} is held back until it is confirmed: {}", guard::describe(.concerns))]
    HeldBack {
        /// The market.
        market: Market,
        /// Who answered.
        host: String,
        /// What looks wrong.
        concerns: Vec<ListConcern>,
        /// When a fetch can confirm it.
        confirm_in: Duration,
    },
    /// The list could not be written.
    #[error("cannot write the {market} list")]
    Cache {
        /// The market.
        market: Market,
        /// Why.
        #[source]
        source: CacheError,
    },
}

impl RefreshError {
    /// How long another refresh must wait: as the exchange said, or until it can confirm a list.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upstream { source, .. } => source.reason.retry_after(),
            Self::HeldBack { confirm_in, .. } => Some(*confirm_in),
            Self::Empty { .. } | Self::Contradiction { .. } | Self::Cache { .. } => None,
        }
    }
}
