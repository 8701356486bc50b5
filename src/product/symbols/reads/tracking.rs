//! Keeps memory coherent with Redis: by client tracking, or by polling a server that does not support it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::SharedReads;
use crate::product::symbols::cache::{CacheError, StoredLists};
use crate::product::symbols::counts::FLUSH_INTERVAL;
use tradebot_base::backoff::Reconnect;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::market::{Market, PerMarket};

/// How often to ping a server that reports changes.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often to poll a server that does not.
const POLL: Duration = Duration::from_millis(250);

/// Whether Redis has been read, and whether it answers.
#[derive(Debug)]
pub(super) struct RedisLink(watch::Sender<LookState>);

#[derive(Debug, Default, Clone, Copy)]
struct LookState {
    /// Number of attempts to read Redis.
    looks: u64,
    /// Whether the last one failed.
    down: bool,
}

impl Default for RedisLink {
    fn default() -> Self {
        Self(watch::Sender::new(LookState::default()))
    }
}

impl RedisLink {
    /// Whether a first attempt to read Redis has ended, with or without success.
    pub(super) fn has_looked(&self) -> bool {
        self.0.borrow().looks > 0
    }

    pub(super) fn is_up(&self) -> bool {
        let seen = *self.0.borrow();
        seen.looks > 0 && !seen.down
    }

    /// Waits for the first attempt to end, at most until `deadline`.
    pub(super) async fn first_look(&self, deadline: Instant) {
        let mut seen = self.0.subscribe();
        // A timeout is not an error: the reader continues without Redis.
        let _ = timeout_at(deadline, seen.wait_for(|seen| seen.looks > 0)).await;
    }

    /// Waits for the next attempt to end, at most until `deadline`.
    pub(super) async fn next_look(&self, deadline: Instant) {
        let mut seen = self.0.subscribe();
        let _ = timeout_at(deadline, seen.changed()).await;
    }

    fn looked(&self, down: bool) {
        self.0.send_modify(|seen| {
            seen.looks += 1;
            seen.down = down;
        });
    }
}

impl SharedReads {
    /// Writes the counters about once a second.
    pub(super) async fn write_counts(self: Arc<Self>) {
        let mut failing = false;
        loop {
            sleep(FLUSH_INTERVAL).await;
            match self.flush_counts().await {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    warn!(error = %error_chain(&error), "cannot write the read counters to Redis, keeping them in memory");
                }
                Err(_) => {}
            }
        }
    }

    pub(super) async fn flush_counts(&self) -> Result<(), RedisTrouble> {
        let counts = PerMarket {
            spot: &self.markets.spot.counts,
            futures: &self.markets.futures.counts,
        };
        self.flusher.flush(self.refresher.cache(), &counts).await
    }

    /// Keeps memory coherent with Redis.
    pub(super) async fn follow(self: Arc<Self>) {
        let mut backoff = Reconnect::new(self.random.fork());
        loop {
            if let Err(error) = self.look().await {
                if !self.link.0.borrow().down {
                    warn!(error = %error_chain(&error), "cannot read the symbol lists from Redis, continuing without it");
                }
                self.link.looked(true);
                sleep(backoff.next_delay()).await;
                continue;
            }
            if self.link.0.borrow().down {
                info!(
                    url = self.tracking.place(),
                    "Redis is back, following the symbol lists again"
                );
            }
            backoff.reset();
            self.link.looked(false);
            self.wait_for_change().await;
        }
    }

    /// Reads the lists of all markets into memory.
    async fn look(&self) -> Result<(), CacheError> {
        for market in Market::ALL {
            let (memory, ttl) = (&self.markets.get(market).memory, *self.ttl_seconds.get(market));
            let foreign = loop {
                let changes = memory.changes();
                let mut stored = StoredLists::read(&self.tracking, market).await?;
                self.refresher.cache().name_too_large(&stored);
                let foreign = self.refresher.judge_foreign(market, &mut stored);
                if memory.apply(stored, changes, self.now_unix(), ttl) {
                    break foreign;
                }
            };
            self.answer_foreign(market, foreign).await;
        }
        Ok(())
    }

    async fn wait_for_change(&self) {
        loop {
            let tracking = self.tracking.is_tracking();
            let wait = if tracking { HEARTBEAT } else { POLL };
            if timeout(wait, self.changed.notified()).await.is_ok() || !tracking {
                return;
            }
            let answer: Result<String, _> = self.tracking.command(&redis::cmd("PING")).await;
            if let Err(error) = answer {
                debug!(error = %error_chain(&error), "Redis does not answer a ping");
                return;
            }
        }
    }
}
