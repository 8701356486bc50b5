//! The beat's metrics, in OpenMetrics text.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
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

/// How long the broker may be silent before the beat is unhealthy.
const HEALTHY_SECONDS: i64 = 15;

/// The metrics of one beat; clones share them.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    lateness: Histogram,
    sent: Counter,
    pub(crate) missed: Counter,
    pub(crate) caught_up: Counter,
    pub(crate) pending: Counter,
    pub(crate) paused: Counter,
    pub(crate) refused: Counter,
    pub(crate) clock_jumps: Counter,
    pub(crate) broker_errors: Counter,
    entries: Gauge,
    pub(crate) leader: Gauge,
    /// In Unix seconds.
    last_answer: Gauge<i64, AtomicI64>,
    /// In Unix seconds.
    last_sent: Gauge<f64, AtomicU64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("tradebot_beat");
        let lateness = Histogram::new(LATENESS);
        registry.register(
            "lateness_seconds",
            "Seconds from when a message was due until the broker had it",
            lateness.clone(),
        );
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let sent = counter("sent", "Messages sent by this beat");
        let missed = counter("missed", "Slots skipped because nothing could be sent in time");
        let caught_up = counter(
            "caught_up",
            "Messages sent late because nothing could be sent in time",
        );
        let pending = counter(
            "pending",
            "Slots skipped because the previous message had no result yet",
        );
        let paused = counter("paused", "Slots skipped because the entry was paused");
        let refused = counter("refused", "Messages that Redis refused to queue");
        let clock_jumps = counter("clock_jumps", "Times the clock was set");
        let broker_errors = counter("broker_errors", "Attempts that failed because of the broker");
        let (entries, leader) = (Gauge::default(), Gauge::default());
        registry.register("entries", "Entries on the schedule", entries.clone());
        registry.register(
            "leader",
            "1 while this beat leads, 0 while it follows",
            leader.clone(),
        );
        let (last_answer, last_sent) = (Gauge::default(), Gauge::default());
        registry.register(
            "last_broker_answer_timestamp_seconds",
            "When the broker last answered",
            last_answer.clone(),
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
            last_answer,
            last_sent,
        }
    }

    pub(crate) fn set_entries(&self, count: usize) {
        self.entries.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Counts a message sent at `now`, this late.
    pub(crate) fn message_sent(&self, late: Duration, now: Micros) {
        self.sent.inc();
        self.lateness.observe(late.as_secs_f64());
        self.last_sent
            .set(Duration::from_micros(now.unsigned_abs()).as_secs_f64());
    }

    pub(crate) fn broker_answered_at(&self, now: Micros) {
        self.last_answer.set(now / 1_000_000);
    }

    /// Whether the broker has answered lately.
    pub(crate) fn is_healthy(&self, now: Micros) -> bool {
        (now / 1_000_000 - self.last_answer.get()).abs() <= HEALTHY_SECONDS
    }

    /// All metrics as OpenMetrics text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}
