//! What the beat counts, in Prometheus' text form.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::slots::Micros;

/// Upper bounds of the lateness buckets, in seconds.
const LATENESS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 60.0,
];

/// The numbers of one beat; clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    /// From when a message was due until the broker had it.
    pub(crate) lateness: Histogram,
    pub(crate) sent: Counter,
    pub(crate) missed: Counter,
    pub(crate) caught_up: Counter,
    /// Slots without a message because the one before was pending.
    pub(crate) pending: Counter,
    /// Slots without a message because the entry is paused.
    pub(crate) paused: Counter,
    /// Messages that a queue's key did not take.
    pub(crate) refused: Counter,
    pub(crate) clock_jumps: Counter,
    pub(crate) broker_errors: Counter,
    pub(crate) entries: Gauge,
    pub(crate) leader: Gauge,
    /// Unix seconds of the last answer of the broker.
    pub(crate) heard: Gauge<i64, AtomicI64>,
    pub(crate) last_sent: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tradebot_beat");
        let lateness = Histogram::new(LATENESS);
        registry.register(
            "lateness_seconds",
            "From when a message was due until the broker had it",
            lateness.clone(),
        );
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let sent = counter("sent", "Messages sent by this beat");
        let missed = counter(
            "missed",
            "Slots that passed without a message while nothing could be sent",
        );
        let caught_up = counter(
            "caught_up",
            "Messages sent for slots that passed while nothing could be sent",
        );
        let pending = counter(
            "pending",
            "Slots without a message because the one before was pending",
        );
        let paused = counter("paused", "Slots without a message because the entry is paused");
        let refused = counter("refused", "Messages that a queue's key did not take");
        let clock_jumps = counter("clock_jumps", "How often the clock was set");
        let broker_errors = counter("broker_errors", "Attempts that failed because of the broker");
        let (entries, leader) = (Gauge::default(), Gauge::default());
        registry.register("entries", "Entries on the schedule", entries.clone());
        registry.register(
            "leader",
            "1 while this beat sends, 0 while it looks on",
            leader.clone(),
        );
        let (heard, last_sent) = (Gauge::default(), Gauge::default());
        registry.register(
            "last_broker_answer_timestamp_seconds",
            "When the broker last answered",
            heard.clone(),
        );
        registry.register(
            "last_sent_timestamp_seconds",
            "When this beat last sent a message",
            last_sent.clone(),
        );
        Self {
            registry: Arc::new(registry),
            lateness,
            sent,
            missed,
            caught_up,
            pending,
            paused,
            refused,
            clock_jumps,
            broker_errors,
            entries,
            leader,
            heard,
            last_sent,
        }
    }

    pub(crate) fn note_entries(&self, count: usize) {
        self.entries.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a message that was sent at `now`, so long after it was due.
    pub(crate) fn note_sent(&self, late: Duration, now: Micros) {
        self.sent.inc();
        self.lateness.observe(late.as_secs_f64());
        self.last_sent
            .set(Duration::from_micros(now.unsigned_abs()).as_secs_f64());
    }

    /// All numbers as OpenMetrics text, which Prometheus reads.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("memory takes every text");
        text
    }
}

/// Whether a broker that last answered at `heard` is still there at `now`, both in Unix seconds.
pub(crate) fn is_healthy(heard: &Gauge<i64, AtomicI64>, now: i64) -> bool {
    let heard = heard.inner().load(Ordering::Relaxed);
    (now - heard).abs() <= 15
}
