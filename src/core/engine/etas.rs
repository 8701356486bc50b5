//! Messages with an `eta` or a rate limit: held in `unacked` until they are due, up to a bound.
//!
//! Beyond the bound they stay in their queue. Claims pass over them until they are due or there is room again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use tracing::{debug, warn};

use super::pool::Slot;
use super::received::Received;
use super::starting::Starter;
use super::{Phase, Revocation};
use tradebot_wire::canvas::SuccessorPlan;

/// Counts the messages that this worker holds until their `eta`.
#[derive(Debug)]
pub(super) struct EtaCount {
    held: Arc<AtomicUsize>,
    /// Celery's `worker_eta_task_limit`.
    limit: usize,
    warned: AtomicBool,
}

/// One message that is held; it counts until this is dropped.
#[derive(Debug)]
pub(super) struct EtaHold(Arc<AtomicUsize>);

impl EtaCount {
    /// Nothing is held, and `limit` messages may be.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            held: Arc::default(),
            limit,
            warned: AtomicBool::new(false),
        }
    }

    /// Counts one message more.
    pub(super) fn hold(&self) -> EtaHold {
        self.held.fetch_add(1, Ordering::Relaxed);
        EtaHold(Arc::clone(&self.held))
    }

    /// How many messages are held.
    pub(super) fn count(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether a claim of `wanted` messages could exceed the limit.
    pub(super) fn is_full(&self, wanted: usize) -> bool {
        let full = self.count() + wanted > self.limit;
        if full && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                held = self.count(),
                "this worker holds as many messages with an eta as it may; further ones stay in the queue until they are due"
            );
        }
        full
    }
}

impl Drop for EtaHold {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Starter {
    /// Holds a message until it is due, then starts it.
    pub(super) async fn wait_for_eta(self, received: Received, eta: DateTime<Utc>, held: EtaHold) {
        let due = async {
            self.sleep_until(eta, &received).await;
            self.pass_rate_limit(&received).await;
        };
        let slot = self.slot_after(due, &received).await;
        drop(held);
        self.start_or_settle(received, slot).await;
    }

    /// Holds a message of a task with a rate limit until its turn, then starts it.
    pub(super) async fn wait_for_turn(self, received: Received) {
        let due = self.pass_rate_limit(&received);
        let slot = self.slot_after(due, &received).await;
        self.start_or_settle(received, slot).await;
    }

    async fn pass_rate_limit(&self, received: &Received) {
        let Some(task) = self.engine.types.get(received.message.task()) else {
            return;
        };
        if task.rate().is_limited() {
            task.rate().pass().await;
            // Messages of this task may have been left in the queue for as long.
            self.engine.transport.look_again();
        }
    }

    async fn start_or_settle(&self, received: Received, slot: Result<Slot, Option<Revocation>>) {
        let settlement = &self.engine.settlement;
        let (tag, message) = (&received.claimed.tag, &received.message);
        match slot {
            Ok(slot) => self.start_due(received, slot).await,
            Err(Some(why)) => {
                settlement
                    .settle_revoked(tag, message, why, &SuccessorPlan::default())
                    .await;
            }
            Err(None) => settlement.hand_back(tag, &received.claimed.source, message).await,
        }
    }

    async fn sleep_until(&self, eta: DateTime<Utc>, received: &Received) {
        let wait = (eta - self.engine.clock.now()).to_std().unwrap_or_default();
        debug!(
            task.id = received.message.id(),
            wait_seconds = wait.as_secs_f64(),
            "waiting for the eta"
        );
        tokio::time::sleep(wait).await;
        if let Some(ticket) = &received.ticket {
            ticket.set_waiting(Phase::Reserved);
        }
    }

    /// Waits for `due` and then for a slot. An error means that the message will not run: it was revoked or has expired
    /// meanwhile, or (`None`) the worker stops.
    async fn slot_after(
        &self,
        due: impl Future<Output = ()>,
        received: &Received,
    ) -> Result<Slot, Option<Revocation>> {
        let woken = async || match &received.ticket {
            Some(ticket) => ticket.request().woken().await,
            None => std::future::pending().await,
        };
        let mut run = std::pin::pin!(async {
            due.await;
            self.engine.pool.slot().await
        });
        let slot = loop {
            // All branches are cancel-safe; the pinned one continues.
            tokio::select! {
                biased;
                () = self.engine.stop.warm() => return Err(None),
                () = woken() => {
                    if self.engine.revocations.contains(&received.message) {
                        return Err(Some(Revocation::REVOKED));
                    }
                }
                slot = &mut run => break slot.ok_or(None)?,
            }
        };
        match received.message.expires() {
            Ok(Some(expires)) if self.engine.clock.now() >= expires => Err(Some(Revocation::EXPIRED)),
            _ if self.engine.revocations.contains(&received.message) => Err(Some(Revocation::REVOKED)),
            _ => Ok(slot),
        }
    }
}
