//! Starting: the last checks of a claimed message before its task runs.
//!
//! A message that was handed out before may have killed its worker. [`transport`](crate::transport) counts those
//! crashes, and a suspected message runs alone.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::warn;

use super::pool::Slot;
use super::received::Received;
use super::{Engine, Job, Revocation};
use crate::transport::{ALONE_FROM, DeliveryTag, MAX_CRASHES};
use tradebot_wire::canvas::SuccessorPlan;
use tradebot_wire::result::Exception;

/// Sends claimed messages to their tasks. Clones share the engine and the channel.
#[derive(Clone)]
pub(super) struct Starter {
    pub(super) engine: Arc<Engine>,
    pub(super) jobs: mpsc::Sender<Job>,
}

impl Starter {
    /// Starts a message that was handed out before. One that has killed workers runs alone.
    pub(super) async fn start_again(self, received: Received, slot: Slot) {
        if let Some((received, slot)) = self.alone_if_suspected(received, slot).await {
            self.send(received, slot).await;
        }
    }

    /// Starts a message whose `eta` has come.
    pub(super) async fn start_due(&self, received: Received, slot: Slot) {
        let (mut received, slot) = if received.message.redelivered() {
            let Some(ready) = self.alone_if_suspected(received, slot).await else {
                return;
            };
            ready
        } else {
            (received, slot)
        };
        if !received.marked {
            // If a cold stop comes first, the message stays in unacked and is restored from there.
            let Some(()) = self.mark(&received.claimed.tag).await else {
                return;
            };
            received.marked = true;
        }
        self.send(received, slot).await;
    }

    /// Exchanges the slot of a message that killed workers for every slot, and marks it as started. `None` if the
    /// worker stops first: the message is then back in its queue.
    async fn alone_if_suspected(&self, mut received: Received, slot: Slot) -> Option<(Received, Slot)> {
        let crashes = self
            .engine
            .settlement
            .until_done("look up crashes", || {
                self.engine.transport.crashes_of(&received.message)
            })
            .await?;
        if crashes < ALONE_FROM {
            return Some((received, slot));
        }
        if crashes >= MAX_CRASHES {
            self.give_up(&received).await;
            return None;
        }
        warn!(
            task.name = received.message.task(),
            task.id = received.message.id(),
            crashes,
            "workers died while they ran this message; it runs alone"
        );
        // Two messages that wait for all slots must not hold one each. The semaphore is fair: later requests wait.
        drop(slot);
        let slots = tokio::select! {
            biased;
            () = self.engine.stop.warm() => None,
            slots = self.engine.pool.all_slots() => slots,
        };
        let Some(slots) = slots else {
            self.engine
                .settlement
                .hand_back(&received.claimed.tag, &received.claimed.source, &received.message)
                .await;
            return None;
        };
        if matches!(received.message.expires(), Ok(Some(expires)) if self.engine.clock.now() >= expires) {
            self.engine
                .settlement
                .settle_revoked(
                    &received.claimed.tag,
                    &received.message,
                    Revocation::EXPIRED,
                    &SuccessorPlan::default(),
                )
                .await;
            return None;
        }
        self.mark(&received.claimed.tag).await?;
        received.marked = true;
        Some((received, slots))
    }

    /// Fails the task of a message that killed too many workers, as Celery does when a task's process dies.
    async fn give_up(&self, received: &Received) {
        let (settlement, message) = (&self.engine.settlement, &received.message);
        // Replayed, it begins anew.
        let forgotten =
            settlement.until_done("forget crashes", || self.engine.transport.forget_crashes(message));
        if forgotten.await.is_none() {
            return;
        }
        let reason = format!("{MAX_CRASHES} workers died while they ran this message");
        let exception = Exception::new(
            "billiard.exceptions",
            "WorkerLostError",
            vec![reason.as_str().into()],
        );
        settlement
            .refuse(&received.claimed, message, (exception, reason))
            .await;
    }

    async fn mark(&self, tag: &DeliveryTag) -> Option<()> {
        self.engine
            .settlement
            .until_done("mark a message as started", || {
                self.engine.transport.mark_started(tag)
            })
            .await
    }

    /// Sends a message to its task, or back to its queue once the worker stops.
    pub(super) async fn send(&self, received: Received, slot: Slot) {
        let Received {
            claimed,
            message,
            body,
            marked,
            ticket,
        } = received;
        let unfinished = self.engine.tracker.token();
        let job = Job {
            tag: claimed.tag,
            source: claimed.source,
            message: Arc::new(message),
            body: Arc::new(body),
            left: Arc::default(),
            ticket: ticket.expect("a message is entered before it is sent"),
            slot,
            marked,
            unfinished,
        };
        let refused = if self.engine.stop.is_stopping() {
            Some(job)
        } else {
            self.jobs.send(job).await.err().map(|refused| refused.0)
        };
        if let Some(job) = refused {
            self.engine
                .settlement
                .hand_back(&job.tag, &job.source, &job.message)
                .await;
        }
    }
}
