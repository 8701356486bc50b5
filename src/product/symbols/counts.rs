//! Counts reads under the existing deployment's names, without a round trip per read.
//!
//! Reads are counted in memory, and written to Redis about once a second as a numbered batch. Redis remembers the last batch
//! of each process, so a batch that is sent again after a lost answer is added only once. While Redis is down, counts stay
//! in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::cache::SymbolCache;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::market::PerMarket;

/// How often new counts are written.
pub(super) const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The reads of one market by this process.
#[derive(Debug, Default)]
pub(super) struct ReadCounts {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Writes counts to Redis.
#[derive(Debug)]
pub(super) struct Flusher {
    process: String,
    state: Mutex<FlushState>,
}

/// Hits and misses of spot, then of futures.
type Totals = [u64; 4];

#[derive(Debug, Default)]
struct FlushState {
    /// The totals that Redis has confirmed.
    written: Totals,
    /// The number of the last batch, and the totals after it until Redis confirms them.
    batch: u64,
    unconfirmed: Option<Totals>,
}

impl ReadCounts {
    /// Counts a read that found a fresh list.
    pub(super) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a read that did not.
    pub(super) fn miss(&self) {
        self.misses.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    pub(super) fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }
}

impl Default for Flusher {
    fn default() -> Self {
        Self {
            process: Uuid::new_v4().to_string(),
            state: Mutex::default(),
        }
    }
}

impl Flusher {
    /// Sends the unconfirmed batch again, if there is one, then the new counts.
    ///
    /// # Errors
    /// When Redis fails. No count is lost or added twice.
    pub(super) async fn flush(
        &self,
        cache: &SymbolCache,
        counts: &PerMarket<&ReadCounts>,
    ) -> Result<(), RedisTrouble> {
        let mut state = self.state.lock().await;
        loop {
            let resent = state.unconfirmed.is_some();
            if !resent {
                let totals = [
                    counts.spot.hits(),
                    counts.spot.misses(),
                    counts.futures.hits(),
                    counts.futures.misses(),
                ];
                if totals == state.written {
                    return Ok(());
                }
                state.batch += 1;
                state.unconfirmed = Some(totals);
            }
            let totals = state.unconfirmed.unwrap_or_default();
            let new = std::array::from_fn(|index| totals[index] - state.written[index]);
            cache.count_reads(&self.process, state.batch, new).await?;
            state.written = totals;
            state.unconfirmed = None;
            if !resent {
                return Ok(());
            }
        }
    }
}
