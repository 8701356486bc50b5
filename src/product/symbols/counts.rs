//! Counts reads under the existing deployment's names, without a round trip per read.
//!
//! Reads count in memory; about once a second the difference goes to Redis as a numbered batch. Redis remembers the last
//! batch of each process, so a batch whose answer was lost can be sent again and is added only once. While Redis is down,
//! counts wait in memory.

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
    /// Reads that found a fresh list.
    pub(super) hits: ReadCounter,
    /// Reads that did not.
    pub(super) misses: ReadCounter,
}

/// A counter on a separate cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ReadCounter(AtomicU64);

/// Writes counts to Redis.
#[derive(Debug)]
pub(super) struct Flusher {
    process: String,
    state: Mutex<FlushState>,
}

#[derive(Debug, Default)]
struct FlushState {
    /// The counts that Redis has confirmed.
    written: [u64; 4],
    /// The number of the last batch, and its counts until Redis has confirmed it.
    batch: u64,
    unconfirmed: Option<[u64; 4]>,
}

impl ReadCounts {
    pub(super) fn hit(&self) {
        self.hits.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn miss(&self) {
        self.misses.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl ReadCounter {
    pub(super) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
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
            if state.unconfirmed.is_none() {
                let totals = [
                    counts.spot.hits.total(),
                    counts.spot.misses.total(),
                    counts.futures.hits.total(),
                    counts.futures.misses.total(),
                ];
                if totals == state.written {
                    return Ok(());
                }
                let new: [u64; 4] = std::array::from_fn(|index| totals[index] - state.written[index]);
                state.batch += 1;
                state.unconfirmed = Some(new);
                let batch = state.batch;
                cache.count_reads(&self.process, batch, new).await?;
                state.confirm();
                return Ok(());
            }
            let (batch, counts) = (state.batch, state.unconfirmed.unwrap_or_default());
            cache.count_reads(&self.process, batch, counts).await?;
            state.confirm();
        }
    }
}

impl FlushState {
    fn confirm(&mut self) {
        let batch = self.unconfirmed.take().unwrap_or_default();
        for (written, new) in self.written.iter_mut().zip(batch) {
            *written += new;
        }
    }
}
