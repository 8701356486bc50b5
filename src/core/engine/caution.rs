//! Starting messages that waited, or that were handed out before; see [`crate::transport`] for what is counted.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Engine, Job, Received, Revocation, Slot};
use crate::transport::{ALONE_FROM, DeliveryTag};
use tradebot_base::error_chain;

impl Engine {
    /// Sends a message on its way that was handed out before. One that has killed workers gets this one for itself.
    pub(super) async fn start_again(
        self: Arc<Self>,
        received: Received,
        slot: Slot,
        jobs: mpsc::Sender<Job>,
    ) {
        if let Some((received, slot)) = self.alone_if_suspected(received, slot).await {
            self.send(received, slot, &jobs).await;
        }
    }

    /// Sends a message on its way whose `eta` has come.
    pub(super) async fn start_due(&self, received: Received, slot: Slot, jobs: &mpsc::Sender<Job>) {
        let (mut received, slot) = if received.message.redelivered() {
            let Some(ready) = self.alone_if_suspected(received, slot).await else {
                return;
            };
            ready
        } else {
            (received, slot)
        };
        if !received.marked {
            // Without an answer before a cold stop the message stays in unacked and is restored from there.
            let Some(()) = self.mark(&received.claimed.tag).await else {
                return;
            };
            received.marked = true;
        }
        self.send(received, slot, jobs).await;
    }

    /// Exchanges the slot of a message that killed workers for all slots there are, and marks it as started. `None`
    /// if a stop came first: the message has gone back then.
    async fn alone_if_suspected(&self, mut received: Received, slot: Slot) -> Option<(Received, Slot)> {
        let crashes = self
            .until_done("look up crashes", || self.transport.crashes_of(&received.message))
            .await?;
        if crashes < ALONE_FROM {
            return Some((received, slot));
        }
        warn!(
            task.name = received.message.task(),
            task.id = received.message.id(),
            crashes,
            "workers died while they ran this message; it runs alone"
        );
        // Two that wait for all slots must not hold one each. The semaphore is fair: what comes later starts later.
        drop(slot);
        let slots = tokio::select! {
            biased;
            () = self.stop.warm() => None,
            slots = self.all_slots() => slots,
        };
        let Some(slots) = slots else {
            self.hand_back(&received.claimed.tag, &received.claimed.source, &received.message)
                .await;
            return None;
        };
        if matches!(received.message.expires(), Ok(Some(expires)) if self.clock.now() >= expires) {
            self.settle_revoked(&received.claimed.tag, &received.message, Revocation::EXPIRED)
                .await;
            return None;
        }
        self.mark(&received.claimed.tag).await?;
        received.marked = true;
        Some((received, Slot(slots)))
    }

    async fn mark(&self, tag: &DeliveryTag) -> Option<()> {
        self.until_done("mark a message as started", || self.transport.mark_started(tag))
            .await
    }

    /// Takes the mark off a settled delivery. Nobody waits for it.
    pub(super) fn unmark(self: &Arc<Self>, tag: DeliveryTag) {
        let engine = Arc::clone(self);
        self.track(async move {
            if let Err(trouble) = engine.transport.unmark_started(&tag).await {
                debug!(error = %error_chain(&trouble), "a mark stays until its worker ends");
            }
        });
    }
}
