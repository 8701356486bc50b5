//! How long requests took, by route and status. Counting takes no lock and no memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hyper::StatusCode;

use crate::product::http::answers::routes::{Route, TEMPLATES};

/// Upper bounds of the buckets, in seconds; one more bucket has the rest.
const BOUNDS: [f64; 16] = [
    0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
/// The statuses with a histogram of their own.
const STATUSES: [&str; 13] = [
    "200", "204", "304", "400", "404", "405", "412", "422", "500", "503", "504", "none", "other",
];
/// The place of requests that were not answered, because the client left or the time was up.
const UNANSWERED: usize = 11;
const OTHER: usize = 12;

/// The histograms of all routes.
pub(crate) struct Durations(Box<[[Histogram; STATUSES.len()]; TEMPLATES.len() + 1]>);

#[derive(Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

/// A histogram as it is now.
pub(crate) struct DurationSample {
    pub(crate) labels: [(&'static str, &'static str); 2],
    pub(crate) seconds: f64,
    pub(crate) count: u64,
    /// Upper bounds, each with the number of requests between it and the one before.
    pub(crate) buckets: Vec<(f64, u64)>,
}

impl Durations {
    pub(crate) fn new() -> Self {
        Self(Box::new(std::array::from_fn(|_| {
            std::array::from_fn(|_| Histogram::default())
        })))
    }

    fn add(&self, route: usize, status: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        let histogram = &self.0[route][status];
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        histogram.buckets[bucket].fetch_add(1, Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        histogram.nanoseconds.fetch_add(nanoseconds, Relaxed);
    }

    /// The histograms of what has been requested.
    pub(crate) fn samples(&self) -> impl Iterator<Item = DurationSample> {
        let routes = TEMPLATES.into_iter().chain(["other"]);
        routes.zip(&*self.0).flat_map(|(route, histograms)| {
            let each = STATUSES.into_iter().zip(histograms);
            each.filter_map(move |(status, histogram)| {
                let counts = histogram.buckets.each_ref().map(|count| count.load(Relaxed));
                let count = counts.iter().sum();
                let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
                (count > 0).then(|| DurationSample {
                    labels: [("route", route), ("status", status)],
                    seconds: Duration::from_nanos(histogram.nanoseconds.load(Relaxed)).as_secs_f64(),
                    count,
                    buckets: bounds.zip(counts).collect(),
                })
            })
        })
    }
}

/// A request from its complete header to its answer. Dropped before that, it counts as unanswered.
pub(crate) struct TimedRequest {
    durations: Arc<Durations>,
    route: usize,
    began: Instant,
    status: usize,
}

impl TimedRequest {
    pub(crate) fn begin(durations: &Arc<Durations>, route: Option<&Route<'_>>) -> Self {
        Self {
            durations: Arc::clone(durations),
            route: route.map_or(TEMPLATES.len(), Route::number),
            began: Instant::now(),
            status: UNANSWERED,
        }
    }

    /// The answer is ready.
    pub(crate) fn end(mut self, status: StatusCode) {
        let mut known = STATUSES[..UNANSWERED].iter();
        self.status = known.position(|known| *known == status.as_str()).unwrap_or(OTHER);
    }
}

impl Drop for TimedRequest {
    fn drop(&mut self) {
        self.durations.add(self.route, self.status, self.began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_status_and_time() {
        let durations = Arc::new(Durations::new());
        for route in [Some(Route::Page), Some(Route::Metrics), None] {
            TimedRequest::begin(&durations, route.as_ref()).end(StatusCode::OK);
        }
        TimedRequest::begin(&durations, None).end(StatusCode::IM_A_TEAPOT);
        drop(TimedRequest::begin(&durations, None));
        durations.add(0, 0, Duration::from_micros(100));
        durations.add(0, 0, Duration::from_secs(11));
        let labels: Vec<_> = durations
            .samples()
            .map(|sample| (sample.labels[0].1, sample.labels[1].1, sample.count))
            .collect();
        assert_eq!(
            labels,
            [
                (TEMPLATES[0], "200", 2),
                ("/metrics", "200", 1),
                ("/", "200", 1),
                ("other", "200", 1),
                ("other", "none", 1),
                ("other", "other", 1),
            ]
        );
        let list = durations.samples().next().unwrap();
        assert_eq!((list.buckets[0], list.buckets[16].1), ((0.0001, 1), 1));
        assert!((list.seconds - 11.0001).abs() < 1e-9, "{}", list.seconds);
    }
}
