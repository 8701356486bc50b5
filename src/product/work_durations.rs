//! How long refreshes and calls of the exchange took, by market and outcome. Counting takes no lock and no memory.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tradebot_base::market::{Market, PerMarket};

/// Upper bounds of the buckets, in seconds; one more bucket has the rest.
const BOUNDS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Refreshes of this process, from the fetch to the write.
pub(crate) static REFRESHES: WorkDurations = WorkDurations::new();
/// Requests of this process to the exchange, from the request to the end of the answer.
pub(crate) static UPSTREAM_REQUESTS: WorkDurations = WorkDurations::new();

/// Histograms of one kind of work, by market.
#[derive(Debug)]
pub(crate) struct WorkDurations(PerMarket<[Histogram; 2]>);

#[derive(Debug)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// A histogram as it is now.
#[cfg(feature = "http")]
#[derive(Debug)]
pub(crate) struct WorkSample {
    pub(crate) market: &'static str,
    pub(crate) outcome: &'static str,
    pub(crate) seconds: f64,
    /// Upper bounds, each with the number of durations between it and the one before.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    const fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len() + 1],
            nanoseconds: AtomicU64::new(0),
        }
    }
}

impl WorkDurations {
    const fn new() -> Self {
        Self(PerMarket {
            spot: [const { Histogram::new() }; 2],
            futures: [const { Histogram::new() }; 2],
        })
    }

    pub(crate) fn add(&self, market: Market, is_success: bool, took: Duration) {
        let histogram = &self.0.get(market)[usize::from(!is_success)];
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        histogram.buckets[bucket].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        histogram.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// All histograms, empty ones too.
    #[cfg(feature = "http")]
    pub(crate) fn samples(&self) -> impl Iterator<Item = WorkSample> {
        Market::ALL.into_iter().flat_map(|market| {
            let each = ["success", "error"].into_iter().zip(self.0.get(market));
            each.map(move |(outcome, histogram)| WorkSample {
                market: market.name(),
                outcome,
                seconds: Duration::from_nanos(histogram.nanoseconds.load(Relaxed)).as_secs_f64(),
                buckets: (BOUNDS.into_iter().chain([f64::INFINITY]))
                    .zip(histogram.buckets.iter().map(|count| count.load(Relaxed)))
                    .collect(),
            })
        })
    }
}

#[cfg(all(test, feature = "http"))]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_by_market_outcome_and_bucket() {
        let durations = WorkDurations::new();
        durations.add(Market::Futures, true, Duration::from_millis(10));
        durations.add(Market::Futures, true, Duration::from_secs(61));
        durations.add(Market::Futures, false, Duration::from_millis(11));
        let samples: Vec<_> = durations.samples().collect();
        let counted: Vec<_> = samples
            .iter()
            .map(|sample| {
                let full = sample.buckets.iter().filter(|(_, count)| *count > 0);
                (sample.market, sample.outcome, full.copied().collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(
            counted,
            [
                ("spot", "success", vec![]),
                ("spot", "error", vec![]),
                ("futures", "success", vec![(0.01, 1), (f64::INFINITY, 1)]),
                ("futures", "error", vec![(0.025, 1)]),
            ]
        );
        assert!(
            (samples[2].seconds - 61.01).abs() < 1e-9,
            "{}",
            samples[2].seconds
        );
    }
}
