//! Restoring one delivery to the front of its queue, or parking it.
//!
//! One script does it, so that a delivery is restored at most once, and never together with its acknowledgement.
//!
//! A message that was running each time its worker died is parked after the third time, see `crashes`. The same
//! script counts; the count ends when the message is settled in the normal way or parked.

use std::collections::HashMap;
use std::sync::LazyLock;

use redis::{Script, cmd};
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;
use tracing::error;

use super::super::crashes::{self, ALONE_FROM, MAX_CRASHES, MEMORY};
use super::super::{DeliveryTag, Source, Transport};
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys;

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
        match self.read_record(record).await? {
            Ok((source, message)) => self.put_back(tag, &source, &message, loss).await,
            Err(Unreadable::Routing) => Ok(false),
            // Not ours: Python may read what this system does not, and restores it itself.
            Err(Unreadable::Message(_)) if matches!(loss, Loss::TimedOut(_)) => Ok(false),
            Err(Unreadable::Record(reason) | Unreadable::Message(reason)) => {
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
        let reason = format!("{MAX_CRASHES} workers died while they ran this message");
        let back = Self::hand_back(source, message);
        let aside = self.park(source, message.to_json().as_bytes(), &reason);
        let mut call = RESTORE.prepare_invoke();
        call.key(self.keys.unacked())
            .key(self.keys.unacked_index())
            .key(back.list);
        if let Some(dead) = dead {
            call.key(self.keys.crashes())
                .key(aside.list)
                .key(self.keys.started(dead));
        }
        call.arg(tag.0.as_str())
            .arg(back.message)
            .arg(crashes::field(message))
            .arg(MAX_CRASHES)
            .arg(MEMORY.as_secs())
            .arg(aside.message)
            .arg(if waits_first { 0 } else { ALONE_FROM })
            .arg(loss.score());
        let outcome: i8 = self.connection.script(None, &call).await?;
        // The server does not report our own changes to us (NOLOOP).
        self.changed.notify_one();
        if outcome == 2 {
            error!(
                task.name = message.task(),
                task.id = message.id(),
                outcome = "parked",
                queue = source.queue,
                reason,
                "parked a message"
            );
        }
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

    /// Reads kombu's triple `[message, exchange, routing_key]` and finds the queue it leads back to.
    async fn read_record(
        &self,
        record: &[u8],
    ) -> Result<Result<(Source, Envelope), Unreadable>, RedisTrouble> {
        let Ok((message, exchange, routing_key)) =
            serde_json::from_slice::<(&RawValue, String, String)>(record)
        else {
            return Ok(Err(if python_reads(record) {
                Unreadable::Message("only Python reads the JSON of its record".into())
            } else {
                Unreadable::Record("its record is not [message, exchange, routing_key]".into())
            }));
        };
        let message = match Envelope::parse(message.get().as_bytes()) {
            Ok(message) => message,
            Err(reason) if is_of_kombu(message) => {
                return Ok(Err(Unreadable::Message(reason.to_string())));
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

/// Whether a message has the fields of every kombu message, a Celery task or not.
fn is_of_kombu(message: &RawValue) -> bool {
    let fields: HashMap<String, IgnoredAny> = serde_json::from_str(message.get()).unwrap_or_default();
    ["body", "headers", "properties"]
        .iter()
        .all(|part| fields.contains_key(*part))
}

/// Whether a record that is no JSON by the standard is one for Python, which also reads `NaN`, `Infinity` and
/// halves of surrogate pairs.
fn python_reads(record: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(record) else {
        return false;
    };
    let mut standard = String::with_capacity(text.len());
    // Even parts lie outside of strings, as long as no quote is escaped; those are put out of the way first.
    for (number, part) in text
        .replace("\\\\", "__")
        .replace("\\\"", "__")
        .split('"')
        .enumerate()
    {
        if number > 0 {
            standard.push('"');
        }
        if number % 2 == 0 {
            standard.push_str(
                &part
                    .replace("-Infinity", "0")
                    .replace("Infinity", "0")
                    .replace("NaN", "0"),
            );
        } else {
            standard.push_str(&part.replace("\\u", "__"));
        }
    }
    serde_json::from_str::<(Value, String, String)>(&standard).is_ok()
}

/// Why a record cannot be restored here.
enum Unreadable {
    /// It is damaged; a Python worker that restored it would exit.
    Record(String),
    /// Its message is none that this system understands.
    Message(String),
    /// It came through an exchange that only kombu can route.
    Routing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_python_reads_is_told_from_damage() {
        for readable in [
            r#"[{"headers": {"x": NaN, "y": [-Infinity, Infinity]}}, "", "celery"]"#,
            r#"[{"headers": {"x": "\ud800 \" NaN"}}, "", "celery"]"#,
        ] {
            assert!(serde_json::from_str::<Value>(readable).is_err(), "{readable}");
            assert!(python_reads(readable.as_bytes()), "{readable}");
        }
        for damaged in [
            "not JSON",
            r#"["two", "elements"]"#,
            r#"[{"a": NaNa}, "", ""]"#,
            "[{}, \"\", 1]",
            "\u{1}",
        ] {
            assert!(!python_reads(damaged.as_bytes()), "{damaged}");
        }
        assert!(!python_reads(&[0xff]));
    }
}
