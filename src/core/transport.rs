//! kombu's Redis transport, with every step that moves a message done by the server in one piece.
//!
//! What kombu does in several commands (pop, then record; un-record, then push) is one script here, so a
//! crash at any point leaves a message either in its queue or in `unacked`, where kombu's own restore finds
//! it. Waiting moves nothing: the connection tracks the queues' keys and is told when they change.
//!
//! Delivery tags are ours, new for every claim, and not the `delivery_tag` that a message keeps for life: a
//! late acknowledgement of a message that was restored meanwhile then finds nothing, instead of deleting
//! the record of its next holder.

mod connection;
mod endpoint;
mod held;
mod parked;
mod recovery;
mod settler;

use std::sync::Arc;

use redis::{Cmd, Pipeline, Script};
use serde_json::json;
use tokio::sync::Notify;
use uuid::Uuid;

use held::Held;
use settler::Settler;

pub use connection::{CONNECT_TIMEOUT, Connection, RESPONSE_TIMEOUT, RedisTrouble, ScriptCall};
pub use parked::Parked;
pub use recovery::{GRACE, HEARTBEAT, LEASE, RESTORE_INTERVAL, SCORE_RENEWAL};

use crate::core::clock::SharedClock;
use crate::core::wire::envelope::Envelope;
use crate::core::wire::keys::{self, Keys, PRIORITY_STEPS};
use crate::core::wire::python_json;

/// How many elements of a list one claim looks at; bounds the time the server spends on it.
pub const SCAN_WINDOW: usize = 512;

/// Identifies one delivery of one message.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryTag(pub String);

impl DeliveryTag {
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

/// A message taken off its queue and recorded in `unacked`.
#[derive(Debug)]
pub struct Claimed {
    /// What to acknowledge.
    pub tag: DeliveryTag,
    /// Where it came from.
    pub source: Source,
    /// The list element as it was.
    pub raw: Vec<u8>,
}

/// What one claim found.
#[derive(Debug, Default)]
pub struct Claim {
    /// Messages that are now ours.
    pub claimed: Vec<Claimed>,
    /// Messages still in their list, whose owner the server could not tell.
    pub unclear: Vec<(Source, Vec<u8>)>,
    /// Tasks of other workers whose messages were seen and left alone, with their number.
    pub foreign: Vec<(String, usize)>,
    /// A list goes on beyond what was looked at: claim again with a higher offset.
    pub more: bool,
}

/// Where a message pushed by [`Transport::settle`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Served last, as a published message.
    Back,
    /// Served next, as a restored message.
    Front,
}

/// One message to push.
#[derive(Debug)]
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
    /// See [`keys::task_meta`].
    pub key: String,
    /// The document.
    pub document: String,
    /// Seconds it is kept; zero for ever.
    pub expires_seconds: u64,
}

/// What became of a settled delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// The delivery was still recorded as ours; if not, nothing was pushed.
    pub held: bool,
    /// The result was stored; not so when a success was there already or none was given.
    pub stored: bool,
}

/// The queues of one broker, seen by one worker.
pub struct Transport {
    connection: Connection,
    keys: Keys,
    clock: SharedClock,
    changed: Arc<Notify>,
    sources: Vec<Source>,
    tags: Arc<TagSeries>,
    held: Arc<Held>,
    claim: Script,
    claim_exact: Script,
    settler: Settler,
    heartbeat: Script,
    release_mutex: Script,
}

impl Transport {
    /// A transport over `connection`, which must have been made with `changed` for tracking.
    ///
    /// `queues` are served in the given order, all of them at priority step 0 before any at step 3.
    #[must_use]
    pub fn new(
        connection: Connection,
        changed: Arc<Notify>,
        keys: Keys,
        queues: &[String],
        clock: SharedClock,
    ) -> Self {
        let sources = PRIORITY_STEPS
            .iter()
            .flat_map(|step| queues.iter().map(|queue| (queue, *step)))
            .map(|(queue, step)| Source {
                queue: queue.clone(),
                list: keys.list(queue, step),
            })
            .collect();
        Self::build(
            connection,
            changed,
            keys,
            sources,
            clock,
            Arc::default(),
            Arc::default(),
        )
    }

    /// The same worker's transport over another connection, for a thread of its own.
    #[must_use]
    pub fn sibling(&self, connection: Connection) -> Self {
        Self::build(
            connection,
            Arc::clone(&self.changed),
            self.keys.clone(),
            self.sources.clone(),
            Arc::clone(&self.clock),
            Arc::clone(&self.tags),
            Arc::clone(&self.held),
        )
    }

    fn build(
        connection: Connection,
        changed: Arc<Notify>,
        keys: Keys,
        sources: Vec<Source>,
        clock: SharedClock,
        tags: Arc<TagSeries>,
        held: Arc<Held>,
    ) -> Self {
        Self {
            connection,
            keys,
            clock,
            changed,
            sources,
            tags,
            held,
            claim: Script::new(include_str!("transport/scripts/claim.lua")),
            claim_exact: Script::new(include_str!("transport/scripts/claim_exact.lua")),
            settler: Settler::new(),
            heartbeat: Script::new(include_str!("transport/scripts/heartbeat.lua")),
            release_mutex: Script::new(include_str!("transport/scripts/release_mutex.lua")),
        }
    }

    /// Id of this worker, with which its delivery tags begin.
    #[must_use]
    pub fn worker_id(&self) -> &str {
        &self.tags.worker
    }

    /// The connection, for commands that are no transport matter.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Names of this broker's keys.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Names of the queues, in the order in which they are served.
    #[must_use]
    pub fn queue_names(&self) -> Vec<&str> {
        self.queues().map(|source| source.queue.as_str()).collect()
    }

    /// Binds the queues to the exchanges of their names, as every kombu consumer does at start. Clients that
    /// publish through the exchange look the queue up there; kombu 5.7 looks into the second set.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn bind_queues(&self) -> Result<(), RedisTrouble> {
        let mut pipeline = Pipeline::new();
        for source in self.queues() {
            for permanent in [false, true] {
                let key = self.keys.binding(&source.queue, permanent);
                pipeline
                    .cmd("SADD")
                    .arg(key)
                    .arg(keys::direct_binding(&source.queue))
                    .ignore();
            }
        }
        self.connection.pipeline(&pipeline).await
    }

    /// Claims up to `want` messages of the tasks in `names`; messages whose text holds one of `left_out` stay.
    ///
    /// Also arms the change notification, before looking: whatever is pushed afterwards ends
    /// [`changed`](Self::changed). Finding nothing therefore means that waiting is safe, once the lists have
    /// been looked through: `offset` skips that many elements at the served end.
    ///
    /// # Errors
    /// [`RedisTrouble`]. When only the answer was lost the messages are in `unacked`, and are restored from
    /// there like those of a worker that died.
    pub async fn claim(
        &self,
        want: usize,
        offset: usize,
        names: &[String],
        left_out: &[String],
    ) -> Result<Claim, RedisTrouble> {
        let mut arm = Cmd::new();
        arm.arg("EXISTS");
        let mut call = ScriptCall::default();
        call.key(self.keys.unacked()).key(self.keys.unacked_index());
        for source in &self.sources {
            arm.arg(&source.list);
            call.key(source.list.as_str());
        }
        call.number(want)
            .number(SCAN_WINDOW)
            .number(offset)
            .number(self.clock.unix_seconds())
            .arg(self.tags.next());
        call.number(names.len());
        for name in names {
            call.arg(name.as_str());
        }
        for source in &self.sources {
            call.arg(record_suffix(&source.queue));
        }
        for id in left_out {
            call.arg(id.as_str());
        }
        type Claimed3 = Vec<(String, usize, Vec<u8>)>;
        type Unclear2 = Vec<(usize, Vec<u8>)>;
        type Foreign = Vec<(String, usize)>;
        let (claimed, unclear, foreign, more): (Claimed3, Unclear2, Foreign, bool) =
            self.connection.script(Some(&arm), &self.claim, &call).await?;
        let source = |number: usize| self.sources[number - 1].clone();
        for (tag, ..) in &claimed {
            self.held.insert(DeliveryTag(tag.clone()));
        }
        Ok(Claim {
            claimed: claimed
                .into_iter()
                .map(|(tag, list, raw)| Claimed {
                    tag: DeliveryTag(tag),
                    source: source(list),
                    raw,
                })
                .collect(),
            unclear: unclear
                .into_iter()
                .map(|(list, raw)| (source(list), raw))
                .collect(),
            foreign,
            more,
        })
    }

    /// Claims one message that [`claim`](Self::claim) reported as unclear; `None` if it is gone.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn claim_exact(&self, source: &Source, raw: Vec<u8>) -> Result<Option<Claimed>, RedisTrouble> {
        let tag = DeliveryTag(format!("{}1", self.tags.next()));
        let record = [b"[".as_slice(), &raw, record_suffix(&source.queue).as_bytes()].concat();
        let taken = self.move_exact(source, &raw, &tag, record, String::new()).await?;
        if taken {
            self.held.insert(tag.clone());
        }
        Ok(taken.then(|| Claimed {
            tag,
            source: source.clone(),
            raw,
        }))
    }

    /// Moves an undecodable message from its list to the parked ones; `false` if it is gone.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn park_unclaimed(
        &self,
        source: &Source,
        raw: &[u8],
        reason: &str,
    ) -> Result<bool, RedisTrouble> {
        let entry = self.parked_entry(source, raw, reason);
        let moved = self
            .move_exact(source, raw, &DeliveryTag(String::new()), Vec::new(), entry)
            .await?;
        if moved {
            // A change of our own ends the tracking of the list without a report (NOLOOP): look again.
            self.changed.notify_one();
        }
        Ok(moved)
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
        self.held.remove(tag);
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

    /// The push that sets a claimed message aside with the reason.
    #[must_use]
    pub fn park(&self, source: &Source, raw: &[u8], reason: &str) -> Push {
        Push {
            list: self.keys.parked(),
            end: End::Back,
            message: self.parked_entry(source, raw, reason),
        }
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

    /// Ends when a queue changed since the last [`claim`](Self::claim), or the connection was lost.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// One source per queue: its list at priority step 0.
    fn queues(&self) -> impl Iterator<Item = &Source> {
        self.sources
            .iter()
            .take(self.sources.len() / PRIORITY_STEPS.len())
    }

    async fn move_exact(
        &self,
        source: &Source,
        raw: &[u8],
        tag: &DeliveryTag,
        record: Vec<u8>,
        parked: String,
    ) -> Result<bool, RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.keys.unacked()).key(self.keys.unacked_index());
        call.key(source.list.as_str()).key(self.keys.parked());
        call.arg(raw)
            .arg(tag.0.as_str())
            .number(self.clock.unix_seconds())
            .arg(record)
            .arg(parked);
        self.connection.script(None, &self.claim_exact, &call).await
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

/// Publishes a message over any connection; the one way in which tasks get into a queue.
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

/// The end of the triple `[message, exchange, routing_key]` that kombu keeps in `unacked`. The default
/// exchange with the queue's name leads a restored message back to the queue, whatever it was sent through.
fn record_suffix(queue: &str) -> String {
    format!(
        ", \"\", {}]",
        python_json::to_string(queue).expect("text is JSON")
    )
}

/// Prefixes of delivery tags: the worker's id, and a number that counts up per claim.
#[derive(Debug)]
struct TagSeries {
    worker: String,
    next: std::sync::atomic::AtomicU64,
}

impl Default for TagSeries {
    fn default() -> Self {
        Self {
            worker: Uuid::new_v4().simple().to_string(),
            next: std::sync::atomic::AtomicU64::new(0),
        }
    }
}

impl TagSeries {
    fn next(&self) -> String {
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        format!("{}-{number}-", self.worker)
    }
}
