//! Counters for metrics: how executions ended and how long they took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tradebot_wire::result::TaskState;

/// Upper bounds of the buckets of runtimes, in microseconds; a last one takes the rest.
const BOUNDS: [u64; 10] = [
    1_000,
    5_000,
    25_000,
    100_000,
    250_000,
    1_000_000,
    2_500_000,
    10_000_000,
    60_000_000,
    300_000_000,
];

/// The counters of one task.
#[derive(Debug, Default)]
pub struct Outcomes {
    succeeded: AtomicU64,
    failed: AtomicU64,
    retried: AtomicU64,
    revoked: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

/// A copy of [`Outcomes`].
#[derive(Debug, Clone, PartialEq)]
pub struct OutcomeCounts {
    /// Executions by their end: `success`, `failure`, `retry`, `revoked`.
    pub ends: [(&'static str, u64); 4],
    /// Upper bound in seconds (the last one is infinite), and executions that took no longer and longer than the
    /// bound before.
    pub runtimes: Vec<(f64, u64)>,
    /// Seconds of all executions together.
    pub runtime_seconds: f64,
}

impl Outcomes {
    pub(super) fn note(&self, state: &TaskState, runtime: Duration) {
        let end = match state {
            TaskState::Retry(..) => &self.retried,
            TaskState::Failure(..) => &self.failed,
            TaskState::Revoked(..) => &self.revoked,
            _ => &self.succeeded,
        };
        end.fetch_add(1, Relaxed);
        let micros = u64::try_from(runtime.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.iter().position(|bound| micros <= *bound);
        self.buckets[bucket.unwrap_or(BOUNDS.len())].fetch_add(1, Relaxed);
        self.micros.fetch_add(micros, Relaxed);
    }

    pub(super) fn note_revoked(&self) {
        self.revoked.fetch_add(1, Relaxed);
    }

    /// The current counts.
    #[must_use]
    pub fn counts(&self) -> OutcomeCounts {
        let load = |count: &AtomicU64| count.load(Relaxed);
        let bounds = BOUNDS.iter().map(|micros| seconds(*micros));
        OutcomeCounts {
            ends: [
                ("success", load(&self.succeeded)),
                ("failure", load(&self.failed)),
                ("retry", load(&self.retried)),
                ("revoked", load(&self.revoked)),
            ],
            runtimes: bounds
                .chain([f64::INFINITY])
                .zip(self.buckets.iter().map(load))
                .collect(),
            runtime_seconds: seconds(load(&self.micros)),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds fit in 53 bits for 285 years"
)]
fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradebot_wire::result::Exception;

    #[test]
    fn each_end_is_counted_in_the_bucket_of_its_runtime() {
        let outcomes = Outcomes::default();
        let error = || Exception::builtin("ValueError", "x");
        outcomes.note(
            &TaskState::Success(serde_json::Value::Null),
            Duration::from_micros(1_000),
        );
        outcomes.note(&TaskState::Failure(error(), None), Duration::from_millis(2));
        outcomes.note(
            &TaskState::Retry(error(), String::new()),
            Duration::from_secs(400),
        );
        outcomes.note_revoked();
        let counts = outcomes.counts();
        assert_eq!(
            counts.ends,
            [("success", 1), ("failure", 1), ("retry", 1), ("revoked", 1)]
        );
        let filled: Vec<_> = counts
            .runtimes
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(filled, [(0.001, 1), (0.005, 1), (f64::INFINITY, 1)]);
        assert!((counts.runtime_seconds - 400.003).abs() < 1e-9);
    }
}
