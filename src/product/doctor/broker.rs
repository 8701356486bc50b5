//! The queues: what waits, what was taken and is not acknowledged, and what was set aside.

use std::collections::BTreeMap;

use redis::cmd;
use serde::Serialize;
use serde_json::Value;

use super::finding::{self, Finding};
use super::samples;
use super::settings::Settings;
use super::{Trouble, ask, ask_all};
use tradebot_base::connection::Connection;
use tradebot_base::market::Market;
use tradebot_core::transport::Parked;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys::{Keys, PRIORITY_STEPS, binding_member};

/// From how many messages on a queue is long.
const LONG: u64 = 1_000;
/// How long a message may be the oldest, in seconds.
const STUCK_SECONDS: i64 = 300;
/// How far a warm-up may be past its time, in seconds.
const EXPIRED_SECONDS: i64 = 60;
/// How many of the oldest deliveries are looked at: a Python worker holds those with an `eta`.
const DELIVERIES: usize = 50;

/// One queue.
#[derive(Debug, Clone, Serialize)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Messages that wait.
    pub messages: u64,
    /// The message that is served next, of the first list that has one.
    pub oldest: Option<Oldest>,
    /// What one of its keys holds instead of a list.
    pub wrong_type: Option<String>,
    /// Whether clients find it through its exchange.
    pub bound: bool,
}

/// The message that has waited longest.
#[derive(Debug, Clone, Serialize)]
pub struct Oldest {
    /// Its task.
    pub task: String,
    /// Its id.
    pub id: String,
    /// For how long looks have found it at the head, in seconds.
    pub waiting_seconds: i64,
    /// Seconds since it expired, negative while it is valid; absent without expiry.
    pub expired_seconds: Option<i64>,
}

/// What there is on the broker.
#[derive(Debug, Clone, Serialize)]
pub struct Broker {
    /// The queues that were asked for.
    pub queues: Vec<Queue>,
    /// Deliveries that are not acknowledged.
    pub unacked: u64,
    /// Of these, the ones that a restore can find.
    pub unacked_index: u64,
    /// Age of the oldest delivery that does not wait for its `eta`, in seconds.
    pub oldest_delivery_seconds: Option<i64>,
    /// Messages that were set aside.
    pub parked: usize,
    /// Tasks that no worker of this system runs, with the messages that wait for others.
    pub waiting_for_others: BTreeMap<String, u64>,
}

impl Broker {
    /// Looks at the queues; `now` is the server's time.
    pub(super) async fn look(
        connection: &Connection,
        keys: &Keys,
        prefix: &str,
        names: &[String],
        now: i64,
    ) -> Result<Self, Trouble> {
        let mut queues = Vec::new();
        let mut heads = BTreeMap::new();
        for name in names {
            queues.push(look_at(connection, keys, name, now, &mut heads).await?);
        }
        let waiting = samples::waiting(connection, prefix, now, &heads).await;
        // A read-only server is told of elsewhere.
        let waiting = waiting.unwrap_or_default();
        for queue in &mut queues {
            if let Some(oldest) = &mut queue.oldest {
                oldest.waiting_seconds = waiting.get(&queue.name).copied().unwrap_or_default();
            }
        }
        let mut sizes = redis::pipe();
        sizes.atomic();
        sizes.hlen(keys.unacked()).zcard(keys.unacked_index());
        let sizes: Vec<u64> = ask_all(connection, &sizes).await?;
        let parked = Parked::count(connection, keys).await?;
        let waiting_for_others = ask(connection, cmd("HGETALL").arg(keys.waiting())).await?;
        Ok(Self {
            queues,
            unacked: sizes.first().copied().unwrap_or_default(),
            unacked_index: sizes.get(1).copied().unwrap_or_default(),
            oldest_delivery_seconds: oldest_delivery(connection, keys, now).await?,
            parked,
            waiting_for_others,
        })
    }

    /// What is wrong with it. Whether somebody takes what waits for others is the fleet's matter.
    pub(super) fn judge(&self, settings: &Settings) -> Vec<Finding> {
        let mut found: Vec<Finding> = self.queues.iter().flat_map(Queue::judge).collect();
        let hard = settings.worker.time_limit.as_secs();
        // Behind one that runs for as long as it may, another that was taken ahead may wait as long.
        let patience = i64::try_from(if hard == 0 { 3600 } else { 2 * hard + 60 }).unwrap_or(i64::MAX);
        if let Some(age) = self.oldest_delivery_seconds.filter(|age| *age > patience) {
            let what = format!("the oldest delivery was neither acknowledged nor renewed for {age} s");
            found.push(finding::UNACKED_OLD.found("unacked", what));
        }
        if self.unacked > self.unacked_index {
            let what = format!("{} records, {} of them indexed", self.unacked, self.unacked_index);
            found.push(finding::UNACKED_LOST.found("unacked", what));
        }
        if self.parked > 0 {
            let what = format!("{} messages were set aside", self.parked);
            found.push(finding::PARKED.found("parked", what));
        }
        found
    }
}

impl Queue {
    fn judge(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(held) = &self.wrong_type {
            found.push(finding::QUEUE_WRONG_TYPE.found(&self.name, format!("its key holds a {held}")));
            return found;
        }
        if self.messages > LONG {
            found.push(finding::QUEUE_LONG.found(&self.name, format!("{} messages wait", self.messages)));
        }
        if let Some(oldest) = &self.oldest {
            let is_warmup = Market::ALL
                .iter()
                .any(|market| market.warmup_task() == oldest.task);
            let what = if oldest.waiting_seconds >= STUCK_SECONDS {
                Some(format!(
                    "{} has been the next for {} s",
                    oldest.task, oldest.waiting_seconds
                ))
            } else {
                oldest
                    .expired_seconds
                    .filter(|seconds| is_warmup && *seconds > EXPIRED_SECONDS)
                    .map(|seconds| format!("{} is the next and expired {seconds} s ago", oldest.task))
            };
            found.extend(what.map(|what| finding::QUEUE_STUCK.found(&self.name, what)));
        }
        if !self.bound {
            let what = "the exchange of its name does not lead to it";
            found.push(finding::BINDING_MISSING.found(&self.name, what));
        }
        found
    }
}

async fn look_at(
    connection: &Connection,
    keys: &Keys,
    name: &str,
    now: i64,
    heads: &mut BTreeMap<String, String>,
) -> Result<Queue, Trouble> {
    let mut queue = Queue {
        name: name.to_owned(),
        messages: 0,
        oldest: None,
        wrong_type: None,
        bound: false,
    };
    for step in PRIORITY_STEPS {
        let list = keys.list(name, step);
        let found: String = ask(connection, cmd("TYPE").arg(&list)).await?;
        if found == "none" {
            continue;
        }
        if found != "list" {
            queue.wrong_type = Some(found);
            continue;
        }
        queue.messages += ask::<u64>(connection, cmd("LLEN").arg(&list)).await?;
        if queue.oldest.is_some() {
            continue;
        }
        let head: Option<Vec<u8>> = ask(connection, cmd("LINDEX").arg(&list).arg(-1)).await?;
        if let Some(message) = head.and_then(|raw| Envelope::parse(&raw).ok()) {
            heads.insert(
                name.to_owned(),
                message.publisher_tag().unwrap_or(message.id()).to_owned(),
            );
            let expires = message.expires().ok().flatten();
            queue.oldest = Some(Oldest {
                task: message.task().to_owned(),
                id: message.id().to_owned(),
                waiting_seconds: 0,
                expired_seconds: expires.map(|at| now - at.timestamp()),
            });
        }
    }
    let member = binding_member(name, "", name);
    let is_member: bool = ask(
        connection,
        cmd("SISMEMBER").arg(keys.binding(name, false)).arg(member),
    )
    .await?;
    queue.bound = is_member;
    Ok(queue)
}

/// Age of the oldest delivery, those left out that wait for their `eta`: Python workers do not renew them.
async fn oldest_delivery(connection: &Connection, keys: &Keys, now: i64) -> Result<Option<i64>, Trouble> {
    let mut range = cmd("ZRANGE");
    range
        .arg(keys.unacked_index())
        .arg(0)
        .arg(DELIVERIES - 1)
        .arg("WITHSCORES");
    let oldest: Vec<(String, f64)> = ask(connection, &range).await?;
    for (tag, score) in oldest {
        let record: Option<Vec<u8>> = ask(connection, cmd("HGET").arg(keys.unacked()).arg(&tag)).await?;
        let waits = record
            .and_then(|record| serde_json::from_slice::<Value>(&record).ok())
            .is_some_and(|record| record[0]["headers"]["eta"].is_string());
        if !waits {
            #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
            return Ok(Some(now - score as i64));
        }
    }
    Ok(None)
}
