//! What the two kinds of scheduler share: their parts, their heartbeat, and the loop that runs until a stop.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use tradebot_base::backoff::Reconnect;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::lifecycle::{Stop, sleep_unless_stopping};

use crate::entry::ScheduleEntry;
use crate::metrics::Metrics;
use crate::slots::Micros;
use crate::store::Store;

/// How often a beat writes its heartbeat.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// The longest sleep: how late a set clock, a lost lock or a new entry may be noticed.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How long a stop waits for the lease or lock to be released.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Identifies this beat.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// Unique among all beats.
    pub(crate) id: String,
    pub(crate) machine: String,
    /// The `origin` header of the messages it sends.
    pub(crate) origin: String,
    pub(crate) started_at: Micros,
    /// Log what would be sent, and write nothing.
    pub(crate) dry_run: bool,
}

/// What a scheduler is built from.
pub(crate) struct Setup {
    pub(crate) entries: Vec<ScheduleEntry>,
    pub(crate) store: Store,
    pub(crate) clock: SharedClock,
    pub(crate) rng: fastrand::Rng,
    pub(crate) instance: Instance,
    pub(crate) metrics: Metrics,
}

/// The part of a heartbeat that changes.
pub(crate) struct Status {
    pub(crate) entries: usize,
    pub(crate) last_slot: Option<Micros>,
    pub(crate) next_due: Option<Micros>,
    pub(crate) leader: bool,
}

/// Runs a schedule, one turn at a time.
pub(crate) trait Scheduler {
    /// Sends what is due; returns how long to sleep.
    async fn turn(&mut self) -> Result<Duration, RedisTrouble>;

    /// Is called after a turn that failed.
    fn turn_failed(&mut self);

    /// Deletes those of the scheduler's keys that hold another type than they should; returns whether there were any.
    async fn repair(&mut self) -> Result<bool, RedisTrouble>;

    /// Releases the lease or lock that other schedulers wait for.
    async fn leave(&self) -> Result<(), RedisTrouble>;
}

impl Instance {
    /// The JSON text of the heartbeat.
    pub(crate) fn heartbeat(&self, status: &Status) -> String {
        let seconds = |micros: Micros| Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
        json!({
            "host": self.machine,
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": seconds(self.started_at),
            "entries": status.entries,
            "last_slot": status.last_slot.map(seconds),
            "next_due": status.next_due.map(seconds),
            "leader": status.leader,
        })
        .to_string()
    }

    /// Logs that a message was sent, or would have been.
    pub(crate) fn log_sent(&self, entry: &ScheduleEntry, id: &str, late: Duration) {
        info!(
            beat.entry = entry.name,
            task.name = entry.task,
            task.id = id,
            "{}",
            if self.dry_run { "would be sent" } else { "sent" }
        );
        debug!(
            beat.entry = entry.name,
            late_ms = late.as_secs_f64() * 1000.0,
            "lateness"
        );
    }
}

/// Whether a key holds another type than the command needs.
pub(crate) fn is_wrong_type(trouble: &RedisTrouble) -> bool {
    error_chain(trouble).contains("WRONGTYPE")
}

/// Runs until a stop. A cold stop does not wait for Redis to answer: whether the current slot was claimed, the next beat
/// reads from its record.
pub(crate) async fn run(mut scheduler: impl Scheduler, stop: &Stop, rng: fastrand::Rng) {
    let mut retries = Reconnect::new(rng);
    while !stop.is_stopping() {
        let turn = tokio::select! {
            biased;
            turn = scheduler.turn() => turn,
            () = stop.cold() => return,
        };
        let pause = match turn {
            Ok(until_next) => {
                if retries.attempt() > 0 {
                    info!("the broker is back");
                    retries.reset();
                }
                until_next
            }
            Err(trouble) if is_wrong_type(&trouble) && matches!(scheduler.repair().await, Ok(true)) => {
                Duration::ZERO
            }
            Err(trouble) => {
                scheduler.turn_failed();
                let delay = retries.next_delay();
                if retries.attempt() == 1 {
                    warn!(error = %error_chain(&trouble), "broker in trouble, due entries stay due");
                }
                delay
            }
        };
        sleep_unless_stopping(stop, pause).await;
    }
    // Lease, lock and heartbeat expire by themselves if this fails.
    if !matches!(timeout(LEAVE_TIMEOUT, scheduler.leave()).await, Ok(Ok(()))) {
        debug!("could not release the lease, it expires by itself");
    }
}
