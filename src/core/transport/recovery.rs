//! Recovery: restoring deliveries whose holder is gone.
//!
//! There are three kinds. When a worker of this system stops renewing its lease, the others restore its deliveries after
//! a few seconds. Deliveries of any worker that are older than the visibility timeout are restored under kombu's mutex,
//! as kombu does. And a worker restores its own deliveries whose claim was never answered.
//!
//! Leases are timed by the server.
//!
//! `restore` restores some dozens in one step.

mod restore;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use redis::cmd;
use tracing::{debug, info, warn};

use super::{DeliveryTag, Transport};
use restore::{Loss, Lost};
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;

/// How long a lease lasts that is not renewed.
pub const LEASE: Duration = Duration::from_secs(5);
/// How often leases are renewed; a lease outlasts one renewal that fails. Every other renewal checks for dead
/// workers, and more often while one is suspected.
pub const HEARTBEAT: Duration = Duration::from_millis(2200);
/// How long a worker may be without a lease before the others restore its deliveries.
pub const GRACE: Duration = Duration::from_secs(3);
/// How often the scores of held deliveries are renewed; well below any sensible visibility timeout.
pub const SCORE_RENEWAL: Duration = Duration::from_secs(3);
/// How often to check for deliveries past the visibility timeout.
pub const RESTORE_INTERVAL: Duration = Duration::from_secs(10);
/// kombu's `unacked_mutex_expire`.
const MUTEX_MS: u64 = 300_000;
/// How many expired deliveries to read, and how many scores to renew, at a time.
const RESTORE_BATCH: usize = 1_000;
/// How many such batches one search for late claims looks through.
const LATE_CLAIM_STEPS: usize = 20;
/// How many deliveries one script restores, and after how many bytes of messages it ends earlier: a few milliseconds of the
/// server's time.
const BATCH: usize = 48;
const BATCH_BYTES: usize = 1_000_000;
/// How many deliveries past the visibility timeout are known at a time, the latest first.
const MAX_OVERDUE: usize = 100_000;
/// How long one call restores before the lease is renewed again; short against it.
const PORTION: Duration = Duration::from_secs(1);
/// Age from which an unknown delivery of our own counts as lost; known ones have younger scores.
const UNANSWERED_SECONDS: f64 = 10.0;

/// Which of the other workers are dead or suspected.
#[derive(Debug)]
pub struct RollCall {
    /// Ids of those whose lease has been missing for longer than [`GRACE`].
    pub given_up: Vec<String>,
    /// How many are without a lease for less.
    pub suspected: usize,
}

/// Deliveries past the visibility timeout.
#[derive(Debug, Default)]
pub struct Overdue {
    /// Found by the last look, with the scores as the server writes them.
    seen: HashMap<DeliveryTag, String>,
    /// Found by the last two looks with the same score and to be restored, in this order.
    due: VecDeque<(DeliveryTag, String)>,
}

impl Transport {
    /// Makes this worker known and takes its lease, after a time without one too.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn take_lease(&self, hostname: &str) -> Result<(), RedisTrouble> {
        let mut pipeline = redis::pipe();
        pipeline.atomic().add_command(self.lease(hostname)).ignore();
        pipeline
            .hset(self.keys.workers(), self.worker_id(), hostname)
            .ignore();
        pipeline.zrem(self.keys.suspects(), self.worker_id()).ignore();
        let taken = self.connection.pipeline(&pipeline).await;
        if taken.as_ref().is_err_and(RedisTrouble::needs_an_operator)
            && matches!(self.drop_unusable().await, Ok(true))
        {
            return self.connection.pipeline(&pipeline).await;
        }
        taken
    }

    /// Deletes what holds no workers where workers should be, and returns whether there was anything. Every worker registers
    /// again at its next roll call.
    async fn drop_unusable(&self) -> Result<bool, RedisTrouble> {
        let mut dropped = false;
        for (key, kind) in [(self.keys.workers(), "hash"), (self.keys.suspects(), "zset")] {
            let found: String = self.connection.command(cmd("TYPE").arg(&key)).await?;
            if found == kind || found == "none" {
                continue;
            }
            self.connection.command::<()>(cmd("DEL").arg(&key)).await?;
            warn!(
                key,
                "deleted a {found} where there should be a {kind}; find out which program wrote it"
            );
            dropped = true;
        }
        Ok(dropped)
    }

    /// Renews this worker's lease.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn renew_lease(&self, hostname: &str) -> Result<(), RedisTrouble> {
        self.connection.command(&self.lease(hostname)).await
    }

    fn lease(&self, hostname: &str) -> redis::Cmd {
        let mut set = cmd("SET");
        let key = self.keys.lease(self.worker_id());
        set.arg(key).arg(hostname).arg("PX").arg(LEASE.as_millis());
        set
    }

    /// Looks which of the known workers still have a lease.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn call_the_roll(&self, hostname: &str) -> Result<RollCall, RedisTrouble> {
        let mut call = self.roll_call.prepare_invoke();
        call.key(self.keys.workers()).key(self.keys.suspects());
        call.arg(self.worker_id())
            .arg(hostname)
            .arg(GRACE.as_secs())
            .arg(self.keys.lease(""));
        let (given_up, suspected) = self.connection.script(None, &call).await?;
        Ok(RollCall { given_up, suspected })
    }

    /// Releases the lease at the end of the process. Unless `drained`, the worker stays registered and the others take
    /// over its messages at once.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn end_lease(&self, drained: bool) -> Result<(), RedisTrouble> {
        let mut pipeline = redis::pipe();
        pipeline.atomic().del(self.keys.lease(self.worker_id())).ignore();
        if drained {
            pipeline.hdel(self.keys.workers(), self.worker_id()).ignore();
            pipeline.del(self.keys.started(self.worker_id())).ignore();
            pipeline.zrem(self.keys.suspects(), self.worker_id()).ignore();
        } else {
            pipeline.zadd(self.keys.suspects(), self.worker_id(), 0).ignore();
        }
        self.connection.pipeline(&pipeline).await
    }

    /// Sets the score of all held deliveries to now, so that no worker mistakes a long run or a long wait for a loss.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn renew_scores(&self) -> Result<(), RedisTrouble> {
        let now = self.score();
        let held: Vec<DeliveryTag> = self.held().iter().cloned().collect();
        for tags in held.chunks(RESTORE_BATCH) {
            let mut command = cmd("ZADD");
            command.arg(self.keys.unacked_index()).arg("XX");
            for tag in tags {
                command.arg(now).arg(&tag.0);
            }
            self.connection.command::<i64>(&command).await?;
        }
        Ok(())
    }

    /// Restores what a dead worker held, for a second at most; `false` if there is more.
    ///
    /// # Errors
    /// [`RedisTrouble`]; what was not restored yet will be found again.
    pub async fn restore_worker(&self, worker: &str) -> Result<bool, RedisTrouble> {
        let started = Instant::now();
        let mut restored = 0;
        let (mut done, mut some_left) = (true, false);
        let records = self.records_of(worker).await?;
        for batch in batches(&records) {
            if started.elapsed() >= PORTION {
                done = false;
                break;
            }
            let batch = self.restore(&lost(batch, Loss::WorkerDied)).await?;
            restored += batch.deliveries;
            some_left |= batch.some_forbidden;
        }
        // A worker with more rights restores what is left.
        if done && !some_left {
            let mut pipeline = redis::pipe();
            pipeline
                .atomic()
                .hdel(self.keys.workers(), worker)
                .ignore()
                .del(self.keys.started(worker))
                .ignore()
                .zrem(self.keys.suspects(), worker)
                .ignore();
            self.connection.pipeline::<()>(&pipeline).await?;
        }
        if restored > 0 {
            warn!(
                worker.id = worker,
                messages = restored,
                "restored the messages of a worker that is gone"
            );
        } else {
            debug!(worker.id = worker, "a worker is gone and held no messages");
        }
        Ok(done)
    }

    /// Restores deliveries recorded as ours that we do not know of. Only the consumer may call it, between
    /// two claims.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn restore_unanswered(&self) -> Result<usize, RedisTrouble> {
        let mut restored = 0;
        let mut records = self.records_of(self.worker_id()).await?;
        records.retain(|(tag, _)| !self.held().contains(tag));
        for batch in batches(&records) {
            restored += self.restore(&lost(batch, Loss::NeverReceived)).await?.deliveries;
        }
        if restored > 0 {
            info!(
                messages = restored,
                "restored messages whose claim was never answered"
            );
        }
        Ok(restored)
    }

    /// Like [`restore_unanswered`](Self::restore_unanswered), for claims that reached the server long after
    /// their connection was given up, out of the buffers of a link that was down.
    ///
    /// Continues at `place` and updates it for the next call, so that one call reads a bounded number of entries.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn restore_late_claims(&self, place: &mut u64) -> Result<usize, RedisTrouble> {
        let latest = self.clock.unix_seconds() - UNANSWERED_SECONDS;
        let mut restored = 0;
        for _ in 0..LATE_CLAIM_STEPS {
            let mut scan = cmd("ZSCAN");
            scan.arg(self.keys.unacked_index())
                .arg(*place)
                .arg("MATCH")
                .arg(format!("{}-*", self.worker_id()))
                .arg("COUNT")
                .arg(RESTORE_BATCH);
            let (next, ours): (u64, Vec<(String, f64)>) = self.connection.command(&scan).await?;
            *place = next;
            let late = ours.into_iter().filter(|(_, score)| *score <= latest);
            let mut late: Vec<DeliveryTag> = late.map(|(tag, _)| DeliveryTag(tag)).collect();
            late.retain(|tag| !self.held().contains(tag));
            late.sort_by_key(|tag| std::cmp::Reverse(tag.sequence()));
            for tags in late.chunks(BATCH) {
                let found = tags.iter().map(|tag| (tag, Loss::NeverReceived));
                restored += self.restore_by_tags(found.collect()).await?;
            }
            if next == 0 {
                break;
            }
        }
        Ok(restored)
    }

    /// Takes part in kombu's restore of deliveries that no worker renewed for `visibility_timeout`. Does nothing while
    /// another worker holds the mutex.
    ///
    /// Restores only deliveries that were too old in the last look too, and were not renewed since. After a jump of the
    /// clock or a long outage, every delivery is too old until its holder renews it. `overdue` keeps them between calls.
    ///
    /// Restores for a second at most; `false` if there is more, for the next call.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn restore_timed_out(
        &self,
        visibility_timeout: Duration,
        overdue: &mut Overdue,
    ) -> Result<bool, RedisTrouble> {
        if overdue.due.is_empty() {
            let latest = self.clock.unix_seconds() - visibility_timeout.as_secs_f64();
            let found = self.older_than(latest).await?;
            let seen = std::mem::take(&mut overdue.seen);
            overdue.due = found
                .iter()
                .filter(|(tag, score)| seen.get(tag) == Some(score))
                .cloned()
                .collect();
            overdue.seen = found.into_iter().collect();
        }
        if overdue.due.is_empty() {
            return Ok(true);
        }
        let token = uuid::Uuid::new_v4().simple().to_string();
        let mutex = self.keys.unacked_mutex();
        let mut take = cmd("SET");
        take.arg(&mutex).arg(&token).arg("NX").arg("PX").arg(MUTEX_MS);
        if self.connection.command::<Option<String>>(&take).await?.is_none() {
            overdue.due.clear();
            return Ok(true);
        }
        let restored = self.restore_due(&mut overdue.due).await;
        let mut release = self.release_mutex.prepare_invoke();
        release.key(mutex).arg(token);
        self.connection.script::<i64>(None, &release).await?;
        restored?;
        Ok(overdue.due.is_empty())
    }

    async fn restore_due(&self, due: &mut VecDeque<(DeliveryTag, String)>) -> Result<(), RedisTrouble> {
        let started = Instant::now();
        while !due.is_empty() && started.elapsed() < PORTION {
            let batch: Vec<_> = due.drain(..due.len().min(BATCH)).collect();
            let found = batch.iter().map(|(tag, score)| (tag, Loss::TimedOut(score)));
            self.restore_by_tags(found.collect()).await?;
        }
        Ok(())
    }

    /// Says once that this user may not restore the deliveries of some queue.
    fn leave_to_others(&self, trouble: &RedisTrouble) {
        if self.left_to_others.first("restore") {
            warn!(
                error = %error_chain(trouble),
                "this Redis user may not restore some deliveries, leaving them to workers that may"
            );
        }
    }

    /// Returns the deliveries that could not be settled to the front of their queues, at the end of this worker.
    ///
    /// # Errors
    /// [`RedisTrouble`]; what was not returned is in `unacked`.
    pub async fn return_unsettled(&self) -> Result<(), RedisTrouble> {
        let mut held: Vec<DeliveryTag> = self.held().drain().collect();
        if held.is_empty() {
            return Ok(());
        }
        held.sort_by_key(|tag| std::cmp::Reverse(tag.sequence()));
        for tags in held.chunks(BATCH) {
            let found = tags.iter().map(|tag| (tag, Loss::NeverReceived));
            self.restore_by_tags(found.collect()).await?;
        }
        warn!(
            messages = held.len(),
            "returned messages that could not be settled to their queues"
        );
        Ok(())
    }

    /// Tags of deliveries last renewed before `latest`, with their scores as the server writes them, the latest first.
    /// By ranks from the end, so that no entry is missed that moves because another one goes.
    async fn older_than(&self, latest: f64) -> Result<Vec<(DeliveryTag, String)>, RedisTrouble> {
        let index = self.keys.unacked_index();
        let mut count = cmd("ZCOUNT");
        count.arg(&index).arg("-inf").arg(latest);
        let mut end: usize = self.connection.command(&count).await?;
        let mut tags = Vec::new();
        while end > 0 && tags.len() < MAX_OVERDUE {
            let start = end.saturating_sub(RESTORE_BATCH);
            let mut range = cmd("ZRANGE");
            range.arg(&index).arg(start).arg(end - 1).arg("WITHSCORES");
            let page: Vec<(String, String)> = self.connection.command(&range).await?;
            let page = page.into_iter().rev();
            tags.extend(page.map(|(tag, score)| (DeliveryTag(tag), score)));
            end = start;
        }
        Ok(tags)
    }

    async fn restore_by_tags(&self, found: Vec<(&DeliveryTag, Loss<'_>)>) -> Result<usize, RedisTrouble> {
        let mut get = cmd("HMGET");
        get.arg(self.keys.unacked());
        for (tag, _) in &found {
            get.arg(&tag.0);
        }
        let records: Vec<Option<Vec<u8>>> = self.connection.command(&get).await?;
        let found: Vec<_> = found.into_iter().zip(records).collect();
        let mut restored = 0;
        for batch in split(&found, |(_, record)| record.as_ref().map_or(0, Vec::len)) {
            let batch = batch.iter().map(|((tag, loss), record)| Lost {
                tag,
                record: record.as_deref(),
                loss: *loss,
            });
            restored += self.restore(&batch.collect::<Vec<_>>()).await?.deliveries;
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
}

/// Splits deliveries into batches of a bounded number and size.
fn split<T>(deliveries: &[T], size: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = deliveries;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rest.iter().take(BATCH).take_while(|one| {
            bytes += size(one);
            bytes <= BATCH_BYTES
        });
        let (batch, later) = rest.split_at(fitting.count().max(1).min(rest.len()));
        rest = later;
        (!batch.is_empty()).then_some(batch)
    })
}

fn batches(records: &[(DeliveryTag, Vec<u8>)]) -> impl Iterator<Item = &[(DeliveryTag, Vec<u8>)]> {
    split(records, |(_, record)| record.len())
}

fn lost<'l>(records: &'l [(DeliveryTag, Vec<u8>)], loss: Loss<'l>) -> Vec<Lost<'l>> {
    let lost = |(tag, record): &'l (DeliveryTag, Vec<u8>)| Lost {
        tag,
        record: Some(record),
        loss,
    };
    records.iter().map(lost).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_bounded_in_number_and_size() {
        let sizes = |of: &[usize]| -> Vec<usize> { split(of, |size| *size).map(<[usize]>::len).collect() };
        assert_eq!(sizes(&[1; 130]), [48, 48, 34]);
        assert_eq!(sizes(&[600_000, 400_000, 1, 2_000_000, 1]), [2, 1, 1, 1]);
        assert_eq!(sizes(&[]), [0; 0]);
    }
}
