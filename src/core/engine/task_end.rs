//! The end of a task: its result, its workflow, the messages that follow, and the acknowledgement.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::Revocation;
use super::settlement::Settlement;
use super::workflow::{Concern, Unfinished};
use crate::transport::{Claimed, DeliveryTag, Push, Settled};
use tradebot_base::error_chain;
use tradebot_wire::canvas::SuccessorPlan;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::{Exception, TaskState};

/// What became of messages that lead to a key which is no list.
#[derive(Default)]
pub(super) struct Unsent {
    /// Keys of the results of their tasks, which have failed.
    pub(super) failed: Vec<String>,
    /// Chords to be ended after the acknowledgement.
    pub(super) unfinished: Vec<Unfinished>,
}

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
        self.settle_and_push(tag, message, state, plan, Vec::new()).await
    }

    /// Ends a delivery without a result: publishes what the task has sent and `pushes`, and acknowledges.
    pub(super) async fn settle_without_result(
        &self,
        (tag, message): (&DeliveryTag, &Envelope),
        plan: &SuccessorPlan,
        mut pushes: Vec<Push>,
    ) -> Option<Settled> {
        pushes.extend(plan.successors.iter().map(|next| self.publish_push(next)));
        let settled = match self.prepare(plan).await {
            Some(()) => self.settle_with(tag, None, &pushes).await,
            None => None,
        };
        let Some(settled) = settled else {
            report_unsettled(message);
            return None;
        };
        if settled.held {
            for next in &plan.successors {
                self.events.sent(&next.queue, &next.message);
            }
        }
        Some(settled)
    }

    /// The same as [`Settlement::settle`], and publishes `pushes`. An outcome that cannot be stored is in the log.
    async fn settle_and_push(
        &self,
        tag: &DeliveryTag,
        message: &Envelope,
        state: &TaskState,
        plan: &SuccessorPlan,
        pushes: Vec<Push>,
    ) -> Option<Settled> {
        let settled = self.try_to_settle(tag, message, state, plan, pushes).await;
        if settled.is_none() {
            report_unsettled(message);
        }
        settled
    }

    async fn try_to_settle(
        &self,
        tag: &DeliveryTag,
        message: &Envelope,
        state: &TaskState,
        plan: &SuccessorPlan,
        mut pushes: Vec<Push>,
    ) -> Option<Settled> {
        self.prepare(plan).await?;
        let document = self.results.document(message, state, &plan.children);
        pushes.extend(plan.successors.iter().map(|next| self.publish_push(next)));
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

    /// Ends a delivery whose task cannot run here, for a reason that its client and its workflow are told. An operator finds
    /// the message among the parked ones.
    pub(super) async fn refuse(
        &self,
        claimed: &Claimed,
        message: &Envelope,
        (exception, reason): (Exception, String),
    ) {
        // Sorting drops the bytes of a message that is to run.
        let raw = message.to_json();
        let raw = if claimed.raw.is_empty() {
            raw.as_bytes()
        } else {
            &claimed.raw
        };
        let parked = self.transport.park(&claimed.source, raw, &reason);
        let state = TaskState::Failure(exception, None);
        let plan = self.call_errbacks_of(message, &state).await.without_children();
        let settled = self
            .settle_and_push(&claimed.tag, message, &state, &plan, vec![parked])
            .await;
        if settled.is_some() {
            self.events.ended(message, &state, Duration::ZERO);
            self.report_parked(&claimed.source, &reason, Some(message));
        }
    }

    /// Parks those of a delivery's messages that lead to a key which is no list, and fails their tasks.
    pub(super) async fn without_misdirected(
        &self,
        tag: &DeliveryTag,
        pushes: Vec<Push>,
        unsent: &mut Unsent,
    ) -> Option<Vec<Push>> {
        let mut kept = Vec::with_capacity(pushes.len());
        for push in pushes {
            let may_push = self
                .until_done("look at a queue", || self.transport.may_push_to(&push.list))
                .await?;
            if may_push {
                kept.push(push);
                continue;
            }
            error!(
                list = push.list,
                "parked a message that follows from a task: the key of its queue is not a list"
            );
            let parked = self.transport.park_push(&push);
            if let Ok(message) = Envelope::parse(push.message.as_bytes()) {
                kept.extend(self.fail_unsent(tag, &message, &push.list, unsent).await?);
            }
            kept.push(parked);
        }
        Some(kept)
    }

    /// Fails a task whose message cannot be sent. Returns what is to be published for that with the acknowledgement.
    async fn fail_unsent(
        &self,
        tag: &DeliveryTag,
        message: &Envelope,
        list: &str,
        unsent: &mut Unsent,
    ) -> Option<Vec<Push>> {
        let text = format!("the key {list} does not hold a queue");
        let state = TaskState::Failure(
            Exception::new("kombu.exceptions", "OperationalError", vec![text.into()]),
            None,
        );
        let plan = self.call_errbacks_of(message, &state).await;
        self.prepare(&plan).await?;
        if let Some(document) = self.results.document(message, &state, &[]) {
            self.store(&document).await?;
            unsent.failed.push(document.key);
        }
        let mut pushes: Vec<Push> = plan
            .successors
            .iter()
            .map(|next| self.publish_push(next))
            .collect();
        if let Some(concern) = Concern::of(message, &state) {
            // A chord's end may lead to other such messages.
            let remaining = Box::pin(self.tell_workflow(tag, message, concern, &state)).await?;
            pushes.extend(remaining.pushes);
            unsent.unfinished.extend(remaining.unfinished);
        }
        Some(pushes)
    }

    /// Stores that a task has started, if that is tracked. It tries once, before the task runs, so that it cannot
    /// overwrite the outcome.
    pub(super) async fn track_started(&self, message: &Envelope, tracked: Option<bool>) {
        let Some(document) = self.results.started(message, &self.hostname, tracked) else {
            return;
        };
        if let Err(trouble) = self.results.store(&document).await {
            debug!(error = %error_chain(&trouble), task.id = message.id(), "cannot store that a task has started");
        }
    }

    /// Ends a delivery whose task was revoked, has expired or was ended by a revocation, with what it had sent. Returns
    /// whether that is stored.
    pub(super) async fn settle_revoked(
        &self,
        tag: &DeliveryTag,
        message: &Envelope,
        why: Revocation,
        sent: &SuccessorPlan,
    ) -> bool {
        let state = TaskState::Revoked(Exception::revoked(why.reason));
        let settled = self.settle(tag, message, &state, sent).await;
        if settled.is_none() {
            return false;
        }
        info!(
            task.name = message.task(),
            task.id = message.id(),
            outcome = why.reason,
            retries = message.retries(),
            signal = why.signum,
            "task revoked"
        );
        self.events
            .revoked(message.id(), why.terminated, why.signum, why.expired);
        true
    }
}

fn report_unsettled(message: &Envelope) {
    warn!(
        task.name = message.task(),
        task.id = message.id(),
        outcome = "unsettled",
        retries = message.retries(),
        "could not store the outcome of a task: its message stays in unacked, and it runs again"
    );
}
