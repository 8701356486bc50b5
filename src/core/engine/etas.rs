//! Messages with an `eta`: held in `unacked` until they are due, up to a bound.
//!
//! Beyond the bound they stay in their queue, where they are passed over until they are due or there is room again;
//! what is due in the queue is taken as ever.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::{Engine, Job, Received, Slot};
use crate::core::lifecycle::sleep_unless_stopping;

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
            _ => self.start_due(received, Slot(slot), &jobs).await,
        }
    }
}
