//! Recovery: what becomes of deliveries whose holder is gone.
//!
//! Three sources, one way back. A worker of ours that stops renewing its lease is given up after a few
//! seconds and its deliveries are restored by any other. Deliveries of anybody that are older than the
//! visibility timeout are restored as kombu does it, under kombu's own mutex. And a delivery of our own
//! whose claim was never answered is put back by ourselves.
//!
//! Restoring is one script, so a delivery is restored at most once, by whichever survivor comes first, and
//! never together with its acknowledgement. Times come from the server.
//!
//! A message that was running each time its worker died is parked after the third time. The same script counts,
//! by the publisher's delivery tag; the count ends when the message is settled in the normal way or parked.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{Script, cmd};
use serde_json::Value;
use tracing::{error, info, warn};

use super::{DeliveryTag, RedisTrouble, ScriptCall, Source, Transport};
use crate::core::wire::envelope::Envelope;
use crate::core::wire::keys::SEP;

/// How long a lease lasts that is not renewed.
pub const LEASE: Duration = Duration::from_secs(5);
/// How often leases are renewed and the dead looked for.
pub const HEARTBEAT: Duration = Duration::from_millis(1500);
/// How long a worker is suspected before it is given up.
pub const GRACE: Duration = Duration::from_secs(3);
/// How often the scores of held deliveries are renewed; well below any sensible visibility timeout.
pub const SCORE_RENEWAL: Duration = Duration::from_secs(3);
/// How often deliveries past the visibility timeout are looked for.
pub const RESTORE_INTERVAL: Duration = Duration::from_secs(10);
/// How often a message may be running when its worker dies.
const MAX_CRASHES: u64 = 3;
/// How long crashes are remembered.
const CRASH_MEMORY_SECONDS: u64 = 7 * 86_400;
/// kombu's `unacked_mutex_expire`.
const MUTEX_MS: u64 = 300_000;
/// How many expired deliveries are restored at a time.
const RESTORE_BATCH: usize = 1_000;

static RESTORE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/restore.lua")));

/// How a delivery came to be without a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// The worker that held it died.
    WorkerDied,
    /// Its claim was never answered; it was not started.
    NeverReceived,
    /// Nobody renewed it for the visibility timeout.
    TimedOut,
}

impl Transport {
    /// Renews this worker's lease. Returns the ids of workers that are given up.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn renew_lease(&self, hostname: &str) -> Result<Vec<String>, RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.keys.lease(self.worker_id()))
            .key(self.keys.workers())
            .key(self.keys.suspects());
        call.arg(self.worker_id())
            .arg(hostname)
            .number(LEASE.as_millis())
            .number(GRACE.as_secs_f64());
        call.arg(self.keys.lease(""));
        self.connection.script(None, &self.heartbeat, &call).await
    }

    /// Gives the lease up at the end of the process. `drained` says that nothing is held any more; if not,
    /// the worker stays registered, and the others take over at once.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn end_lease(&self, drained: bool) -> Result<(), RedisTrouble> {
        let mut pipeline = redis::pipe();
        pipeline.atomic().del(self.keys.lease(self.worker_id())).ignore();
        if drained {
            pipeline.hdel(self.keys.workers(), self.worker_id()).ignore();
            pipeline.zrem(self.keys.suspects(), self.worker_id()).ignore();
        } else {
            pipeline.zadd(self.keys.suspects(), self.worker_id(), 0).ignore();
        }
        self.connection.pipeline(&pipeline).await
    }

    /// Sets the score of everything held to now, so that nobody takes a long run or a long wait for a loss.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn renew_scores(&self) -> Result<(), RedisTrouble> {
        let now = self.clock.unix_seconds();
        for tags in self.held.tags().chunks(RESTORE_BATCH) {
            let mut command = cmd("ZADD");
            command.arg(self.keys.unacked_index()).arg("XX");
            for tag in tags {
                command.arg(now).arg(&tag.0);
            }
            self.connection.command::<i64>(&command).await?;
        }
        Ok(())
    }

    /// Restores everything a dead worker held; returns how many messages.
    ///
    /// # Errors
    /// [`RedisTrouble`]; what was not restored yet will be found again.
    pub async fn restore_worker(&self, worker: &str) -> Result<usize, RedisTrouble> {
        let mut restored = 0;
        for (tag, record) in self.records_of(worker).await? {
            restored += usize::from(self.restore(&tag, &record, Loss::WorkerDied).await?);
        }
        let mut pipeline = redis::pipe();
        pipeline
            .atomic()
            .hdel(self.keys.workers(), worker)
            .ignore()
            .zrem(self.keys.suspects(), worker)
            .ignore();
        self.connection.pipeline::<()>(&pipeline).await?;
        warn!(
            worker.id = worker,
            messages = restored,
            "restored the messages of a worker that is gone"
        );
        Ok(restored)
    }

    /// Restores deliveries recorded as ours that we do not know of. Only the consumer may call it, between
    /// two claims.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn restore_unanswered(&self) -> Result<usize, RedisTrouble> {
        let mut restored = 0;
        for (tag, record) in self.records_of(self.worker_id()).await? {
            if !self.held.contains(&tag) {
                restored += usize::from(self.restore(&tag, &record, Loss::NeverReceived).await?);
            }
        }
        if restored > 0 {
            info!(
                messages = restored,
                "put back messages whose claim was not answered"
            );
        }
        Ok(restored)
    }

    /// Takes part in kombu's restore: deliveries of anybody that were not renewed for `visibility_timeout`.
    /// Does nothing while somebody else is at it.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn restore_timed_out(&self, visibility_timeout: Duration) -> Result<usize, RedisTrouble> {
        let token = uuid::Uuid::new_v4().simple().to_string();
        let mutex = self.keys.unacked_mutex();
        let mut take = cmd("SET");
        take.arg(&mutex).arg(&token).arg("NX").arg("PX").arg(MUTEX_MS);
        if self.connection.command::<Option<String>>(&take).await?.is_none() {
            return Ok(0);
        }
        let restored = self.restore_older_than(visibility_timeout).await;
        let mut release = ScriptCall::default();
        release.key(mutex).arg(token);
        self.connection
            .script::<i64>(None, &self.release_mutex, &release)
            .await?;
        restored
    }

    async fn restore_older_than(&self, age: Duration) -> Result<usize, RedisTrouble> {
        let latest = self.clock.unix_seconds() - age.as_secs_f64();
        let mut expired = cmd("ZREVRANGEBYSCORE");
        expired
            .arg(self.keys.unacked_index())
            .arg(latest)
            .arg(0)
            .arg("LIMIT")
            .arg(0)
            .arg(RESTORE_BATCH);
        let tags: Vec<String> = self.connection.command(&expired).await?;
        let mut restored = 0;
        for tag in tags.into_iter().map(DeliveryTag) {
            let record: Option<Vec<u8>> = self
                .connection
                .command(cmd("HGET").arg(self.keys.unacked()).arg(&tag.0))
                .await?;
            match record {
                Some(record) => restored += usize::from(self.restore(&tag, &record, Loss::TimedOut).await?),
                None => {
                    self.connection
                        .command::<i64>(cmd("ZREM").arg(self.keys.unacked_index()).arg(&tag.0))
                        .await?;
                }
            }
        }
        Ok(restored)
    }

    /// A worker's records, the latest claim first: pushed to the front in this order, the first claimed is
    /// served first again.
    async fn records_of(&self, worker: &str) -> Result<Vec<(DeliveryTag, Vec<u8>)>, RedisTrouble> {
        let mut records: Vec<(DeliveryTag, Vec<u8>)> = Vec::new();
        let mut cursor: u64 = 0;
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(self.keys.unacked())
                .arg(cursor)
                .arg("MATCH")
                .arg(format!("{worker}-*"))
                .arg("COUNT")
                .arg(1000);
            let (next, found): (u64, Vec<(String, Vec<u8>)>) = self.connection.command(&scan).await?;
            records.extend(found.into_iter().map(|(tag, record)| (DeliveryTag(tag), record)));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        records.sort_by_key(|(tag, _)| std::cmp::Reverse(tag.sequence()));
        records.dedup_by(|one, other| one.0 == other.0);
        Ok(records)
    }

    /// Puts one delivery back, or sets it aside; `false` if somebody else was faster or must do it.
    async fn restore(&self, tag: &DeliveryTag, record: &[u8], loss: Loss) -> Result<bool, RedisTrouble> {
        match self.read_record(record).await? {
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
        loss: Loss,
    ) -> Result<bool, RedisTrouble> {
        let now = self.clock.now();
        // Who waits for an eta has not run; it is the ones that ran that may have killed their worker.
        let was_running = loss == Loss::WorkerDied && !matches!(message.eta(), Ok(Some(eta)) if eta > now);
        let reason = format!("{MAX_CRASHES} workers died while they ran this message");
        let back = Self::hand_back(source, message);
        let aside = self.park(source, message.to_json().as_bytes(), &reason);
        let mut call = ScriptCall::default();
        call.key(self.keys.unacked())
            .key(self.keys.unacked_index())
            .key(back.list)
            .key(self.keys.crashes())
            .key(aside.list);
        call.arg(tag.0.as_str())
            .arg(back.message)
            .arg(if was_running { crash_field(message) } else { "" })
            .number(MAX_CRASHES)
            .number(CRASH_MEMORY_SECONDS)
            .arg(aside.message);
        let outcome: u8 = self.connection.script(None, &RESTORE, &call).await?;
        // The server does not report our own changes to us (NOLOOP).
        self.changed.notify_one();
        if outcome == 2 {
            error!(
                task.name = message.task(),
                task.id = message.id(),
                reason,
                "parked a message"
            );
        }
        Ok(outcome > 0)
    }

    /// Forgets the crashes of a message that was settled in the normal way.
    ///
    /// # Errors
    /// [`RedisTrouble`]; a count that stays expires by itself.
    pub async fn forget_crashes(&self, message: &Envelope) -> Result<(), RedisTrouble> {
        self.connection
            .command::<i64>(cmd("HDEL").arg(self.keys.crashes()).arg(crash_field(message)))
            .await
            .map(drop)
    }

    /// Reads kombu's triple `[message, exchange, routing_key]` and finds the queue it leads back to.
    async fn read_record(
        &self,
        record: &[u8],
    ) -> Result<Result<(Source, Envelope), Unreadable>, RedisTrouble> {
        let Ok((message, exchange, routing_key)) = serde_json::from_slice::<(Value, String, String)>(record)
        else {
            let reason = "its record is not [message, exchange, routing_key]";
            return Ok(Err(Unreadable::Record(reason.into())));
        };
        let message = match Envelope::parse(message.to_string().as_bytes()) {
            Ok(message) => message,
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

    /// The queue that an exchange's direct binding leads to. Patterns are left to kombu.
    async fn bound_queue(&self, exchange: &str, routing_key: &str) -> Result<Option<String>, RedisTrouble> {
        let bindings: Vec<String> = self
            .connection
            .command(cmd("SMEMBERS").arg(self.keys.binding(exchange, false)))
            .await?;
        Ok(bindings.iter().find_map(|binding| {
            let mut parts = binding.split(SEP);
            let (key, pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
            (key == routing_key && pattern.is_empty()).then(|| queue.to_owned())
        }))
    }
}

/// What crashes are counted by: kept by a restored message, new in every retry.
fn crash_field(message: &Envelope) -> &str {
    message.publisher_tag().unwrap_or(message.id())
}

/// Why a record cannot be restored here.
enum Unreadable {
    /// It is damaged; a Python worker that restored it would exit.
    Record(String),
    /// It came through an exchange that only kombu can route.
    Routing,
}
