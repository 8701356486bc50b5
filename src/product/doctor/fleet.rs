//! Who is at work: workers by their lease and by what they answer, beats by their heartbeat.
//!
//! Python workers keep nothing in Redis that tells of them; they are asked over remote control. A Celery beat does
//! not even answer, and cannot be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::cmd;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::broker::Broker;
use super::finding::{self, Finding};
use super::settings::Settings;
use super::{Trouble, ask, ask_all};
use tradebot_base::clock::Clock;
use tradebot_base::connection::Connection;
use tradebot_base::market::Market;
use tradebot_wire::keys::{self, Keys, OWN, PRIORITY_STEPS};
use tradebot_wire::pidbox::{self, PidboxMessage, ReplyTo};

/// How long answers are waited for, unless all have come.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(10);
/// A beat may be late by this, in seconds.
const BEAT_LATE_SECONDS: i64 = 60;

/// One worker.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Worker {
    /// Its node name.
    pub node: String,
    /// Whether it is one of this system; Python workers are not.
    pub ours: bool,
    /// How many leases carry this name; one, unless several workers share it.
    pub leases: usize,
    /// Whether it answers over remote control.
    pub answers: bool,
    /// Queues that it consumes.
    pub queues: BTreeSet<String>,
    /// Tasks that it knows.
    pub tasks: BTreeSet<String>,
}

/// One beat of this system.
#[derive(Debug, Clone, Serialize)]
pub struct Beat {
    /// Its id.
    pub instance: String,
    /// What its heartbeat says.
    pub heartbeat: Value,
}

/// Everybody who was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Fleet {
    /// Workers, by name.
    pub workers: Vec<Worker>,
    /// Nodes that listen to remote control and did not answer in time.
    pub silent_nodes: usize,
    /// Beats of this system.
    pub beats: Vec<Beat>,
}

impl Fleet {
    /// Looks for workers and beats.
    pub(super) async fn look(
        connection: &Connection,
        keys: &Keys,
        prefix: &str,
        clock: &dyn Clock,
    ) -> Result<Self, Trouble> {
        let mut workers: BTreeMap<String, Worker> = BTreeMap::new();
        for node in leases(connection, keys).await? {
            let worker = workers.entry(node).or_default();
            worker.ours = true;
            worker.leases += 1;
        }
        let (queues, tasks) = tokio::join!(
            inquire(connection, keys, clock, "active_queues"),
            inquire(connection, keys, clock, "registered")
        );
        let ((queues, silent), (tasks, _)) = (queues?, tasks?);
        for (node, answer) in queues {
            let worker = workers.entry(node).or_default();
            worker.answers = true;
            let names = answer.as_array().into_iter().flatten();
            worker.queues.extend(
                names
                    .filter_map(|queue| queue["name"].as_str())
                    .map(str::to_owned),
            );
        }
        for (node, answer) in tasks {
            let worker = workers.entry(node).or_default();
            let names = answer.as_array().into_iter().flatten().filter_map(Value::as_str);
            // `name [rate_limit=…]`
            worker
                .tasks
                .extend(names.filter_map(|name| name.split(' ').next()).map(str::to_owned));
        }
        for (node, worker) in &mut workers {
            worker.node.clone_from(node);
        }
        Ok(Self {
            workers: workers.into_values().collect(),
            silent_nodes: silent,
            beats: beats(connection, prefix).await?,
        })
    }

    /// What is wrong with it. `now` is the broker's time.
    pub(super) fn judge(&self, broker: Option<&Broker>, settings: &Settings, now: i64) -> Vec<Finding> {
        let mut found = Vec::new();
        for queue in &settings.queues {
            let serve = |worker: &&Worker| worker.queues.contains(queue) || (worker.ours && !worker.answers);
            let knows = |worker: &Worker| {
                Market::ALL
                    .iter()
                    .all(|market| worker.tasks.contains(market.warmup_task()))
            };
            let serving: Vec<&Worker> = self.workers.iter().filter(serve).collect();
            if !serving.iter().any(|worker| knows(worker) || !worker.answers) {
                let others = serving.len();
                let what =
                    format!("no worker that has the warm-ups serves the queue, of {others} that serve it");
                found.push(finding::NO_WORKER.found(queue, what));
            }
            for worker in serving
                .iter()
                .filter(|worker| !worker.ours && !knows(worker) && !worker.tasks.is_empty())
            {
                let what = format!("it serves the queue {queue} and does not have the warm-ups");
                found.push(finding::WORKER_DISCARDS.found(&worker.node, what));
            }
        }
        for worker in &self.workers {
            if worker.ours && !worker.answers {
                let what = format!("it did not answer within {} s", PATIENCE.as_secs());
                found.push(finding::WORKER_SILENT.found(&worker.node, what));
            }
            if worker.leases > 1 {
                let what = format!("{} workers have this name", worker.leases);
                found.push(finding::DUPLICATE_NODE.found(&worker.node, what));
            }
        }
        if let Some(broker) = broker {
            found.extend(self.judge_waiting(broker));
        }
        found.extend(self.judge_beats(settings, now));
        found
    }

    fn judge_waiting(&self, broker: &Broker) -> Option<Finding> {
        let unknown: Vec<String> = broker
            .waiting_for_others
            .iter()
            .filter(|(task, _)| self.workers.iter().all(|worker| !worker.tasks.contains(*task)))
            .map(|(task, messages)| format!("{task} ({messages})"))
            .collect();
        (!unknown.is_empty()).then(|| {
            let what = format!("no worker that answers knows {}", unknown.join(", "));
            finding::UNSERVED.found("queues", what)
        })
    }

    fn judge_beats(&self, settings: &Settings, now: i64) -> Vec<Finding> {
        let scheduled = Market::ALL
            .iter()
            .any(|market| settings.schedule.warmup_interval.get(*market).is_some());
        if self.beats.is_empty() {
            let missed = scheduled && !settings.foreign_beat;
            return missed
                .then(|| finding::NO_BEAT.found("beat", "no beat of this system has a heartbeat"))
                .into_iter()
                .collect();
        }
        let late = |beat: &&Beat| {
            let due = beat.heartbeat.get("next_due").and_then(seconds);
            due.is_some_and(|due| now - due > BEAT_LATE_SECONDS)
        };
        let stalled = self.beats.iter().filter(late).map(|beat| {
            finding::BEAT_STALLED.found(&beat.instance, "its next slot is more than a minute overdue")
        });
        stalled.collect()
    }
}

/// A time as Unix seconds, whether it is written as a number or as a date.
fn seconds(value: &Value) -> Option<i64> {
    match value {
        Value::String(text) => tradebot_wire::timestamp::parse(text).map(|time| time.timestamp()),
        #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
        other => other.as_f64().map(|seconds| seconds as i64),
    }
}

/// Node names of the workers that have a lease, one for each.
pub(super) async fn leases(connection: &Connection, keys: &Keys) -> Result<Vec<String>, Trouble> {
    let known: BTreeMap<String, String> = ask(connection, cmd("HGETALL").arg(keys.workers())).await?;
    if known.is_empty() {
        return Ok(Vec::new());
    }
    let mut there = redis::pipe();
    for id in known.keys() {
        there.exists(keys.lease(id));
    }
    let there: Vec<bool> = ask_all(connection, &there).await?;
    Ok(known
        .into_values()
        .zip(there)
        .filter_map(|(node, there)| there.then_some(node))
        .collect())
}

/// The heartbeats of beats.
pub(super) async fn beats(connection: &Connection, prefix: &str) -> Result<Vec<Beat>, Trouble> {
    let start = format!("{prefix}{OWN}:beat:");
    let mut found = BTreeSet::new();
    let mut cursor: u64 = 0;
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor)
            .arg("MATCH")
            .arg(format!("{}*", glob(&start)))
            .arg("COUNT")
            .arg(10_000);
        let (next, names): (u64, Vec<String>) = ask(connection, &scan).await?;
        found.extend(names);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    let mut beats = Vec::new();
    for key in found {
        // The beat may keep other keys beside its heartbeats.
        let text: Result<Option<String>, Trouble> = ask(connection, cmd("GET").arg(&key)).await;
        let heartbeat = text
            .ok()
            .flatten()
            .and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if let Some(heartbeat) = heartbeat.filter(|beat| beat.get("pid").is_some()) {
            beats.push(Beat {
                instance: key[start.len()..].to_owned(),
                heartbeat,
            });
        }
    }
    Ok(beats)
}

/// A text as a pattern that matches itself.
fn glob(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if "*?[]^\\".contains(c) {
                vec!['\\', c]
            } else {
                vec![c]
            }
        })
        .collect()
}

/// Asks all nodes, and returns their answers and how many did not answer in time.
async fn inquire(
    connection: &Connection,
    keys: &Keys,
    clock: &dyn Clock,
    method: &str,
) -> Result<(BTreeMap<String, Value>, usize), Trouble> {
    inquire_for(connection, keys, clock, method, PATIENCE, None).await
}

/// Like [`inquire`], until `patience` is over or `wanted` has answered.
pub(super) async fn inquire_for(
    connection: &Connection,
    keys: &Keys,
    clock: &dyn Clock,
    method: &str,
    patience: Duration,
    wanted: Option<&str>,
) -> Result<(BTreeMap<String, Value>, usize), Trouble> {
    let oid = Uuid::new_v4().to_string();
    let queue = format!("{oid}.{}", pidbox::REPLY_EXCHANGE);
    let member = keys::binding_member(&oid, "", &queue);
    let binding = keys.binding(pidbox::REPLY_EXCHANGE, false);
    // Python's nodes look up where an answer goes.
    ask::<i64>(connection, cmd("SADD").arg(&binding).arg(&member)).await?;
    let to = ReplyTo {
        exchange: pidbox::REPLY_EXCHANGE.to_owned(),
        routing_key: oid.clone(),
        ticket: json!(Uuid::new_v4().to_string()),
    };
    let answers = collect(connection, keys, clock, (method, &to, &queue), patience, wanted).await;
    let mut release = redis::pipe();
    for permanent in [false, true] {
        release
            .srem(keys.binding(pidbox::REPLY_EXCHANGE, permanent), &member)
            .ignore();
    }
    for step in PRIORITY_STEPS {
        release.del(keys.list(&queue, step)).ignore();
    }
    ask_all::<()>(connection, &release).await?;
    answers
}

async fn collect(
    connection: &Connection,
    keys: &Keys,
    clock: &dyn Clock,
    (method, to, queue): (&str, &ReplyTo, &str),
    patience: Duration,
    wanted: Option<&str>,
) -> Result<(BTreeMap<String, Value>, usize), Trouble> {
    let expires = clock.unix_seconds() + 60.0;
    let call = pidbox::call(method, json!({}), to, 1, expires);
    let mut publish = cmd("PUBLISH");
    publish
        .arg(keys.channel(connection.database(), pidbox::EXCHANGE))
        .arg(call);
    let mut expected: usize = ask(connection, &publish).await?;
    let deadline = Instant::now() + patience;
    let mut answers = BTreeMap::new();
    let list = keys.list(queue, 0);
    while expected > 0 && Instant::now() < deadline {
        let raw: Option<Vec<u8>> = ask(connection, cmd("RPOP").arg(&list)).await?;
        let Some(raw) = raw else {
            sleep(POLL).await;
            continue;
        };
        expected -= 1;
        if let Ok(message) = PidboxMessage::parse(&raw)
            && message.ticket.as_ref() == Some(&to.ticket)
        {
            answers.extend(message.body);
        }
        if wanted.is_some_and(|wanted| answers.contains_key(wanted)) {
            break;
        }
    }
    Ok((answers, expected))
}
