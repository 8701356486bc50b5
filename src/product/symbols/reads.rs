//! Reading the lists: from process memory where that is fresh, and never worse than the last good list.
//!
//! A process holds each market's list in memory, next to Redis, which reports its changes (client tracking). A read
//! goes down these levels until one has a list:
//!
//! 1. memory, coherent with the primary key: a hit;
//! 2. Redis, only where this process has not looked yet: a hit;
//! 3. a list past its lifetime that is not too old: a miss; it is returned at once, marked stale, and refreshed behind
//!    the reader's back;
//! 4. upstream, once for all readers that wait: a miss;
//! 5. the last good list, whatever its age.
//!
//! Redis may be slow, stopped, full or gone: nothing on this way waits for it longer than a moment. Reads are counted
//! under the names that the existing deployment uses.

mod for_users;
mod memory;
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

pub use settings::{ReadsError, ReadsSettings};

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
use tradebot_base::{error_chain, trace};

/// How long a reader waits for this process's first look at Redis.
const LOOK_PATIENCE: Duration = Duration::from_millis(500);
/// How long anything that a reader waits for may wait for an answer of Redis.
const REDIS_PATIENCE: Duration = Duration::from_secs(1);
/// How long a stop waits for Redis to take the last counters.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// Which level a list was found on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// This process's memory.
    Memory,
    /// Redis, the primary key.
    Redis,
    /// The exchange, just now.
    Upstream,
    /// The last good list.
    LastGood,
}

/// A list, and how it was found.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The list.
    pub list: Arc<SymbolList>,
    /// Where it was found.
    pub level: Level,
    /// Time since its refresh, where that is known.
    pub age: Option<Duration>,
    /// Seconds that its lifetime has left, negative once it has ended; `None`: it has no end.
    pub ttl: Option<i64>,
    /// Whether its lifetime has ended.
    pub stale: bool,
    /// The second in which it was found, since 1970.
    pub at: i64,
}

/// No level has a list.
#[derive(Debug, Clone, Error)]
#[error("there is no {market} list: {reason}")]
pub struct Unavailable {
    /// The market.
    pub market: Market,
    /// When another try makes sense.
    pub retry_after: Duration,
    /// What kept the exchange's list away, for logs.
    pub reason: String,
}

/// What this process knows of a market, for metrics and health; reading it counts nothing and waits for nothing.
#[derive(Debug, Clone, Default)]
pub struct MarketStatus {
    /// The list that is held, if there is one, fresh or not.
    pub reading: Option<Reading>,
    /// Reads by this process that found a fresh list.
    pub hits: u64,
    /// Reads by this process that did not.
    pub misses: u64,
    /// Refreshes by this process that succeeded.
    pub refreshes: u64,
    /// Refreshes by this process that failed.
    pub failures: u64,
    /// How long this process's last refresh took.
    pub last_refresh_took: Option<Duration>,
    /// Why the last refresh failed, and when the next may be tried; `None` after a success.
    pub failing: Option<(String, Duration)>,
}

/// The lists of one Redis, to be read by many; clones share everything.
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
    link: tracking::RedisLink,
    tracker: TaskTracker,
    stop: CancellationToken,
    flusher: Flusher,
}

struct MarketReads {
    memory: MemoryCache,
    flight: SingleFlight,
    /// A reader was given a stale list.
    wanted: Notify,
    /// There may be a list that Redis did not take.
    unsaved: Notify,
    counts: ReadCounts,
}

impl SymbolReads {
    /// Starts reading: looks at Redis, keeps looking, and fetches what is missing if that is configured. Nothing is
    /// waited for. Must be called in a tokio runtime; [`stop`](Self::stop) ends what it starts.
    ///
    /// # Errors
    /// [`ReadsError`] when a URL or the machine's TLS set-up cannot be used.
    pub fn start(settings: ReadsSettings, name: &str) -> Result<Self, ReadsError> {
        let inner = Arc::new(settings.connect(name)?);
        for market in Market::ALL {
            inner.tracker.spawn(Arc::clone(&inner).keep(market));
            inner.tracker.spawn(Arc::clone(&inner).write_behind(market));
        }
        inner.tracker.spawn(Arc::clone(&inner).watch());
        inner.tracker.spawn(Arc::clone(&inner).write_counts());
        inner.tracker.close();
        Ok(Self { inner })
    }

    /// Returns a market's list from this process's memory, fresh or not too stale, without waiting; `None` where
    /// [`read`](Self::read) would have to wait. Counts a hit or a miss if it returns a list.
    #[must_use]
    pub fn peek(&self, market: Market) -> Option<Reading> {
        self.inner.take(market, Level::Memory)
    }

    /// Whether a read now would find just what an earlier one found: the same list, fresh, in the same second, with as
    /// much left of its lifetime. If so it counts as a hit, else as nothing.
    #[must_use]
    pub fn read_again(&self, market: Market, before: &Reading) -> bool {
        let state = self.inner.markets.get(market);
        let same = state.memory.with(|held| {
            let now = held.reading(Level::Memory, state.memory.now_ms(), self.inner.now_unix());
            let same = Arc::ptr_eq(&now.list, &before.list)
                && !now.stale
                && (now.level, now.at, now.ttl) == (before.level, before.at, before.ttl);
            same.then(|| state.counts.hit())
        });
        same.is_some()
    }

    /// Returns a market's list from the first level that has one, within the configured time.
    ///
    /// # Errors
    /// [`Unavailable`] when no level has one: nothing was ever fetched, and the exchange gives nothing.
    pub async fn read(&self, market: Market) -> Result<Reading, Unavailable> {
        let inner = &self.inner;
        let deadline = Instant::now() + inner.config.timeout;
        if let Some(reading) = inner.take(market, Level::Memory) {
            return Ok(reading);
        }
        if !inner.link.has_looked() {
            let look = inner
                .link
                .first_look(deadline.min(Instant::now() + LOOK_PATIENCE));
            trace::redis_call("look for the lists", look).await;
            if let Some(reading) = inner.take(market, Level::Redis) {
                return Ok(reading);
            }
        }
        let state = inner.markets.get(market);
        state.counts.miss();
        let flown = timeout_at(deadline, inner.join_refresh(market)).await;
        let failure = match flown {
            Ok(Ok(list)) => return Ok(inner.fetched(market, list)),
            Ok(Err(failure)) => failure,
            Err(_) => Arc::new(RefreshFailure::slow(inner.config.timeout)),
        };
        let held = state.memory.get().ok_or_else(|| Unavailable {
            market,
            retry_after: failure.retry_in(),
            reason: failure.reason.clone(),
        })?;
        let level = if held.last_good || !held.is_fresh(state.memory.now_ms()) {
            Level::LastGood
        } else {
            Level::Memory
        };
        Ok(held.reading(level, state.memory.now_ms(), inner.now_unix()))
    }

    /// Returns what refreshes changed after the place `since` in the stream, or all that is kept; at most `limit`.
    ///
    /// # Errors
    /// [`CacheError`] when Redis does not say, or `since` is no place in a stream.
    pub async fn changes(&self, since: Option<&str>, limit: usize) -> Result<Changes, CacheError> {
        let changes = self.inner.refresher.cache().changes(since, limit);
        trace::redis_call("XRANGE", changes).await
    }

    /// What this process knows of a market.
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
            hits: state.counts.hits.total(),
            misses: state.counts.misses.total(),
            ..state.flight.status()
        }
    }

    /// Whether Redis answered when it was last asked.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.link.is_up()
    }

    /// Writes the counters to Redis, within a moment, and ends what was started.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tracker.wait().await;
        let deadline = Instant::now() + STOP_PATIENCE;
        loop {
            let flushed = timeout_at(deadline, self.inner.flush_counts()).await;
            match flushed {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    debug!(error = %error_chain(&error), "the last counters of reads are not written yet");
                    sleep(Duration::from_millis(100)).await;
                }
                Err(_) => {
                    warn!("the last counters of reads are lost, Redis did not take them");
                    return;
                }
            }
        }
    }
}

impl SharedReads {
    /// Takes the list that is held, if a reader may have it, and counts.
    fn take(&self, market: Market, level: Level) -> Option<Reading> {
        let state = self.markets.get(market);
        state.memory.with(|held| {
            let now_ms = state.memory.now_ms();
            if held.is_fresh(now_ms) {
                state.counts.hit();
                return Some(held.reading(level, now_ms, self.now_unix()));
            }
            self.may_be_stale(held).then(|| {
                state.counts.miss();
                state.wanted.notify_one();
                let level = if held.last_good { Level::LastGood } else { level };
                held.reading(level, now_ms, self.now_unix())
            })
        })
    }

    /// Whether a list past its lifetime is young enough to be handed out before it is refreshed.
    fn may_be_stale(&self, held: &HeldList) -> bool {
        held.age(self.now_unix())
            .is_some_and(|age| age <= self.config.max_stale && !self.config.max_stale.is_zero())
    }

    /// A list that a refresh brought.
    fn fetched(&self, market: Market, list: Arc<SymbolList>) -> Reading {
        let memory = &self.markets.get(market).memory;
        match memory.get().filter(|held| Arc::ptr_eq(&held.list, &list)) {
            Some(held) => held.reading(Level::Upstream, memory.now_ms(), self.now_unix()),
            None => Reading {
                list,
                level: Level::Upstream,
                age: Some(Duration::ZERO),
                ttl: self
                    .ttl(market)
                    .map(|ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
                stale: false,
                at: self.now_unix(),
            },
        }
    }

    /// The lifetime of a market's lists, unless they have none.
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
