//! The ledger: what was sent, and what became of each message.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::cmd;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tradebot_base::clock::{Clock, SystemClock};
use tradebot_base::connection::Connection;
use tradebot_core::transport::publish;
use tradebot_test_support::{eventually, stretched};
use tradebot_wire::body::Body;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys::{self, Keys};
use tradebot_wire::task_message::TaskMessage;

use crate::scene::{SOON, Scene, ask};

/// The queue of all tests.
pub(crate) const QUEUE: &str = "celery";

/// Sends messages and follows them to their end.
pub(crate) struct Ledger {
    broker: Connection,
    results: Connection,
    notes: Connection,
    /// The hash in which `tests.record` counts runs.
    key: String,
    /// Every id that was sent, and whether its runs are counted.
    sent: BTreeMap<String, bool>,
    /// Callbacks, with the task whose message carries each until that task is settled.
    carried: BTreeMap<String, String>,
}

/// What became of the messages.
pub(crate) struct Sums {
    sent: usize,
    executed: usize,
    pub(crate) duplicated: u64,
    lost: usize,
    /// Ids of the messages that were set aside.
    pub(crate) parked: BTreeSet<String>,
    /// How often each counted task was started.
    pub(crate) runs: BTreeMap<String, u64>,
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {} executed {} duplicated {} lost {} parked {}",
            self.sent,
            self.executed,
            self.duplicated,
            self.lost,
            self.parked.len()
        )
    }
}

/// One start of a counted task.
pub(crate) struct Start {
    pub(crate) id: String,
    pub(crate) at_ms: u64,
}

impl Ledger {
    /// An empty ledger; `key` keeps it apart from others with the same notes.
    pub(crate) fn open(scene: &Scene, key: &str) -> Self {
        Self {
            broker: scene.observer(),
            results: scene.results(),
            notes: scene.notebook(),
            key: format!("tests:executions:{key}"),
            sent: BTreeMap::new(),
            carried: BTreeMap::new(),
        }
    }

    /// A `tests.record` that waits so long.
    pub(crate) fn task(&self, milliseconds: u64) -> TaskMessage {
        let mut message = plain("tests.record", json!([self.key, milliseconds]));
        message.id = uuid::Uuid::new_v4().to_string();
        message
    }

    /// Adds a callback to a task: another `tests.record`, whose id is known before it exists.
    pub(crate) fn link(&mut self, task: &mut TaskMessage) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let callback = json!([{
            "task": "tests.record", "args": [self.key, 0], "kwargs": {}, "immutable": true,
            "options": {"task_id": id, "queue": QUEUE}, "subtask_type": null,
        }]);
        task.body.embed.insert("callbacks".into(), callback);
        self.sent.insert(id.clone(), true);
        self.carried.insert(id.clone(), task.id.clone());
        id
    }

    /// Sends a `tests.record` that waits so long, and gives its id.
    pub(crate) async fn record(&mut self, milliseconds: u64) -> String {
        let task = self.task(milliseconds);
        self.send(task).await
    }

    /// Sends any task, and gives its id.
    pub(crate) async fn send(&mut self, task: TaskMessage) -> String {
        let counted = task.task == "tests.record";
        let envelope = task.into_envelope("gen1@test", SystemClock.now());
        self.put(&envelope).await;
        self.sent.insert(envelope.id().to_owned(), counted);
        envelope.id().to_owned()
    }

    /// Writes off a message that was taken out on purpose.
    pub(crate) fn write_off(&mut self, id: &str) {
        assert!(self.sent.remove(id).is_some(), "{id} was never sent");
    }

    /// Counts a message that got into the broker by another way.
    pub(crate) fn count_in(&mut self, id: &str) {
        self.sent.insert(id.to_owned(), true);
    }

    async fn put(&self, envelope: &Envelope) {
        // The answer shows that the connection is not one from before an outage. The message is sent once: sent
        // twice it would be counted as a duplicate of the worker's.
        ask::<String>(&self.broker, &cmd("PING")).await;
        let published = publish(&self.broker, &Keys::default(), QUEUE, envelope).await;
        published.expect("nothing is sent while the broker is in trouble");
    }

    /// How often a task was started so far.
    pub(crate) async fn runs_of(&self, id: &str) -> u64 {
        let runs: Option<u64> = ask(&self.notes, cmd("HGET").arg(&self.key).arg(id)).await;
        runs.unwrap_or_default()
    }

    /// Waits until a task was started so often.
    pub(crate) async fn started(&self, id: &str, runs: u64) {
        let what = format!("start {runs} of {id}");
        eventually(&what, 2 * SOON, async || {
            (self.runs_of(id).await >= runs).then_some(())
        })
        .await;
    }

    /// All starts so far, in their order.
    pub(crate) async fn starts(&self) -> Vec<Start> {
        let key = format!("{}:log", self.key);
        let log: Vec<String> = ask(&self.notes, cmd("LRANGE").arg(key).arg(0).arg(-1)).await;
        let read = |line: &String| {
            let (id, at) = line.split_once(' ')?;
            Some(Start {
                id: id.to_owned(),
                at_ms: at.parse().ok()?,
            })
        };
        log.iter()
            .map(|line| read(line).expect("the log's own form"))
            .collect()
    }

    /// Waits for the first start after `at_ms`, and gives the milliseconds between the two.
    pub(crate) async fn first_start_after(&self, at_ms: u64) -> u64 {
        eventually("the next start of a task", 2 * SOON, async || {
            let starts = self.starts().await;
            starts
                .iter()
                .find_map(|start| (start.at_ms > at_ms).then(|| start.at_ms - at_ms))
        })
        .await
    }

    /// The stored result of a task.
    pub(crate) async fn result(&self, id: &str) -> Option<Value> {
        let document: Option<String> = ask(&self.results, cmd("GET").arg(keys::task_meta("", id))).await;
        document.map(|text| serde_json::from_str(&text).expect("a result document is JSON"))
    }

    /// Waits until every message has a result or is parked and the broker holds none of them any more, prints the sums,
    /// and asserts that nothing is lost and that every success did run.
    pub(crate) async fn close(&self, scenario: &str, patience: Duration) -> Sums {
        let deadline = Instant::now() + stretched(patience);
        let (mut parked, mut open, mut kept);
        loop {
            // In this order: a message that leaves the broker has its result, or is parked, by then.
            kept = self.kept().await;
            parked = self.parked().await;
            open = self.unfinished(&parked).await;
            if (open.is_empty() && !self.any_kept(&kept)) || Instant::now() > deadline {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (waiting, lost): (Vec<String>, Vec<String>) =
            open.into_iter().partition(|id| self.is_kept(id, &kept));
        let runs: BTreeMap<String, u64> = ask(&self.notes, cmd("HGETALL").arg(&self.key)).await;
        let sums = Sums {
            sent: self.sent.len(),
            executed: self.sent.len() - waiting.len() - lost.len() - parked.len(),
            duplicated: runs.values().map(|runs| runs.saturating_sub(1)).sum(),
            lost: lost.len(),
            parked,
            runs,
        };
        println!("{scenario}: {sums}");
        assert!(lost.is_empty(), "{scenario}: lost {lost:?}");
        assert!(
            waiting.is_empty(),
            "{scenario}: not run after {patience:?}: {waiting:?}"
        );
        assert!(
            !self.any_kept(&kept),
            "{scenario}: the broker still holds {kept:?} after {patience:?}"
        );
        for (id, counted) in &self.sent {
            let ran = sums.runs.contains_key(id) || sums.parked.contains(id);
            assert!(
                ran || !counted,
                "{scenario}: {id} has a result and did not run: {:?}",
                self.result(id).await
            );
        }
        sums
    }

    /// Whether the broker still holds a message, or the one that carries it as a callback.
    fn is_kept(&self, id: &str, kept: &[String]) -> bool {
        let carrier = self.carried.get(id).map_or(id, String::as_str);
        kept.iter()
            .any(|text| text.contains(id) || text.contains(carrier))
    }

    fn any_kept(&self, kept: &[String]) -> bool {
        self.sent
            .keys()
            .any(|id| kept.iter().any(|text| text.contains(id.as_str())))
    }

    /// Ids without a final result that are not parked either.
    async fn unfinished(&self, parked: &BTreeSet<String>) -> Vec<String> {
        let open: Vec<&String> = self.sent.keys().filter(|id| !parked.contains(*id)).collect();
        if open.is_empty() {
            return Vec::new();
        }
        let mut get = cmd("MGET");
        for id in &open {
            get.arg(keys::task_meta("", id));
        }
        let documents: Vec<Option<String>> = ask(&self.results, &get).await;
        let is_final = |document: &Option<String>| {
            let document: Option<Value> = document.as_ref().and_then(|text| serde_json::from_str(text).ok());
            let status = document.as_ref().and_then(|it| it["status"].as_str());
            matches!(status, Some("SUCCESS" | "FAILURE" | "REVOKED"))
        };
        let open = open.into_iter().zip(documents);
        open.filter(|(_, document)| !is_final(document))
            .map(|(id, _)| id.clone())
            .collect()
    }

    /// What the broker still holds: queued messages and records of deliveries.
    pub(crate) async fn kept(&self) -> Vec<String> {
        let keys = Keys::default();
        let mut kept: Vec<String> = ask(&self.broker, cmd("HVALS").arg(keys.unacked())).await;
        for list in keys.lists(QUEUE) {
            let queued: Vec<String> = ask(&self.broker, cmd("LRANGE").arg(list).arg(0).arg(-1)).await;
            kept.extend(queued);
        }
        kept
    }

    /// Ids of the messages of this ledger that were set aside.
    async fn parked(&self) -> BTreeSet<String> {
        let entries: Vec<String> = ask(
            &self.broker,
            cmd("LRANGE").arg(Keys::default().parked()).arg(0).arg(-1),
        )
        .await;
        let ours = self.sent.keys();
        ours.filter(|id| entries.iter().any(|entry| entry.contains(id.as_str())))
            .cloned()
            .collect()
    }
}

/// A task with positional arguments.
pub(crate) fn plain(task: &str, args: Value) -> TaskMessage {
    let args = args.as_array().cloned().expect("a list of arguments");
    TaskMessage {
        task: task.to_owned(),
        queue: QUEUE.to_owned(),
        body: Body {
            args,
            kwargs: Map::new(),
            embed: Map::new(),
        },
        ..TaskMessage::default()
    }
}

/// The id of the task in a record of `unacked`.
pub(crate) fn id_in_record(record: &str) -> String {
    let triple: Value = serde_json::from_str(record).expect("a record is JSON");
    let id = triple[0]["headers"]["id"].as_str();
    id.expect("a message has an id").to_owned()
}

/// Milliseconds since 1970, as in the log of starts.
pub(crate) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(now.expect("a time after 1970").as_millis()).expect("fits until long after")
}
