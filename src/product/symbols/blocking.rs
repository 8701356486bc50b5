//! The lists for programs without an async runtime: a thin wrapper around the async [`SymbolReads`](crate::symbols::SymbolReads).
//!
//! It starts one thread that does all the work. Its methods block and must not be called from within a tokio runtime.

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use super::cache::CacheError;
use super::changes::Changes;
use super::reads::{self, MarketStatus, Reading, ReadsSettings, SetupError, Unavailable};
use tradebot_base::market::Market;

/// Blocking form of [`crate::symbols::SymbolReads`].
pub struct SymbolReads {
    reads: reads::SymbolReads,
    runtime: Runtime,
}

/// Why reads cannot start.
#[derive(Debug, Error)]
pub enum BlockingError {
    /// Redis or the exchange cannot be set up.
    #[error(transparent)]
    Reads(#[from] SetupError),
    /// The thread cannot be started.
    #[error("cannot start the thread that reads the symbol lists")]
    Thread(#[from] std::io::Error),
}

impl SymbolReads {
    /// Starts a thread that follows Redis, and fetches missing lists if so configured. Does not wait for either.
    ///
    /// # Errors
    /// [`BlockingError`].
    pub fn start(settings: ReadsSettings, name: &str) -> Result<Self, BlockingError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("symbol-lists")
            .enable_all()
            .build()?;
        let entered = runtime.enter();
        let reads = reads::SymbolReads::start(settings, name)?;
        drop(entered);
        Ok(Self { reads, runtime })
    }

    /// Returns a list from memory without blocking, as [`crate::symbols::SymbolReads::peek`].
    #[must_use]
    pub fn peek(&self, market: Market) -> Option<Reading> {
        self.reads.peek(market)
    }

    /// Returns a list from the first level that has one, as [`crate::symbols::SymbolReads::read`].
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn read(&self, market: Market) -> Result<Reading, Unavailable> {
        self.runtime.block_on(self.reads.read(market))
    }

    /// Returns at most `limit` changes after the stream id `since`, as [`crate::symbols::SymbolReads::changes`].
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn changes(&self, since: Option<&str>, limit: usize) -> Result<Changes, CacheError> {
        self.runtime.block_on(self.reads.changes(since, limit))
    }

    /// Returns the state of a market in this process without blocking.
    #[must_use]
    pub fn status(&self, market: Market) -> MarketStatus {
        self.reads.status(market)
    }

    /// Writes the counters to Redis and stops. If a program ends without it, the last second of counts is lost.
    pub fn stop(self) {
        self.runtime.block_on(self.reads.stop());
    }
}
