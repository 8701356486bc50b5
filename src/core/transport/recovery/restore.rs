//! Restoring one delivery to the front of its queue, or parking its record.
//!
//! One script does it, so that a delivery is restored at most once, and never together with its acknowledgement.
//!
//! The same script counts how often a message was running when its worker died, see `crashes`. The count ends when the
//! message is settled.

use std::sync::LazyLock;

use redis::{Script, cmd};
use serde_json::value::RawValue;
use tracing::error;

use super::super::crashes::{self, ALONE_FROM, MEMORY};
use super::super::{DeliveryTag, Source, Transport};
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys;
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

impl Transport {
    /// Restores one delivery, or parks it; `false` if another worker has restored it or must do so.
    pub(super) async fn restore(
        &self,
        tag: &DeliveryTag,
        record: &[u8],
        loss: Loss<'_>,
    ) -> Result<bool, RedisTrouble> {
        match self.read_record(record, loss).await? {
            Ok((source, message)) => self.put_back(tag, &source, &message, loss).await,
            Err(Unreadable::Routing) => Ok(false),
            Err(Unreadable::Record(reason)) => {
                let source = Source {
                    queue: String::new(),
                    list: String::new(),
                };
                let settled = self
                    .settle(tag, None, &[self.park(&source, record, &reason)])
                    .await?;
                if settled.held {
                    error!(
                        delivery.tag = tag.0,
                        reason, "parked a delivery whose record cannot be read"
                    );
                }
                Ok(settled.held)
            }
        }
    }

    async fn put_back(
        &self,
        tag: &DeliveryTag,
        source: &Source,
        message: &Envelope,
        loss: Loss<'_>,
    ) -> Result<bool, RedisTrouble> {
        let dead = tag.worker().filter(|_| loss == Loss::WorkerDied);
        let waits_first = message.header("eta").is_some();
        let back = Self::hand_back(source, message);
        let mut call = RESTORE.prepare_invoke();
        call.key(self.keys.unacked())
            .key(self.keys.unacked_index())
            .key(back.list);
        if let Some(dead) = dead {
            call.key(self.keys.crashes()).key(self.keys.started(dead));
        }
        call.arg(tag.0.as_str())
            .arg(back.message)
            .arg(crashes::field(message))
            .arg(MEMORY.as_secs())
            .arg(if waits_first { 0 } else { ALONE_FROM })
            .arg(loss.score());
        let outcome: i8 = self.connection.script(None, &call).await?;
        // The server does not report our own changes to us (NOLOOP).
        self.changed.notify_one();
        Ok(outcome > 0)
    }

    /// Removes the index entry of a delivery that has no record.
    pub(super) async fn clear_away(&self, tag: &DeliveryTag, loss: Loss<'_>) -> Result<(), RedisTrouble> {
        let script = Script::new(include_str!("../scripts/clear_away.lua"));
        let mut call = script.prepare_invoke();
        call.key(self.keys.unacked()).key(self.keys.unacked_index());
        call.arg(tag.0.as_str()).arg(loss.score());
        self.connection.script::<i64>(None, &call).await.map(drop)
    }

    /// Reads kombu's triple `[message, exchange, routing_key]` as kombu does, and finds the queue it leads back to. The
    /// message may be any of kombu's; one that a worker of this system took is a task.
    async fn read_record(
        &self,
        record: &[u8],
        loss: Loss<'_>,
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
            self.bound_queue(&exchange, &routing_key).await?
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
            .find_map(|binding| keys::bound_queue(binding, routing_key));
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
