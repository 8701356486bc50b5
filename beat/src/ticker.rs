//! The loop: wait for the next due entry, enqueue it, schedule its next slot.
//!
//! While the broker is away a due entry stays due and is tried again; once it is back, one message is sent
//! for all the slots that were missed.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use tracing::{debug, info, warn};
use tradebot_symbols::core::backoff::Reconnect;
use tradebot_symbols::core::clock::SharedClock;
use tradebot_symbols::core::error_chain;
use tradebot_symbols::core::lifecycle::{Stop, sleep_unless_stopping};
use tradebot_symbols::core::transport::{Connection, RedisTrouble, publish};
use tradebot_symbols::core::wire::keys::Keys;
use tradebot_symbols::core::wire::task_message::TaskMessage;

use crate::schedule::{Entry, Schedule, next_slot};

/// A running schedule.
pub(crate) struct Ticker {
    schedule: Schedule,
    /// When each entry is due, in the schedule's order.
    due: Vec<Instant>,
    anchor: Instant,
    connection: Connection,
    keys: Keys,
    clock: SharedClock,
    origin: String,
}

impl Ticker {
    /// A ticker whose entries are all due now.
    pub(crate) fn new(
        schedule: Schedule,
        connection: Connection,
        keys: Keys,
        clock: SharedClock,
        origin: String,
    ) -> Self {
        let anchor = Instant::now();
        let due = vec![anchor; schedule.entries().len()];
        Self {
            schedule,
            due,
            anchor,
            connection,
            keys,
            clock,
            origin,
        }
    }

    /// Ticks until a stop is asked for. A cold stop does not wait for the broker's answer: the message may or
    /// may not have been sent then.
    pub(crate) async fn run(mut self, stop: &Stop) {
        let mut waits = Reconnect::default();
        while !stop.is_stopping() {
            let ticked = tokio::select! {
                biased;
                ticked = self.tick() => ticked,
                () = stop.cold() => return,
            };
            let pause = match ticked {
                Ok(until_next) => {
                    waits.reset();
                    until_next
                }
                Err(trouble) => {
                    let delay = waits.next_delay();
                    if waits.attempt() == 1 {
                        warn!(error = %error_chain(&trouble), "broker in trouble, due entries stay due");
                    }
                    delay
                }
            };
            sleep_unless_stopping(stop, pause).await;
        }
    }

    /// Enqueues what is due; returns how long nothing else will be.
    async fn tick(&mut self) -> Result<Duration, RedisTrouble> {
        for number in 0..self.due.len() {
            let entry = &self.schedule.entries()[number];
            let now = Instant::now();
            if self.due[number] > now {
                continue;
            }
            self.send(entry, now - self.due[number]).await?;
            self.due[number] = next_slot(self.anchor, entry.every, Instant::now());
        }
        let next = self.due.iter().min().copied().unwrap_or_else(Instant::now);
        Ok(next.saturating_duration_since(Instant::now()))
    }

    async fn send(&self, entry: &Entry, late: Duration) -> Result<(), RedisTrouble> {
        let now = self.clock.now();
        let message = TaskMessage {
            task: entry.task.to_owned(),
            queue: entry.queue.clone(),
            // A message that nobody took within its interval has a successor: it must not pile up.
            expires: TimeDelta::from_std(entry.every).ok().map(|every| now + every),
            ..TaskMessage::default()
        };
        let envelope = message.into_envelope(&self.origin, now);
        publish(&self.connection, &self.keys, &entry.queue, &envelope).await?;
        info!(
            beat.entry = entry.name,
            task.name = entry.task,
            task.id = envelope.id(),
            "sent"
        );
        debug!(
            beat.entry = entry.name,
            late_ms = late.as_secs_f64() * 1000.0,
            "lateness"
        );
        Ok(())
    }
}
