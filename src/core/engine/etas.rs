//! Messages with an `eta` or a rate limit: held in `unacked` until they are due, up to a bound.
//!
//! Beyond the bound they stay in their queue, where they are passed over until they are due or there is room again;
//! what is due in the queue is taken as ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Engine, Job, Phase, Received, Revocation, Slot};

impl Engine {
    /// Whether a claim of so many messages could bring more messages that wait than may be held.
    pub(super) fn holds_enough(&self, wanted: usize) -> bool {
        let enough = self.waiting() + wanted > self.settings.eta_task_limit;
        if enough && !self.warned_of_etas.swap(true, Ordering::Relaxed) {
            warn!(
                held = self.waiting(),
                "this worker holds as many messages with an eta as it may; further ones stay in the queue until they are due"
            );
        }
        enough
    }

    /// Holds a message until it is due, then sends it on its way.
    pub(super) async fn wait_for_eta(
        self: Arc<Self>,
        received: Received,
        eta: DateTime<Utc>,
        jobs: mpsc::Sender<Job>,
    ) {
        let due = async {
            self.sleep_until(eta, &received).await;
            self.pass_rate_limit(&received).await;
        };
        let slot = self.slot_after(due, &received).await;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.start_or_settle(received, slot, &jobs).await;
    }

    /// Holds a message of a task with a rate limit until its turn, then sends it on its way.
    pub(super) async fn wait_for_turn(self: Arc<Self>, received: Received, jobs: mpsc::Sender<Job>) {
        let due = self.pass_rate_limit(&received);
        let slot = self.slot_after(due, &received).await;
        self.start_or_settle(received, slot, &jobs).await;
    }

    async fn pass_rate_limit(&self, received: &Received) {
        let Some(task) = self.types.get(received.message.task()) else {
            return;
        };
        if task.rate().is_limited() {
            task.rate().pass().await;
            // Messages of this task may have been left in the queue for as long.
            self.transport.look_again();
        }
    }

    async fn start_or_settle(
        &self,
        received: Received,
        slot: Result<Slot, Option<Revocation>>,
        jobs: &mpsc::Sender<Job>,
    ) {
        let (tag, message) = (&received.claimed.tag, &received.message);
        match slot {
            Ok(slot) => self.start_due(received, slot, jobs).await,
            Err(Some(why)) => self.settle_revoked(tag, message, why).await,
            Err(None) => self.hand_back(tag, &received.claimed.source, message).await,
        }
    }

    async fn sleep_until(&self, eta: DateTime<Utc>, received: &Received) {
        let wait = (eta - self.clock.now()).to_std().unwrap_or_default();
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

    /// Waits for `due` and then for a slot. An error says that the message will not run: it was revoked or has
    /// expired meanwhile, or (`None`) the worker stops.
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
            self.slot().await
        });
        let slot = loop {
            // All branches are cancel-safe; the pinned one goes on where it was.
            tokio::select! {
                biased;
                () = self.stop.warm() => return Err(None),
                () = woken() => {
                    if self.revocations.contains(&received.message) {
                        return Err(Some(Revocation::REVOKED));
                    }
                }
                slot = &mut run => break slot.ok_or(None)?,
            }
        };
        match received.message.expires() {
            Ok(Some(expires)) if self.clock.now() >= expires => Err(Some(Revocation::EXPIRED)),
            _ if self.revocations.contains(&received.message) => Err(Some(Revocation::REVOKED)),
            _ => Ok(Slot(slot)),
        }
    }
}
