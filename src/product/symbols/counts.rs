//! Counting reads under the names of the existing deployment, without a round trip for each.
//!
//! Reads add to numbers in memory; about once a second what is new goes to Redis in one batch. A batch has a number,
//! and Redis remembers the last one of each process: a batch whose answer was lost is sent again and added once. While
//! Redis is away, what is new waits in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use uuid::Uuid;

use super::cache::SymbolCache;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::market::PerMarket;

/// How often what is new is written.
pub(super) const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The reads of one market by this process.
#[derive(Debug, Default)]
pub(super) struct ReadCounts {
    /// Found a fresh list.
    pub(super) hits: ReadCounter,
    /// Did not.
    pub(super) misses: ReadCounter,
}

/// A number that only grows, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ReadCounter(AtomicU64);

/// What has been written of the counts, and what is on its way.
#[derive(Debug)]
pub(super) struct Flusher {
    process: String,
    state: Mutex<FlushState>,
}

#[derive(Debug, Default)]
struct FlushState {
    /// What Redis has for certain.
    written: [u64; 4],
    /// The number of the last batch, and what is in it, until Redis has answered.
    batch: u64,
    under_way: Option<[u64; 4]>,
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
    /// Writes what is new, and first what was under way.
    ///
    /// # Errors
    /// The trouble; nothing is lost, and nothing will be counted twice.
    pub(super) async fn flush(
        &self,
        cache: &SymbolCache,
        counts: &PerMarket<&ReadCounts>,
    ) -> Result<(), RedisTrouble> {
        let mut state = self.state.lock().await;
        loop {
            if state.under_way.is_none() {
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
                state.under_way = Some(new);
                let batch = state.batch;
                cache.count_reads(&self.process, batch, new).await?;
                state.settle();
                return Ok(());
            }
            let (batch, counts) = (state.batch, state.under_way.unwrap_or_default());
            cache.count_reads(&self.process, batch, counts).await?;
            state.settle();
        }
    }
}

impl FlushState {
    fn settle(&mut self) {
        let batch = self.under_way.take().unwrap_or_default();
        for (written, new) in self.written.iter_mut().zip(batch) {
            *written += new;
        }
    }
}
