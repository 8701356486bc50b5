//! The end of a task: its result, its workflow, the messages that follow, and the acknowledgement.

use serde_json::Value;
use tracing::{debug, info};

use super::Revocation;
use super::settlement::Settlement;
use super::workflow::Concern;
use crate::transport::{DeliveryTag, Push, Settled};
use tradebot_base::error_chain;
use tradebot_wire::canvas::SuccessorPlan;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::{Exception, TaskState};

impl Settlement {
    /// Ends a delivery with a state and what follows from it.
    ///
    /// Chords and the rest of a failed chain are updated after the result is stored and before the acknowledgement. If
    /// this worker crashes in between, the task runs again and each update still happens once.
    pub(super) async fn settle(
        &self,
        tag: &DeliveryTag,
        message: &Envelope,
        state: &TaskState,
        plan: &SuccessorPlan,
    ) -> Option<Settled> {
        self.prepare(plan).await?;
        // Celery stores a failure before it calls the errbacks: they are not its children.
        let children: &[Value] = match state {
            TaskState::Failure(..) => &[],
            _ => &plan.children,
        };
        let document = self.results.document(message, state, children);
        let follows = plan.successors.iter().map(|next| self.publish_push(next));
        let mut pushes: Vec<Push> = follows.collect();
        let settled = if let Some(concern) = Concern::of(message, state) {
            if let Some(document) = &document {
                self.store(document).await?;
            }
            let mut remaining = self.tell_workflow(tag, message, concern, state).await?;
            pushes.append(&mut remaining.pushes);
            let settled = self.settle_with(tag, None, &pushes).await?;
            if settled.held {
                self.finish_chords(remaining.unfinished).await;
            }
            settled
        } else {
            self.settle_with(tag, document.as_ref(), &pushes).await?
        };
        if settled.held {
            for next in &plan.successors {
                self.events.sent(&next.queue, &next.message);
            }
        }
        Some(settled)
    }

    /// Stores that a task has started, if that is tracked. It tries once, before the task runs, so that it cannot
    /// overwrite the outcome.
    pub(super) async fn track_started(&self, message: &Envelope) {
        let Some(document) = self.results.started(message, &self.hostname) else {
            return;
        };
        if let Err(trouble) = self.results.store(&document).await {
            debug!(error = %error_chain(&trouble), task.id = message.id(), "cannot store that a task has started");
        }
    }

    /// Ends a delivery whose task was revoked, has expired or was ended by a revocation.
    pub(super) async fn settle_revoked(&self, tag: &DeliveryTag, message: &Envelope, why: Revocation) {
        let state = TaskState::Revoked(Exception::revoked(why.reason));
        info!(
            task.name = message.task(),
            task.id = message.id(),
            outcome = why.reason,
            retries = message.retries(),
            signal = why.signum,
            "task revoked"
        );
        let settled = self.settle(tag, message, &state, &SuccessorPlan::default()).await;
        if settled.is_some() {
            self.events
                .revoked(message.id(), why.terminated, why.signum, why.expired);
        }
    }
}
