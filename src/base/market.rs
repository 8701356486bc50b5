//! The two markets whose symbols are cached, the two networks of the exchange, and the names that depend on them.

use std::fmt;

/// A market of the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Market {
    /// Spot trading.
    Spot,
    /// USD-M futures.
    Futures,
}

impl Market {
    /// Both markets.
    pub const ALL: [Self; 2] = [Self::Spot, Self::Futures];

    /// The market's name in keys, routes and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Spot => "spot",
            Self::Futures => "futures",
        }
    }

    /// Full name of the task that refreshes the market's list.
    #[must_use]
    pub fn warmup_task(self) -> &'static str {
        match self {
            Self::Spot => "app.core.cache_warmup_tasks.warmup_spot_symbols_cache",
            Self::Futures => "app.core.cache_warmup_tasks.warmup_futures_symbols_cache",
        }
    }

    /// Name of the schedule entry that enqueues the task.
    #[must_use]
    pub fn schedule_entry(self) -> &'static str {
        match self {
            Self::Spot => "warmup-spot-symbols-cache",
            Self::Futures => "warmup-futures-symbols-cache",
        }
    }
}

impl fmt::Display for Market {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A network of the exchange: each has its own hosts and its own API keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The network for real trades.
    Mainnet,
    /// The network for tests.
    Testnet,
}

impl Network {
    /// The network's name in logs and variables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mainnet => "mainnet",
            Self::Testnet => "testnet",
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One value for each market.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerMarket<T> {
    /// For spot.
    pub spot: T,
    /// For USD-M futures.
    pub futures: T,
}

impl<T> PerMarket<T> {
    /// The value of a market.
    pub fn get(&self, market: Market) -> &T {
        match market {
            Market::Spot => &self.spot,
            Market::Futures => &self.futures,
        }
    }
}
