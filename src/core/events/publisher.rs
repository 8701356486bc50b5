//! The publisher: sends heartbeats and waiting events over the heartbeat's connection and thread.
//!
//! There it continues while every thread that runs tasks is busy, as in Celery.

use std::sync::Arc;
use std::time::Duration;

use redis::Pipeline;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::buffer::Chunk;
use super::message::message;
use super::{Events, HEARTBEAT_SECONDS};
use tradebot_base::backoff::Reconnect;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_base::lifecycle::Stop;
use tradebot_wire::keys::Keys;

/// How long the first event of a batch waits for others.
const GATHER: Duration = Duration::from_millis(10);

/// Publishes the events of one worker.
pub(crate) struct Publisher {
    events: Arc<Events>,
    connection: Connection,
    /// What all channels of events begin with.
    channel: String,
    waits: Reconnect,
    forbidden: bool,
    /// Events dropped since they were last sent.
    dropped: u64,
}

impl Publisher {
    /// A publisher of `events` over `connection`.
    pub(crate) fn new(events: Arc<Events>, connection: Connection, keys: &Keys, rng: fastrand::Rng) -> Self {
        let channel = keys.event_channels(connection.database());
        Self {
            events,
            connection,
            channel,
            waits: Reconnect::new(rng),
            forbidden: false,
            dropped: 0,
        }
    }

    /// Publishes until `end`, and then what is left. Announces that the worker is offline when `stop` begins.
    pub(crate) async fn run(mut self, stop: &Stop, end: &CancellationToken) {
        let period = Duration::from_secs_f64(HEARTBEAT_SECONDS);
        let mut beats = interval_at(Instant::now() + period, period);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let events = Arc::clone(&self.events);
        let mut reached = false;
        let mut leaving = false;
        while !end.is_cancelled() {
            if !reached {
                reached = (leaving || self.announce("worker-online").await) && self.flush().await;
            }
            if reached {
                self.waits.reset();
            }
            // All branches are cancel-safe: what is not consumed stays.
            tokio::select! {
                biased;
                () = end.cancelled() => {}
                () = stop.warm(), if !leaving => {
                    leaving = true;
                    reached = reached && self.flush().await && self.announce("worker-offline").await;
                }
                () = tokio::time::sleep(self.waits.next_delay()), if !reached => {}
                _ = beats.tick(), if reached && !leaving => {
                    events.renew_common();
                    reached = self.announce("worker-heartbeat").await;
                }
                () = events.filled.notified(), if reached => {
                    tokio::time::sleep(GATHER).await;
                    reached = self.flush().await;
                }
            }
        }
        // A worker with nothing to finish ends as soon as it stops. The heartbeat limits how long the stop waits for this.
        if !(self.flush().await && (leaving || self.announce("worker-offline").await)) {
            debug!("cannot send the last events");
        }
    }

    /// Sends one heartbeat; one that cannot be sent now is of no use later.
    async fn announce(&mut self, kind: &'static str) -> bool {
        let beat = self.events.beat(kind, load_average());
        self.send(&[beat]).await
    }

    /// Sends what waits; `false` if the broker is away.
    async fn flush(&mut self) -> bool {
        self.report_drops();
        loop {
            let (chunks, more) = self.events.buffer().take();
            if chunks.is_empty() {
                return true;
            }
            if !self.send(&chunks).await {
                self.events.buffer().put_back(chunks);
                return false;
            }
            // Newer events wait to be gathered.
            if !more {
                return true;
            }
        }
    }

    async fn send(&mut self, chunks: &[Chunk]) -> bool {
        let mut pipeline = Pipeline::with_capacity(chunks.len());
        for chunk in chunks {
            pipeline
                .cmd("PUBLISH")
                .arg(format!("{}{}", self.channel, chunk.routing_key))
                .arg(message(chunk, &self.events.hostname))
                .ignore();
        }
        match self.connection.pipeline::<()>(&pipeline).await {
            Ok(()) => true,
            Err(RedisTrouble::Refused { code, .. }) if code == "NOPERM" => {
                if !self.forbidden {
                    warn!(
                        channels = %format!("{}*", self.channel),
                        "this Redis user may not publish events, so monitors do not see this worker"
                    );
                }
                self.forbidden = true;
                true
            }
            Err(trouble) => {
                // The heartbeat and the consumer log a warning.
                debug!(error = %error_chain(&trouble), "cannot send events now");
                false
            }
        }
    }

    /// Warns once when events are dropped, and logs how many once that ends.
    fn report_drops(&mut self) {
        let dropped = self.events.buffer().take_dropped();
        if dropped > 0 && self.dropped == 0 {
            warn!("too many events wait for the broker, dropping new ones");
        }
        if dropped == 0 && self.dropped > 0 {
            warn!(dropped = self.dropped, "events were dropped");
            self.dropped = 0;
        }
        self.dropped += dropped;
    }
}

/// The machine's load over 1, 5 and 15 minutes; zeros where the system does not report it.
fn load_average() -> [f64; 3] {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut fields = text.split_whitespace().map(|field| field.parse().unwrap_or(0.0));
    std::array::from_fn(|_| fields.next().unwrap_or(0.0))
}
