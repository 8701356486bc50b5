//! Settings of reads, and the connections they need.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{MarketReads, MemoryCache, REDIS_PATIENCE, SharedReads};
use crate::config::{BinanceConfig, ReadsConfig, SymbolsConfig};
use crate::product::symbols::refresh::Refresher;
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ConfigError, Reader, RedisConfig, Vars};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::market::PerMarket;
use tradebot_base::random::Random;
use tradebot_base::secret::RedisUrl;

/// Which Redis, which exchange, and how to read.
#[derive(Debug, Clone)]
pub struct ReadsSettings {
    /// The Redis that holds the lists.
    pub redis: RedisUrl,
    /// How to read.
    pub reads: ReadsConfig,
    /// Which symbols to list.
    pub symbols: SymbolsConfig,
    /// The exchange.
    pub binance: BinanceConfig,
}

/// Why Redis or the exchange cannot be set up.
#[derive(Debug, Error)]
pub enum SetupError {
    /// The Redis URL is invalid.
    #[error(transparent)]
    Redis(#[from] RedisTrouble),
    /// The machine's TLS cannot be set up.
    #[error("cannot set up the HTTP client")]
    Http(#[from] reqwest::Error),
}

impl ReadsSettings {
    /// Reads the settings from environment variables.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake found.
    pub fn read(vars: &dyn Vars) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(vars);
        let settings = Self::section(&mut reader);
        reader.finish()?;
        Ok(settings)
    }

    /// Reads the settings as one section of a program's.
    pub(crate) fn section(reader: &mut Reader<'_>) -> Self {
        Self {
            redis: RedisConfig::read(reader).cache,
            reads: ReadsConfig::read(reader),
            symbols: SymbolsConfig::read(reader),
            binance: BinanceConfig::read(reader),
        }
    }

    pub(super) fn connect(self, name: &str) -> Result<SharedReads, SetupError> {
        let changed = Arc::new(Notify::new());
        let tracking =
            Connection::with_tracking(&self.redis, &format!("{name}-tracking"), Arc::clone(&changed))?;
        let commands = Connection::impatient(&self.redis, &format!("{name}-reads"), REDIS_PATIENCE)?;
        let ttl_seconds = self.symbols.ttl_seconds;
        let refresher = Refresher::new(commands, self.binance, self.symbols)?;
        let began = Instant::now();
        Ok(SharedReads {
            markets: PerMarket {
                spot: MarketReads::new(began),
                futures: MarketReads::new(began),
            },
            config: self.reads,
            ttl_seconds,
            refresher,
            tracking,
            changed,
            clock: SystemClock::shared(),
            random: Random::system(),
            link: super::tracking::RedisLink::default(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            flusher: crate::product::symbols::counts::Flusher::default(),
        })
    }
}

impl MarketReads {
    fn new(began: Instant) -> Self {
        Self {
            memory: MemoryCache::new(began),
            flight: super::single_flight::SingleFlight::default(),
            wanted: Notify::new(),
            unsaved: Notify::new(),
            foreign: super::foreign::Refusals::default(),
            counts: super::ReadCounts::default(),
        }
    }
}
