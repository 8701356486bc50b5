//! Restoring deliveries to the front of their queues, or parking their records.
//!
//! One script does it for some dozens, so that each is restored at most once, and never together with its acknowledgement.
//! One call is short for the server, however many there are.
//!
//! The same script counts how often a message was running when its worker died, see `crashes`. The count ends when the
//! message is settled.

use std::collections::HashMap;
use std::sync::LazyLock;

use redis::{Script, cmd};
use serde_json::value::RawValue;
use tracing::error;

use super::super::crashes::{self, ALONE_FROM, MEMORY};
use super::super::{DeliveryTag, Source, Transport};
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::python_json;

static RESTORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/restore.lua")));

/// How a delivery came to be without a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss<'s> {
    /// The worker that held it died.
    WorkerDied,
    /// Its claim was never answered; it was not started.
    NeverReceived,
    /// It was not renewed for the visibility timeout, and was found with this score.
    TimedOut(&'s str),
}

impl Loss<'_> {
    /// The score with which the delivery was found, where its tag alone does not tell it from others.
    fn score(&self) -> &str {
        match self {
            Self::TimedOut(score) => score,
            Self::WorkerDied | Self::NeverReceived => "",
        }
    }
}

/// A delivery to restore.
#[derive(Debug)]
pub(super) struct Lost<'l> {
    pub(super) tag: &'l DeliveryTag,
    /// What `unacked` says of it, if it says anything.
    pub(super) record: Option<&'l [u8]>,
    pub(super) loss: Loss<'l>,
}

/// Queues to which exchanges route, by exchange and routing key.
type Routes = HashMap<(String, String), Option<String>>;

/// What became of some deliveries.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// How many were restored or parked. Another worker has restored the others, or must do so.
    pub(super) deliveries: usize,
    /// This user may not restore some of them.
    pub(super) some_forbidden: bool,
}

impl Transport {
    /// Restores these deliveries in this order, or parks them. All of them were lost in the same way, to the same worker.
    pub(super) async fn restore(&self, deliveries: &[Lost<'_>]) -> Result<Restored, RedisTrouble> {
        let (mut restored, mut routes, mut messages) = (Restored::default(), Routes::new(), Vec::new());
        for one in deliveries {
            let Some(record) = one.record else {
                messages.push((one, None));
                continue;
            };
            match self.read_record(record, one.loss, &mut routes).await? {
                Ok(read) => messages.push((one, Some(read))),
                Err(Unreadable::Routing) => {}
                Err(Unreadable::Record(reason)) => {
                    restored.deliveries += usize::from(self.park_record(one.tag, record, &reason).await?);
                }
            }
        }
        // A user may lack the right to the queue of one of them.
        let mut batches = vec![messages.as_slice()];
        while let Some(batch) = batches.pop() {
            match self.put_back(batch).await {
                Ok(put_back) => restored.deliveries += put_back,
                Err(trouble) if trouble.is_forbidden() && batch.len() > 1 => {
                    batches.extend(batch.chunks(1).rev());
                }
                Err(trouble) if trouble.is_forbidden() => {
                    self.leave_to_others(&trouble);
                    restored.some_forbidden = true;
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(restored)
    }

    async fn park_record(
        &self,
        tag: &DeliveryTag,
        record: &[u8],
        reason: &str,
    ) -> Result<bool, RedisTrouble> {
        let source = Source {
            queue: String::new(),
            list: String::new(),
        };
        let settled = self
            .settle(tag, None, &[self.park(&source, record, reason)])
            .await?;
        if settled.held {
            error!(
                delivery.tag = tag.0,
                reason, "parked a delivery whose record cannot be read"
            );
        }
        Ok(settled.held)
    }

    async fn put_back(
        &self,
        deliveries: &[(&Lost<'_>, Option<(Source, Envelope)>)],
    ) -> Result<usize, RedisTrouble> {
        let Some((first, _)) = deliveries.first() else {
            return Ok(0);
        };
        let dead = first.tag.worker().filter(|_| first.loss == Loss::WorkerDied);
        let mut call = RESTORE.prepare_invoke();
        call.key(self.keys.unacked()).key(self.keys.unacked_index());
        if let Some(dead) = dead {
            call.key(self.keys.crashes()).key(self.keys.started(dead));
        }
        call.arg(u8::from(dead.is_some())).arg(MEMORY.as_secs());
        for (one, read) in deliveries {
            call.arg(one.tag.0.as_str()).arg(one.loss.score());
            let Some((source, message)) = read else {
                call.arg(&["", "", ""]);
                continue;
            };
            let back = Self::hand_back(source, message);
            let waits_first = message.header("eta").is_some();
            call.key(back.list).arg(back.message);
            call.arg(crashes::field(message))
                .arg(if waits_first { 0 } else { ALONE_FROM });
        }
        let outcomes: Vec<i8> = self.connection.script(None, &call).await?;
        // The server does not report our own changes to us (NOLOOP).
        self.changed.notify_one();
        Ok(outcomes.into_iter().filter(|outcome| *outcome > 0).count())
    }

    /// Reads kombu's triple `[message, exchange, routing_key]` as kombu does, and finds the queue it leads back to. The
    /// message may be any of kombu's; one that a worker of this system took is a task.
    async fn read_record(
        &self,
        record: &[u8],
        loss: Loss<'_>,
        routes: &mut Routes,
    ) -> Result<Result<(Source, Envelope), Unreadable>, RedisTrouble> {
        let text = String::from_utf8_lossy(record);
        let read: Result<(Box<RawValue>, String, String), _> = python_json::from_slice(text.as_bytes());
        let Ok((message, exchange, routing_key)) = read else {
            let reason = "its record is not [message, exchange, routing_key]";
            return Ok(Err(Unreadable::Record(reason.into())));
        };
        let raw = message.get().as_bytes();
        let read = match loss {
            Loss::TimedOut(_) => Envelope::of_any_message(raw),
            Loss::WorkerDied | Loss::NeverReceived => {
                Envelope::parse(raw).or_else(|_| Envelope::of_any_message(raw))
            }
        };
        let message = match read {
            Ok(message) if message.is_of_kombu() => message,
            Ok(_) => {
                let reason = "its message is not one of kombu's";
                return Ok(Err(Unreadable::Record(reason.into())));
            }
            Err(reason) => return Ok(Err(Unreadable::Record(reason.to_string()))),
        };
        let queue = if exchange.is_empty() {
            Some(routing_key)
        } else {
            let route = (exchange, routing_key);
            if !routes.contains_key(&route) {
                let queue = self.bound_queue(&route.0, &route.1).await?;
                routes.insert(route.clone(), queue);
            }
            routes[&route].clone()
        };
        Ok(match queue {
            Some(queue) => {
                let list = self.keys.list_for(&queue, message.priority());
                Ok((Source { queue, list }, message))
            }
            None => Err(Unreadable::Routing),
        })
    }

    /// The queue to which an exchange routes directly.
    async fn bound_queue(&self, exchange: &str, routing_key: &str) -> Result<Option<String>, RedisTrouble> {
        let bindings: Vec<String> = self
            .connection
            .command(cmd("SMEMBERS").arg(self.keys.binding(exchange, false)))
            .await?;
        let queue = bindings
            .iter()
            .find_map(|binding| self.keys.bound_queue(binding, routing_key));
        Ok(queue.map(str::to_owned))
    }
}

/// Why a record cannot be restored here.
enum Unreadable {
    /// It is damaged; a Python worker that restored it would exit.
    Record(String),
    /// It came through an exchange that only kombu can route.
    Routing,
}
