//! Why a refresh fails.

use std::time::Duration;

use thiserror::Error;

use crate::product::binance::error::{Reason, UpstreamError};
use crate::product::symbols::cache::CacheError;
use crate::product::symbols::guard::{self, ListConcern};
use tradebot_base::market::Market;

/// Why a refresh left the stored lists unchanged.
#[derive(Debug, Error)]
pub(crate) enum RefreshError {
    /// Fetching failed.
    #[error("cannot fetch the {} list from the exchange", .0.market)]
    Upstream(#[from] UpstreamError),
    /// No symbol of the answer qualifies for the list, as during maintenance. That must not empty the list.
    #[error(
        "{host} lists no trading {market} symbol quoted in {quote} ({symbols} symbols in all, {malformed} unreadable)"
    )]
    Empty {
        /// The market.
        market: Market,
        /// Scheme and host that answered.
        host: String,
        /// The configured quote asset.
        quote: String,
        /// Symbols of any status and quote asset.
        symbols: usize,
        /// Entries that could not be read.
        malformed: usize,
    },
    /// The list is of another market or network.
    #[error("{host} returned the wrong list for {market}: {what}")]
    Contradiction {
        /// The market.
        market: Market,
        /// Scheme and host that answered.
        host: String,
        /// What it is instead.
        what: &'static str,
    },
    /// The list looks wrong, and is held back until a second fetch finds the same.
    #[error("the {market} list of {host} is held back until a second fetch confirms it: {}", guard::describe(.concerns))]
    HeldBack {
        /// The market.
        market: Market,
        /// Scheme and host that answered.
        host: String,
        /// What looks wrong.
        concerns: Vec<ListConcern>,
        /// How long to wait before a fetch can confirm it.
        confirm_in: Duration,
    },
    /// Writing failed.
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
    /// Whether no request was made, because of a pause of the exchange.
    #[must_use]
    pub(crate) fn is_pause(&self) -> bool {
        matches!(self, Self::Upstream(error) if matches!(error.reason, Reason::Paused(_)))
    }

    /// How long to wait before the next refresh: the exchange's pause, or until a fetch can confirm a held-back list.
    #[must_use]
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upstream(error) => error.reason.retry_after(),
            Self::HeldBack { confirm_in, .. } => Some(*confirm_in),
            Self::Empty { .. } | Self::Contradiction { .. } | Self::Cache { .. } => None,
        }
    }
}
