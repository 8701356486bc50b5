//! kombu's Redis transport, with every step that moves a message done by the server in one piece.
//!
//! What kombu does in several commands (pop, then record; un-record, then push) is one script here, so a
//! crash at any point leaves a message either in its queue or in `unacked`, where kombu's own restore finds
//! it. Waiting moves nothing: the connection tracks the queues' keys, and the server reports their changes.
//!
//! Delivery tags are ours, new for every claim, and not the `delivery_tag` that a message keeps for life: a
//! late acknowledgement of a message that was restored meanwhile then finds nothing, instead of deleting
//! the record of its next holder.

mod claim;
mod crashes;
mod parked;
mod passes;
mod queues;
mod recovery;
mod settler;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Script;
use serde_json::json;
use tokio::sync::Notify;
use uuid::Uuid;

use queues::Served;
use settler::Settler;

pub use claim::{Claim, Claimed, LeftOut, Region, Unclear, Wish};
pub use crashes::{ALONE_FROM, MAX_CRASHES};
pub use parked::{Parked, ParkedPages};
pub use passes::{Look, Passes};
pub use queues::{Queue, bind};
pub use recovery::{GRACE, HEARTBEAT, LEASE, Overdue, RESTORE_INTERVAL, RollCall, SCORE_RENEWAL};

use tradebot_base::clock::SharedClock;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::said::Said;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys::Keys;
use tradebot_wire::python_json;

/// Identifies one delivery of one message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryTag(pub String);

impl DeliveryTag {
    /// The worker whose claim it was, for tags of this system.
    fn worker(&self) -> Option<&str> {
        self.0.split_once('-').map(|(worker, _)| worker)
    }

    /// Number of the claim and place within it, for tags of this system: `worker-claim-place`.
    fn sequence(&self) -> (u64, u64) {
        let mut parts = self.0.rsplit('-').map(|part| part.parse().unwrap_or(0));
        let place = parts.next().unwrap_or(0);
        (parts.next().unwrap_or(0), place)
    }
}

/// The list a message came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The queue.
    pub queue: String,
    /// Its list at one priority step.
    pub list: String,
}

/// The end of the list that [`Transport::settle`] pushes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Served last, as a published message.
    Back,
    /// Served next, as a restored message.
    Front,
}

/// One message to push.
#[derive(Debug, Clone)]
pub struct Push {
    /// The list, with its priority suffix.
    pub list: String,
    /// Which end.
    pub end: End,
    /// The element.
    pub message: String,
}

/// A result document and its key.
#[derive(Debug)]
pub struct StoredResult {
    /// Its key, from [`tradebot_wire::keys::task_meta`].
    pub key: String,
    /// The document.
    pub document: String,
    /// Seconds it is kept; zero for ever.
    pub expires_seconds: u64,
}

/// The outcome of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The delivery was still recorded as ours; if not, nothing was pushed.
    pub held: bool,
    /// Nothing was done: one of the pushes leads to a key that holds something else than a list.
    pub misdirected: bool,
    /// What became of the result.
    pub stored: Stored,
}

/// What became of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It was not stored: a success was there already, or none was given.
    No,
    /// It was stored, and announced to its clients.
    Yes,
    /// It was stored, but this user may not announce it.
    Unannounced,
    /// It was stored and announced, in place of a value of another type.
    Replaced,
}

impl Stored {
    /// Reads what the storing script returns.
    pub(crate) fn of(flag: i64) -> Self {
        match flag {
            0 => Self::No,
            2 => Self::Unannounced,
            3 => Self::Replaced,
            _ => Self::Yes,
        }
    }
}

/// The queues of one broker, seen by one worker.
#[derive(Clone)]
pub struct Transport {
    connection: Connection,
    keys: Keys,
    clock: SharedClock,
    changed: Arc<Notify>,
    served: Arc<Served>,
    tags: Arc<TagSeries>,
    /// The deliveries this worker knows it holds. A record of ours in `unacked` that is missing here was claimed by a
    /// script whose reply never arrived.
    held: Arc<Mutex<HashSet<DeliveryTag>>>,
    claim: Script,
    claim_exact: Script,
    settler: Arc<Settler>,
    roll_call: Script,
    release_mutex: Script,
    /// What this user may not restore, and is in the log.
    left_to_others: Arc<Said>,
}

impl Transport {
    /// A transport over `connection`, which must have been made with `changed` for tracking.
    ///
    /// `queues` are served in turn, all of them at priority step 0 before any at step 3.
    #[must_use]
    pub fn new(
        connection: Connection,
        changed: Arc<Notify>,
        keys: Keys,
        queues: &[String],
        clock: SharedClock,
    ) -> Self {
        let queues = queues.iter().map(|name| Queue::named(name)).collect();
        Self {
            connection,
            served: Arc::new(Served::new(&keys, queues)),
            keys,
            clock,
            changed,
            tags: Arc::default(),
            held: Arc::default(),
            claim: Script::new(include_str!("transport/scripts/claim.lua")),
            claim_exact: Script::new(include_str!("transport/scripts/claim_exact.lua")),
            settler: Arc::new(Settler::default()),
            roll_call: Script::new(include_str!("transport/scripts/roll_call.lua")),
            release_mutex: Script::new(include_str!("transport/scripts/release_mutex.lua")),
            left_to_others: Arc::default(),
        }
    }

    /// The same worker's transport over another connection, for another thread.
    #[must_use]
    pub fn sibling(&self, connection: Connection) -> Self {
        Self {
            connection,
            settler: Arc::new(Settler::default()),
            ..self.clone()
        }
    }

    /// Id of this worker, with which its delivery tags begin.
    #[must_use]
    pub fn worker_id(&self) -> &str {
        &self.tags.worker
    }

    /// The connection, for other commands.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Names of this broker's keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Ends a delivery: stores `result`, pushes `pushes`, acknowledges; all of it or nothing.
    ///
    /// # Errors
    /// [`RedisTrouble`]. Calling it again is safe: pushes happen only together with the acknowledgement.
    pub async fn settle(
        &self,
        tag: &DeliveryTag,
        result: Option<&StoredResult>,
        pushes: &[Push],
    ) -> Result<Settled, RedisTrouble> {
        let settled = self
            .settler
            .settle(&self.connection, &self.keys, tag, result, pushes)
            .await?;
        if settled.misdirected {
            return Ok(settled);
        }
        self.held().remove(tag);
        if !pushes.is_empty() {
            // The server does not report our own changes to us (NOLOOP).
            self.changed.notify_one();
        }
        Ok(settled)
    }

    /// The push that returns a message to the front of its list, marked as redelivered.
    #[must_use]
    pub fn hand_back(source: &Source, envelope: &Envelope) -> Push {
        let mut envelope = envelope.clone();
        envelope.mark_redelivered();
        Push {
            list: source.list.clone(),
            end: End::Front,
            message: envelope.to_json(),
        }
    }

    /// The push that returns a rejected message to the back of its list, marked as redelivered. Its task starts anew, so the
    /// message gets a new tag: see [`Envelope::publisher_tag`].
    #[must_use]
    pub fn requeue(source: &Source, envelope: &Envelope) -> Push {
        let mut envelope = envelope.clone();
        envelope.set_property("delivery_tag", Uuid::new_v4().to_string().into());
        Push {
            end: End::Back,
            ..Self::hand_back(source, &envelope)
        }
    }

    /// The push that parks a message instead of pushing it to a key that is not a list.
    #[must_use]
    pub fn park_push(&self, push: &Push) -> Push {
        let source = Source {
            queue: push.list.clone(),
            list: push.list.clone(),
        };
        let reason = format!("the key `{}` does not hold a queue", push.list);
        self.park(&source, push.message.as_bytes(), &reason)
    }

    /// Whether a key holds a list or nothing.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn may_push_to(&self, list: &str) -> Result<bool, RedisTrouble> {
        let kind: String = self.connection.command(redis::cmd("TYPE").arg(list)).await?;
        Ok(matches!(kind.as_str(), "list" | "none"))
    }

    /// The push that sets a claimed message aside with the reason.
    #[must_use]
    pub fn park(&self, source: &Source, raw: &[u8], reason: &str) -> Push {
        Push {
            list: self.keys.parked(),
            end: End::Back,
            message: self.parked_entry(source, raw, reason),
        }
    }

    /// How many messages are parked.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn parked_count(&self) -> Result<usize, RedisTrouble> {
        Parked::count(&self.connection, &self.keys).await
    }

    /// Publishes a message to the back of its queue's list.
    ///
    /// # Errors
    /// [`RedisTrouble`]; when only the answer was lost the message may have been published.
    pub async fn publish(&self, queue: &str, envelope: &Envelope) -> Result<(), RedisTrouble> {
        publish(&self.connection, &self.keys, queue, envelope).await?;
        self.changed.notify_one();
        Ok(())
    }

    /// Ends [`changed`](Self::changed), so that the consumer reads the queues again.
    pub fn look_again(&self) {
        self.changed.notify_one();
    }

    /// Ends when a queue changed since the last [`claim`](Self::claim), or the connection was lost.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Replaces the published numbers of messages that wait for other workers; they expire after `kept`.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn publish_waiting(
        &self,
        waiting: &BTreeMap<String, usize>,
        kept: Duration,
    ) -> Result<(), RedisTrouble> {
        let key = self.keys.waiting();
        let mut pipeline = redis::pipe();
        pipeline.atomic().del(&key).ignore();
        for (task, messages) in waiting {
            pipeline.hset(&key, task, messages).ignore();
        }
        if !waiting.is_empty() {
            pipeline
                .pexpire(&key, i64::try_from(kept.as_millis()).unwrap_or(i64::MAX))
                .ignore();
        }
        self.connection.pipeline(&pipeline).await
    }

    fn held(&self) -> MutexGuard<'_, HashSet<DeliveryTag>> {
        // Locked for one set operation, never across an await.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `unacked_index` says of a delivery: when it was taken or last renewed, in Unix seconds. kombu writes
    /// fractions; whole numbers are as good for a timeout of an hour, and cost the server a third of the time.
    fn score(&self) -> i64 {
        self.clock.now().timestamp()
    }

    /// A parked message as JSON: the bytes as text where they are text, else as a list of numbers.
    fn parked_entry(&self, source: &Source, raw: &[u8], reason: &str) -> String {
        let message = match std::str::from_utf8(raw) {
            Ok(text) => json!(text),
            Err(_) => json!(raw),
        };
        let entry = json!({
            "id": Uuid::new_v4().simple().to_string(),
            "reason": reason,
            "queue": source.queue,
            "list": source.list,
            "parked_at": self.clock.unix_seconds(),
            "message": message,
        });
        python_json::to_string(&entry).expect("JSON values are JSON")
    }
}

/// Publishes a message over any connection.
///
/// # Errors
/// [`RedisTrouble`]; when only the answer was lost the message may have been published.
pub async fn publish(
    connection: &Connection,
    keys: &Keys,
    queue: &str,
    envelope: &Envelope,
) -> Result<(), RedisTrouble> {
    let list = keys.list_for(queue, envelope.priority());
    connection
        .command(redis::cmd("LPUSH").arg(list).arg(envelope.to_json()))
        .await
}

/// Prefixes of delivery tags: the worker's id, and a number that counts up per claim.
#[derive(Debug)]
struct TagSeries {
    worker: String,
    next: AtomicU64,
}

impl Default for TagSeries {
    fn default() -> Self {
        Self {
            worker: Uuid::new_v4().simple().to_string(),
            next: AtomicU64::new(0),
        }
    }
}

impl TagSeries {
    fn next(&self) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}-", self.worker)
    }
}
