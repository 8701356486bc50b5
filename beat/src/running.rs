//! What both kinds of beat have in common: who they are, what they say of themselves, and the loop that lasts until a
//! stop is asked for.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;
use tracing::{debug, info, warn};
use tradebot_base::backoff::Reconnect;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::lifecycle::{Stop, sleep_unless_stopping};

use crate::entry::Entry;
use crate::metrics::Metrics;
use crate::slots::Micros;
use crate::store::Store;

/// How often the heartbeat is written, and how many seconds it is kept.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(5);
pub(crate) const HEARTBEAT_SECONDS: u64 = 15;
/// The longest sleep: a clock that was set, a lock that was lost and entries that are new are noticed after it.
pub(crate) const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How long the end waits until what this beat holds is given back.
const LEAVING: Duration = Duration::from_millis(500);

/// Who this beat is.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// A name that no other beat has.
    pub(crate) id: String,
    pub(crate) machine: String,
    /// What messages name as their publisher.
    pub(crate) origin: String,
    pub(crate) started_at: Micros,
    /// Nothing is written: what would be sent is only said.
    pub(crate) dry_run: bool,
}

/// What a beat is made of.
pub(crate) struct Parts {
    pub(crate) entries: Vec<Entry>,
    pub(crate) store: Store,
    pub(crate) clock: SharedClock,
    pub(crate) instance: Instance,
    pub(crate) metrics: Metrics,
}

/// What changes in a heartbeat.
pub(crate) struct Standing {
    pub(crate) entries: usize,
    pub(crate) last_slot: Option<Micros>,
    pub(crate) next_due: Option<Micros>,
    pub(crate) leader: bool,
}

impl Instance {
    pub(crate) fn heartbeat(&self, standing: &Standing) -> String {
        let seconds = |micros: Micros| Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
        json!({
            "host": self.machine,
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": seconds(self.started_at),
            "entries": standing.entries,
            "last_slot": standing.last_slot.map(seconds),
            "next_due": standing.next_due.map(seconds),
            "leader": standing.leader,
        })
        .to_string()
    }

    /// Says that a message was sent, or would have been.
    pub(crate) fn tell_sent(&self, entry: &Entry, id: &str, late: Duration) {
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

/// A schedule that is worked off turn by turn.
pub(crate) trait Beat {
    /// Does what is due; returns how long nothing is to be done.
    async fn turn(&mut self) -> Result<Duration, RedisTrouble>;

    /// A turn failed: whether the broker is back, only an answer tells.
    fn troubled(&mut self);

    /// Gives back what others wait for.
    async fn leave(&self) -> Result<(), RedisTrouble>;
}

/// Runs until a stop is asked for. A cold stop does not wait for the broker's answer: a slot may or may not have been
/// taken then, which the next beat finds out.
pub(crate) async fn run(mut beat: impl Beat, stop: &Stop) {
    let mut waits = Reconnect::default();
    while !stop.is_stopping() {
        let turned = tokio::select! {
            biased;
            turned = beat.turn() => turned,
            () = stop.cold() => return,
        };
        let pause = match turned {
            Ok(until_next) => {
                if waits.attempt() > 0 {
                    info!("the broker is back");
                    waits.reset();
                }
                until_next
            }
            Err(trouble) => {
                beat.troubled();
                let delay = waits.next_delay();
                if waits.attempt() == 1 {
                    warn!(error = %error_chain(&trouble), "broker in trouble, due entries stay due");
                }
                delay
            }
        };
        sleep_unless_stopping(stop, pause).await;
    }
    // All of it ends by itself if this fails.
    if !matches!(timeout(LEAVING, beat.leave()).await, Ok(Ok(()))) {
        debug!("the lease was not given back");
    }
}
