//! The lists for programs without an async runtime: a thin wrapper around [`reads`].
//!
//! It starts one thread that does all the work. Its methods block and must not be called from within a tokio runtime.

use thiserror::Error;
use tokio::runtime::{Builder, Runtime};

use super::cache::CacheError;
use super::changes::Changes;
use super::reads::{self, MarketStatus, Reading, ReadsSettings, SetupError, Unavailable};
use tradebot_base::market::Market;

/// Blocking form of [`reads::SymbolReads`].
pub struct SymbolReads {
    reads: reads::SymbolReads,
    runtime: Runtime,
}

/// Why reading could not begin.
#[derive(Debug, Error)]
pub enum BlockingError {
    /// Redis or the exchange cannot be set up.
    #[error(transparent)]
    Reads(#[from] SetupError),
    /// The thread could not be started.
    #[error("cannot start the thread that reads the symbol lists")]
    Thread(#[from] std::io::Error),
}

impl SymbolReads {
    /// Starts reading. See [`reads::SymbolReads::start`].
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

    /// Does not block. See [`reads::SymbolReads::peek`].
    #[must_use]
    pub fn peek(&self, market: Market) -> Option<Reading> {
        self.reads.peek(market)
    }

    /// See [`reads::SymbolReads::read`].
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn read(&self, market: Market) -> Result<Reading, Unavailable> {
        self.runtime.block_on(self.reads.read(market))
    }

    /// See [`reads::SymbolReads::changes`].
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn changes(&self, since: Option<&str>, limit: usize) -> Result<Changes, CacheError> {
        self.runtime.block_on(self.reads.changes(since, limit))
    }

    /// Does not block. See [`reads::SymbolReads::status`].
    #[must_use]
    pub fn status(&self, market: Market) -> MarketStatus {
        self.reads.status(market)
    }

    /// Writes the counters and stops. Without it, the last second of counts is lost.
    pub fn stop(self) {
        self.runtime.block_on(self.reads.stop());
    }
}
