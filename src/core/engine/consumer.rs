//! The consumer: claims messages while slots are free and sorts them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::{debug, error, info, warn};

use super::{Engine, Job, MAX_WAITING, Received, Slot};
use crate::core::backoff::Reconnect;
use crate::core::canvas;
use crate::core::error_chain;
use crate::core::lifecycle::sleep_unless_stopping;
use crate::core::transport::{Claim, Claimed, RedisTrouble, Source};
use crate::core::wire::envelope::Envelope;

/// How long the consumer trusts the change notification alone. A lost notification costs this much.
const SAFETY_POLL: Duration = Duration::from_secs(5);
/// The same for a server that cannot notify (before Redis 6).
const PLAIN_POLL: Duration = Duration::from_millis(500);
/// The most messages one claim takes.
const MAX_BATCH: usize = 64;

/// What to do with a message that was read.
enum Verdict {
    Run,
    WaitUntil(DateTime<Utc>),
    Expired,
    LeaveToOthers(&'static str),
    Park(String),
}

impl Engine {
    /// Consumes until a stop is asked for, sending every message that is due to `jobs`.
    pub async fn consume(self: Arc<Self>, jobs: mpsc::Sender<Job>) {
        let mut waits = Reconnect::default();
        let mut bound = false;
        while let Some(slots) = self.free_slots().await {
            match self.round(slots, &jobs, &mut bound).await {
                Ok(true) => waits.reset(),
                Ok(false) => {
                    waits.reset();
                    self.idle().await;
                }
                Err(trouble) => self.back_off(&trouble, &mut waits, &mut bound).await,
            }
        }
        info!(queues = %self.transport.queue_names().join(","), "consumer stopped");
    }

    /// One claim with the slots at hand; `true` when it found something to do.
    async fn round(
        self: &Arc<Self>,
        mut slots: Vec<OwnedSemaphorePermit>,
        jobs: &mpsc::Sender<Job>,
        bound: &mut bool,
    ) -> Result<bool, RedisTrouble> {
        if !*bound {
            self.transport.bind_queues().await?;
            *bound = true;
            info!(
                broker = self.transport.connection().place(),
                queues = %self.transport.queue_names().join(","),
                concurrency = self.settings.concurrency,
                "connected"
            );
        }
        let claim = self
            .transport
            .claim(slots.len(), &self.settings.tasks, &self.left_out())
            .await?;
        let busy = !claim.claimed.is_empty();
        if claim.foreign > 0 {
            debug!(
                messages = claim.foreign,
                "left messages of other tasks in their queue"
            );
        }
        let Claim {
            mut claimed, unclear, ..
        } = claim;
        for (source, raw) in unclear {
            if claimed.len() < slots.len() {
                claimed.extend(self.look_closer(&source, raw).await?);
            }
        }
        for one in claimed {
            let Some(slot) = slots.pop() else {
                unreachable!("no more is claimed than there are slots")
            };
            self.sort(one, Slot(slot), jobs).await;
        }
        Ok(busy)
    }

    /// Waits for at least one free slot and takes up to a batch of them; `None` once stopping.
    async fn free_slots(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        while self.waiting() >= MAX_WAITING {
            if !sleep_unless_stopping(&self.stop, Duration::from_millis(200)).await {
                return None;
            }
        }
        let first = tokio::select! {
            biased;
            () = self.stop.warm() => return None,
            slot = Arc::clone(&self.slots).acquire_owned() => slot.ok()?,
        };
        let mut slots = vec![first];
        while slots.len() < MAX_BATCH {
            match Arc::clone(&self.slots).try_acquire_owned() {
                Ok(slot) => slots.push(slot),
                Err(_) => break,
            }
        }
        Some(slots)
    }

    async fn idle(&self) {
        let poll = if self.transport.connection().is_tracking() {
            SAFETY_POLL
        } else {
            PLAIN_POLL
        };
        // All three are cancel-safe: a notification that is not consumed stays stored.
        tokio::select! {
            () = self.transport.changed() => {}
            () = tokio::time::sleep(poll) => {}
            () = self.stop.warm() => {}
        }
    }

    async fn back_off(&self, trouble: &RedisTrouble, waits: &mut Reconnect, bound: &mut bool) {
        *bound = false;
        let delay = waits.next_delay();
        if waits.attempt() == 1 {
            warn!(error = %error_chain(trouble), "broker in trouble, trying again until it is back");
        } else {
            debug!(error = %error_chain(trouble), attempt = waits.attempt(), "broker still in trouble");
        }
        sleep_unless_stopping(&self.stop, delay).await;
    }

    /// Reads a message that the server could not assign, and claims it if it is ours after all.
    async fn look_closer(&self, source: &Source, raw: Vec<u8>) -> Result<Option<Claimed>, RedisTrouble> {
        match Envelope::parse(&raw) {
            Ok(message) if self.settings.tasks.iter().any(|name| name == message.task()) => {
                self.transport.claim_exact(source, raw).await
            }
            Ok(message) => {
                self.leave_out(&message);
                Ok(None)
            }
            Err(reason) => {
                if self
                    .transport
                    .park_unclaimed(source, &raw, &reason.to_string())
                    .await?
                {
                    error!(queue = source.queue, %reason, "parked a message that nobody can read");
                }
                Ok(None)
            }
        }
    }

    /// Sends a claimed message on its way.
    async fn sort(self: &Arc<Self>, claimed: Claimed, slot: Slot, jobs: &mpsc::Sender<Job>) {
        let (received, verdict) = match self.read(claimed) {
            Ok(read) => read,
            Err((claimed, reason)) => {
                let engine = Arc::clone(self);
                self.track(async move {
                    engine.park(&claimed, &reason).await;
                    drop(slot);
                });
                return;
            }
        };
        let engine = Arc::clone(self);
        match verdict {
            Verdict::Run => self.send(received, slot, jobs).await,
            Verdict::WaitUntil(eta) => {
                drop(slot);
                let jobs = jobs.clone();
                self.waiting.fetch_add(1, Ordering::Relaxed);
                self.track(async move { engine.wait_for_eta(received, eta, jobs).await });
            }
            Verdict::Expired => self.track(async move {
                engine.settle_expired(&received).await;
                drop(slot);
            }),
            Verdict::LeaveToOthers(why) => {
                warn!(
                    task.name = received.message.task(),
                    task.id = received.message.id(),
                    why,
                    "leaving a message to the Python workers"
                );
                self.leave_out(&received.message);
                self.track(async move {
                    engine
                        .hand_back(&received.claimed.tag, &received.claimed.source, &received.message)
                        .await;
                    drop(slot);
                });
            }
            Verdict::Park(reason) => self.track(async move {
                engine.park(&received.claimed, &reason).await;
                drop(slot);
            }),
        }
    }

    fn read(&self, claimed: Claimed) -> Result<(Received, Verdict), (Claimed, String)> {
        let message = match Envelope::parse(&claimed.raw) {
            Ok(message) => message,
            Err(reason) => return Err((claimed, reason.to_string())),
        };
        let body = match message.body() {
            Ok(body) => body,
            Err(reason) => return Err((claimed, reason.to_string())),
        };
        let received = Received {
            claimed,
            message,
            body,
        };
        let verdict = self.judge(&received);
        Ok((received, verdict))
    }

    fn judge(&self, received: &Received) -> Verdict {
        let message = &received.message;
        if !self.settings.tasks.iter().any(|name| name == message.task()) {
            return Verdict::LeaveToOthers("its task is not one of ours");
        }
        if let Some(why) = canvas::beyond_us(&received.body) {
            return Verdict::LeaveToOthers(why);
        }
        let (eta, expires) = match (message.eta(), message.expires()) {
            (Ok(eta), Ok(expires)) => (eta, expires),
            (Err(reason), _) | (_, Err(reason)) => return Verdict::Park(reason.to_string()),
        };
        let now = self.clock.now();
        if expires.is_some_and(|expires| now >= expires) {
            return Verdict::Expired;
        }
        match eta {
            Some(eta) if eta > now => Verdict::WaitUntil(eta),
            _ => Verdict::Run,
        }
    }

    /// Hands a due message to whoever runs it. Once stopping, nothing more is started.
    async fn send(&self, received: Received, slot: Slot, jobs: &mpsc::Sender<Job>) {
        let Received {
            claimed,
            message,
            body,
        } = received;
        let unfinished = self.tracker.token();
        let job = Job {
            tag: claimed.tag,
            source: claimed.source,
            message,
            body,
            slot,
            unfinished,
        };
        let refused = if self.stop.is_stopping() {
            Some(job)
        } else {
            jobs.send(job).await.err().map(|refused| refused.0)
        };
        if let Some(job) = refused {
            self.hand_back(&job.tag, &job.source, &job.message).await;
        }
    }

    async fn wait_for_eta(self: Arc<Self>, received: Received, eta: DateTime<Utc>, jobs: mpsc::Sender<Job>) {
        let wait = (eta - self.clock.now()).to_std().unwrap_or_default();
        debug!(
            task.id = received.message.id(),
            wait_seconds = wait.as_secs_f64(),
            "waiting for the eta"
        );
        let due = sleep_unless_stopping(&self.stop, wait).await;
        let slot = if due {
            tokio::select! {
                biased;
                () = self.stop.warm() => None,
                slot = Arc::clone(&self.slots).acquire_owned() => slot.ok(),
            }
        } else {
            None
        };
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let Some(slot) = slot else {
            self.hand_back(&received.claimed.tag, &received.claimed.source, &received.message)
                .await;
            return;
        };
        match received.message.expires() {
            Ok(Some(expires)) if self.clock.now() >= expires => self.settle_expired(&received).await,
            _ => self.send(received, Slot(slot), &jobs).await,
        }
    }
}
