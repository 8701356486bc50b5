//! Counting reads under the names of the existing deployment, without a round trip for each.

use std::sync::atomic::{AtomicU64, Ordering};

/// The reads of one market by this process.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Found a fresh list.
    pub(super) hits: Count,
    /// Did not.
    pub(super) misses: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Counts {
    pub(super) fn hit(&self) {
        self.hits.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn miss(&self) {
        self.misses.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Count {
    pub(super) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
