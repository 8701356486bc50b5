//! The tasks of this worker, and their dependencies.

pub(crate) mod warmup;

use tracing::info;

use crate::bridge::TaskSet;
use crate::config::{BinanceConfig, ReadsConfig, SymbolsConfig};
use crate::product::symbols::reads::{ReadsSettings, SetupError, SymbolReads};
use crate::product::symbols::refresh::Refresher;
use tradebot_base::config::{Reader, RedisConfig};
use tradebot_base::connection::Connection;

/// Configuration of the tasks.
#[derive(Debug, Clone)]
pub(crate) struct ContextConfig {
    symbols: SymbolsConfig,
    binance: BinanceConfig,
}

/// The dependencies of the tasks.
pub(crate) struct Context {
    /// Refreshes the lists.
    pub refresher: Refresher,
}

impl Context {
    /// Reads the tasks' environment variables.
    #[must_use]
    pub(crate) fn read(reader: &mut Reader<'_>) -> ContextConfig {
        ContextConfig {
            symbols: SymbolsConfig::read(reader),
            binance: BinanceConfig::read(reader),
        }
    }
}

impl ContextConfig {
    /// Watches the lists, and replaces bad ones of other programs with the one accepted last. Does not wait for a
    /// connection.
    ///
    /// # Errors
    /// [`SetupError`].
    pub(crate) fn guard(&self, redis: &RedisConfig, hostname: &str) -> Result<SymbolReads, SetupError> {
        let settings = ReadsSettings {
            redis: redis.cache.clone(),
            reads: ReadsConfig::for_guard(),
            symbols: self.symbols.clone(),
            binance: self.binance.clone(),
        };
        SymbolReads::start(settings, &format!("{hostname}-guard"))
    }

    /// Sets up the tasks of the worker `hostname`, with one Redis connection for the cache. Does not connect yet.
    ///
    /// # Errors
    /// [`SetupError`].
    pub(crate) fn connect(self, redis: &RedisConfig, hostname: &str) -> Result<Context, SetupError> {
        info!(
            spot = %self.binance.base_urls.spot.join(","),
            futures = %self.binance.base_urls.futures.join(","),
            testnet = self.binance.testnet,
            "exchange"
        );
        let cache = Connection::new(&redis.cache, &format!("{hostname}-cache"))?;
        let refresher = Refresher::new(cache, self.binance, self.symbols)?;
        Ok(Context { refresher })
    }
}

/// All tasks of the worker.
#[must_use]
pub(crate) fn task_set() -> TaskSet {
    TaskSet::new()
        .with::<warmup::warmup_spot_symbols_cache>()
        .with::<warmup::warmup_futures_symbols_cache>()
}
