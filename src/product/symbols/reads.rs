//! Reads the lists: cache-aside over process memory, Redis and the exchange, with the last-good list as the last resort.
//!
//! A process holds each market's list in memory, and Redis reports changes of its keys (client tracking). A read takes the
//! list of the first level that has one:
//!
//! 1. fresh, from memory: a hit;
//! 2. fresh, from Redis, only until this process has read Redis once: a hit;
//! 3. stale but not too old: a miss. The stale list is returned at once and refreshed in the background
//!    (stale-while-revalidate);
//! 4. the exchange, in one request for all waiting readers (single-flight): a miss;
//! 5. the last-good list, whatever its age.
//!
//! Redis may be slow, stopped, full or gone: no read waits for it longer than a second. Hits and misses are counted under
//! the existing deployment's names.

mod for_users;
mod foreign;
mod memory;
mod pause;
mod settings;
mod single_flight;
mod tracking;
mod write_behind;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

pub use settings::{ReadsSettings, SetupError};

use super::cache::CacheError;
use super::changes::Changes;
use super::counts::{Flusher, ReadCounts};
use super::list::SymbolList;
use super::refresh::Refresher;
use crate::config::ReadsConfig;
use memory::{HeldList, MemoryCache};
use single_flight::{RefreshFailure, SingleFlight};
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::Connection;
use tradebot_base::market::{Market, PerMarket};
use tradebot_base::random::SharedRandom;
use tradebot_base::{error_chain, trace};

/// How long a reader waits for this process to read Redis for the first time.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);
/// How long work that delays readers waits for Redis.
const REDIS_PATIENCE: Duration = Duration::from_secs(1);
/// How long a stop waits for the last counters to be written.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// The level that a list was found on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// This process's memory.
    Memory,
    /// The primary list in Redis.
    Redis,
    /// The exchange, fetched for this read.
    Upstream,
    /// The last-good list.
    LastGood,
    /// The list accepted last, in place of one that another program wrote to Redis and that was refused.
    Kept,
}

/// A list, and how it was found.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The list.
    pub list: Arc<SymbolList>,
    /// The level it was found on.
    pub level: Level,
    /// Time since its refresh, if known.
    pub age: Option<Duration>,
    /// Seconds until it expires, negative once it has; `None` if it never expires.
    pub ttl: Option<i64>,
    /// Whether it has expired.
    pub stale: bool,
    /// When it was read, in Unix seconds.
    pub at: i64,
}

/// No level had a list.
#[derive(Debug, Clone, Error)]
#[error("there is no {market} list: {reason}")]
pub struct Unavailable {
    /// The market.
    pub market: Market,
    /// How long to wait before another try.
    pub retry_after: Duration,
    /// Why the list could not be fetched, for logs.
    pub reason: String,
    /// Whether the exchange is not asked now, because it bans or refuses this address.
    pub paused: bool,
}

/// The state of a market in this process, for metrics and health checks. Getting it neither counts nor waits.
#[derive(Debug, Clone, Default)]
pub struct MarketStatus {
    /// The list in memory, if any, fresh or not.
    pub reading: Option<Reading>,
    /// Reads by this process that found a fresh list.
    pub hits: u64,
    /// Reads by this process that found none.
    pub misses: u64,
    /// Lists of other programs in Redis that this process refused.
    pub refused: u64,
    /// Refreshes by this process that succeeded.
    pub refreshes: u64,
    /// Refreshes by this process that failed.
    pub failures: u64,
    /// How long this process's last refresh took.
    pub last_refresh_took: Option<Duration>,
    /// Why the last refresh failed and how long to wait before the next; `None` after a success.
    pub failing: Option<(String, Duration)>,
}

/// Reads the lists of one Redis. Clones share their state.
#[derive(Clone)]
pub struct SymbolReads {
    inner: Arc<SharedReads>,
}

struct SharedReads {
    markets: PerMarket<MarketReads>,
    config: ReadsConfig,
    ttl_seconds: PerMarket<i64>,
    refresher: Refresher,
    tracking: Connection,
    changed: Arc<Notify>,
    clock: SharedClock,
    random: SharedRandom,
    link: tracking::RedisLink,
    tracker: TaskTracker,
    stop: CancellationToken,
    flusher: Flusher,
}

struct MarketReads {
    memory: MemoryCache,
    flight: SingleFlight,
    /// Notified when a reader got a stale list.
    wanted: Notify,
    /// Notified when a list could not be written to Redis.
    unsaved: Notify,
    foreign: foreign::Refusals,
    counts: ReadCounts,
}

impl SymbolReads {
    /// Starts following Redis in the background, and fetches missing lists if so configured. Returns without waiting. Must
    /// be called within a tokio runtime; [`stop`](Self::stop) ends the background tasks.
    ///
    /// # Errors
    /// [`SetupError`] when a URL is invalid or the machine's TLS cannot be set up.
    pub fn start(settings: ReadsSettings, name: &str) -> Result<Self, SetupError> {
        let inner = Arc::new(settings.connect(name)?);
        // Each of these may be cancelled at any point: they update memory, replace whole lists, or send numbered batches.
        for market in Market::ALL {
            inner.spawn(Arc::clone(&inner).keep_fresh(market));
            inner.spawn(Arc::clone(&inner).write_behind(market));
        }
        inner.spawn(Arc::clone(&inner).follow());
        inner.spawn(Arc::clone(&inner).write_counts());
        inner.tracker.close();
        Ok(Self { inner })
    }

    /// Returns a market's list from memory without waiting, fresh or not too stale; `None` if [`read`](Self::read) would
    /// have to wait. Counts a hit or a miss if it returns a list.
    #[must_use]
    pub fn peek(&self, market: Market) -> Option<Reading> {
        self.inner.take(market, Level::Memory)
    }

    /// Returns a market's list from the first level that has one, within the configured time.
    ///
    /// # Errors
    /// [`Unavailable`] when no level has one: no list was ever fetched, and fetching one fails now.
    pub async fn read(&self, market: Market) -> Result<Reading, Unavailable> {
        let inner = &self.inner;
        let deadline = Instant::now() + inner.config.timeout;
        if let Ok(Some(reading)) = timeout_at(deadline, self.look(market)).await {
            return Ok(reading);
        }
        let state = inner.markets.get(market);
        state.counts.miss();
        let flown = timeout_at(deadline, inner.join_refresh(market)).await;
        let failure = match flown {
            Ok(Ok(held)) => {
                return Ok(held.reading(Level::Upstream, state.memory.now_ms(), inner.now_unix()));
            }
            Ok(Err(failure)) => failure,
            Err(_) => Arc::new(RefreshFailure::slow(inner.config.timeout)),
        };
        let held = state.memory.get().ok_or_else(|| Unavailable {
            market,
            retry_after: failure.retry_in(),
            reason: failure.reason.clone(),
            paused: failure.paused,
        })?;
        let level = if held.last_good || !held.is_fresh(state.memory.now_ms()) {
            Level::LastGood
        } else {
            Level::Memory
        };
        Ok(held.reading(level, state.memory.now_ms(), inner.now_unix()))
    }

    /// Returns at most `limit` changes after the stream id `since`, or from the oldest one on.
    ///
    /// # Errors
    /// [`CacheError`] when Redis fails, or `since` is not a stream id.
    pub async fn changes(&self, since: Option<&str>, limit: usize) -> Result<Changes, CacheError> {
        let changes = self.inner.refresher.cache().changes(since, limit);
        trace::redis_call("XRANGE", changes).await
    }

    /// The state of a market in this process.
    #[must_use]
    pub fn status(&self, market: Market) -> MarketStatus {
        let state = self.inner.markets.get(market);
        let now_ms = state.memory.now_ms();
        let reading = state.memory.get().map(|held| {
            let level = if held.last_good {
                Level::LastGood
            } else {
                Level::Memory
            };
            held.reading(level, now_ms, self.inner.now_unix())
        });
        MarketStatus {
            reading,
            hits: state.counts.hits(),
            misses: state.counts.misses(),
            refused: state.foreign.count(),
            ..state.flight.status()
        }
    }

    /// Whether Redis answered the last time.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.link.is_up()
    }

    /// Ends the background tasks and writes the counters to Redis, within a few seconds.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tracker.wait().await;
        let deadline = Instant::now() + STOP_PATIENCE;
        loop {
            let flushed = timeout_at(deadline, self.inner.flush_counts()).await;
            match flushed {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    debug!(error = %error_chain(&error), "cannot write the last read counters to Redis yet");
                    sleep(Duration::from_millis(100)).await;
                }
                Err(_) => {
                    warn!("lost the last read counters: Redis did not take them in time");
                    return;
                }
            }
        }
    }
}

impl SharedReads {
    /// Runs a background task until the stop.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker
            .spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Returns the list in memory if a reader may have it, and counts the read.
    fn take(&self, market: Market, level: Level) -> Option<Reading> {
        let state = self.markets.get(market);
        let held = state.memory.get()?;
        let now_ms = state.memory.now_ms();
        if held.is_fresh(now_ms) {
            state.counts.hit();
            return Some(held.reading(level, now_ms, self.now_unix()));
        }
        if !self.may_be_stale(&held) {
            return None;
        }
        state.counts.miss();
        state.wanted.notify_one();
        let level = if held.last_good { Level::LastGood } else { level };
        Some(held.reading(level, now_ms, self.now_unix()))
    }

    /// Whether an expired list is young enough to be returned before it is refreshed.
    fn may_be_stale(&self, held: &HeldList) -> bool {
        held.age(self.now_unix())
            .is_some_and(|age| age <= self.config.max_stale && !self.config.max_stale.is_zero())
    }

    /// The lifetime of a market's lists; `None` if they never expire.
    fn ttl(&self, market: Market) -> Option<Duration> {
        u64::try_from(*self.ttl_seconds.get(market))
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs)
    }

    fn now_unix(&self) -> i64 {
        self.clock.unix_time()
    }
}

impl fmt::Debug for SymbolReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SymbolReads")
            .field("redis", &self.inner.tracking.place())
            .field("config", &self.inner.config)
            .finish_non_exhaustive()
    }
}
