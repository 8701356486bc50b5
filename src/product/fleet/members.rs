//! The members of the fleet: workers, with their answers over remote control, and beats.
//!
//! A Celery beat neither answers nor writes to Redis, so it is not visible.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::FleetReader;
use super::liveness::{BeatFacts, RegisteredWorker};
use tradebot_base::clock::Clock;
use tradebot_base::connection::RedisTrouble;
use tradebot_core::control::{Inquiry, Replies};
use tradebot_core::events::LamportClock;

/// How long to wait for answers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Seconds after which nodes ignore a command.
const COMMAND_SECONDS: f64 = 60.0;

/// One worker.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct WorkerFacts {
    /// Its node name.
    pub node: String,
    /// Whether it is a worker of this system, rather than a Python worker.
    pub ours: bool,
    /// How many leases carry this name: one, unless several workers share it.
    pub leases: usize,
    /// Whether it answers over remote control.
    pub answers: bool,
    /// How many answers came under this name: one, unless several workers share it.
    pub replies: usize,
    /// Queues that it consumes.
    pub queues: BTreeSet<String>,
    /// Tasks that it knows.
    pub tasks: BTreeSet<String>,
}

/// All workers and beats.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FleetMembers {
    /// Workers, by name.
    pub workers: Vec<WorkerFacts>,
    /// Nodes that listen to remote control and did not answer in time.
    pub silent_nodes: usize,
    /// Beats of this system.
    pub beats: Vec<BeatFacts>,
}

impl WorkerFacts {
    /// How many workers have this name.
    pub(crate) fn twins(&self) -> usize {
        self.leases.max(self.replies).max(1)
    }
}

impl FleetMembers {
    /// Reads leases and heartbeats, and requests the queues and tasks of all workers.
    pub(crate) async fn read(reader: &FleetReader, clock: &dyn Clock) -> Result<Self, RedisTrouble> {
        let mut workers: BTreeMap<String, WorkerFacts> = BTreeMap::new();
        let registered = RegisteredWorker::read_all(reader).await?;
        for worker in registered.into_iter().filter(|worker| worker.leased) {
            let facts = workers.entry(worker.node).or_default();
            facts.ours = true;
            facts.leases += 1;
        }
        let (queues, tasks) = tokio::join!(
            reader.ask_all(clock, "active_queues", (PATIENCE, None)),
            reader.ask_all(clock, "registered", (PATIENCE, None))
        );
        let (queues, tasks) = (queues?, tasks?);
        for (node, answer) in queues.by_node {
            let replies = queues.counts.get(&node).copied().unwrap_or_default();
            let facts = workers.entry(node).or_default();
            facts.answers = true;
            facts.replies = replies;
            let names = answer.as_array().into_iter().flatten();
            let names = names.filter_map(|queue| queue["name"].as_str());
            facts.queues.extend(names.map(str::to_owned));
        }
        for (node, answer) in tasks.by_node {
            let names = answer.as_array().into_iter().flatten().filter_map(Value::as_str);
            // `name [rate_limit=…]`
            let names = names.filter_map(|name| name.split(' ').next());
            let facts = workers.entry(node).or_default();
            facts.tasks.extend(names.map(str::to_owned));
        }
        for (node, facts) in &mut workers {
            facts.node.clone_from(node);
        }
        Ok(Self {
            workers: workers.into_values().collect(),
            silent_nodes: queues.silent,
            beats: BeatFacts::read_all(reader).await?,
        })
    }
}

impl FleetReader {
    /// Sends a command without arguments to all nodes. The reply of the node `wanted` is enough.
    pub(super) async fn ask_all(
        &self,
        clock: &dyn Clock,
        method: &str,
        (patience, wanted): (Duration, Option<&str>),
    ) -> Result<Replies, RedisTrouble> {
        let inquiry = Inquiry {
            connection: &self.broker,
            keys: &self.keys,
            mailbox: &LamportClock::default(),
            method,
            arguments: json!({}),
            expires: clock.unix_seconds() + COMMAND_SECONDS,
            patience,
            wanted,
        };
        inquiry.send().await
    }
}
