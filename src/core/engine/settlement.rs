//! Settling: what is written once it is clear what becomes of a delivery.
//!
//! A settlement that Redis does not take is kept and tried again until it does; the task is not run again
//! for it. Only a cold stop gives up, and then the message is still in `unacked`.

use std::sync::Arc;

use serde_json::Value;
use tracing::{debug, error, info, warn};

use super::hold_ups::{HeldUp, HoldUps};
use super::{Revocation, workflow};
use crate::events::Events;
use crate::results::Results;
use crate::transport::{Claimed, DeliveryTag, Push, Settled, Source, StoredResult, Transport};
use tradebot_base::backoff::Reconnect;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::failpoint;
use tradebot_base::lifecycle::Stop;
use tradebot_base::random::SharedRandom;
use tradebot_wire::canvas::{Successor, SuccessorPlan};
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::{Exception, TaskState};

/// Writes outcomes, results, follow-up messages and acknowledgements, and tries again until Redis takes them.
pub(super) struct Settlement {
    pub(super) transport: Arc<Transport>,
    pub(super) results: Results,
    /// Results and queues share a database, so one script settles both.
    pub(super) one_database: bool,
    pub(super) events: Arc<Events>,
    pub(super) clock: SharedClock,
    pub(super) random: SharedRandom,
    pub(super) stop: Stop,
    pub(super) hold_ups: HoldUps,
    /// This worker's node name.
    pub(super) hostname: String,
    /// `origin` of the messages that follow from a task.
    pub(super) origin: String,
    /// Where signatures without a queue are published.
    pub(super) default_queue: String,
    /// Slots, for the reminder that none may be left.
    pub(super) concurrency: usize,
}

impl Settlement {
    /// Ends a delivery with a state and what follows from it.
    ///
    /// Where a chord or the rest of a chain is concerned too, they are told between the storing of the result
    /// and the acknowledgement: a crash anywhere in between has the task run again, and nothing happen twice.
    pub(super) async fn settle(
        &self,
        tag: &DeliveryTag,
        message: &Envelope,
        state: &TaskState,
        plan: &SuccessorPlan,
    ) -> Option<Settled> {
        self.prepare(plan).await?;
        // Celery stores a failure before it calls the errbacks: they are nobody's children.
        let children: &[Value] = match state {
            TaskState::Failure(..) => &[],
            _ => &plan.children,
        };
        let document = self.results.document(message, state, children);
        let follows = plan.successors.iter().map(|next| self.publish_push(next));
        let mut pushes: Vec<Push> = follows.collect();
        let settled = if let Some(concern) = workflow::Concern::of(message, state) {
            if let Some(document) = &document {
                self.until_done("store a result", || self.results.store(document))
                    .await?;
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

    /// Stores that a task runs, where that is tracked. It is tried once, and before the task runs: what comes of the
    /// task must not be overwritten by it.
    pub(super) async fn track_started(&self, message: &Envelope) {
        let Some(document) = self.results.started(message, &self.hostname) else {
            return;
        };
        if let Err(trouble) = self.results.store(&document).await {
            debug!(error = %error_chain(&trouble), task.id = message.id(), "could not store that a task runs");
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

    /// Puts a message back to the front of its list, for whoever comes next.
    pub(super) async fn hand_back(&self, tag: &DeliveryTag, source: &Source, message: &Envelope) {
        let push = Transport::hand_back(source, message);
        if let Some(settled) = self.settle_with(tag, None, &[push]).await {
            debug!(
                task.id = message.id(),
                held = settled.held,
                "handed a message back"
            );
        }
    }

    /// Sets a message aside that cannot be understood.
    pub(super) async fn park(&self, claimed: &Claimed, reason: &str) {
        let push = self.transport.park(&claimed.source, &claimed.raw, reason);
        self.settle_with(&claimed.tag, None, &[push]).await;
        error!(
            outcome = "parked",
            queue = claimed.source.queue,
            reason,
            list = self.transport.keys().parked(),
            "parked a message"
        );
    }

    async fn settle_with(
        &self,
        tag: &DeliveryTag,
        document: Option<&StoredResult>,
        pushes: &[Push],
    ) -> Option<Settled> {
        let mut with_ack = document;
        if let Some(document) = document.filter(|_| !self.one_database) {
            self.until_done("store a result", || self.results.store(document))
                .await?;
            with_ack = None;
            failpoint::pass("result stored");
        }
        let mut settled = self
            .until_done("settle a message", || {
                self.transport.settle(tag, with_ack, pushes)
            })
            .await?;
        if settled.misdirected {
            // Where it should go, it cannot: the workflow ends here, in sight of whoever looks.
            let parked: Vec<Push> = pushes.iter().map(|push| self.transport.park_push(push)).collect();
            settled = self
                .until_done("settle a message", || {
                    self.transport.settle(tag, with_ack, &parked)
                })
                .await?;
            error!(
                delivery.tag = tag.0,
                "parked what follows from a task: its queue's key is no list"
            );
        }
        if !settled.announced {
            warn!(
                "results are stored but not announced: this Redis user may not publish, so `get()` waits in vain"
            );
        }
        if !settled.held {
            warn!(
                delivery.tag = tag.0,
                "the delivery was not held any more: it was restored by somebody, or settled by an attempt whose answer was lost"
            );
        }
        Some(settled)
    }

    /// Repeats `attempt` until it succeeds or a cold stop gives up.
    pub(super) async fn until_done<T, F>(&self, what: &str, mut attempt: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, RedisTrouble>>,
    {
        let mut waits = Reconnect::new(self.random.fork());
        let mut held_up = None;
        loop {
            let trouble = match attempt().await {
                Ok(done) => return Some(done),
                Err(trouble) => trouble,
            };
            if waits.attempt() == 0 {
                warn!(error = %error_chain(&trouble), "cannot {what} yet, trying until it works");
            }
            let held_up: &HeldUp<'_> = held_up.get_or_insert_with(|| self.hold_ups.begin());
            if let Some((waiting, seconds)) = held_up.reminder() {
                warn!(
                    error = %error_chain(&trouble),
                    waiting,
                    seconds,
                    slots = self.concurrency,
                    "still cannot {what}: no slot is free before that, and nothing else is taken once none is"
                );
            }
            // Biased towards one more attempt: a cold stop is given up on only after a failure under it.
            tokio::select! {
                biased;
                () = self.stop.cold() => {
                    error!(error = %error_chain(&trouble), "could not {what} before the stop; the message stays in unacked");
                    return None;
                }
                () = tokio::time::sleep(waits.next_delay()) => {}
            }
        }
    }

    pub(super) fn publish_push(&self, next: &Successor) -> Push {
        let list = self
            .transport
            .keys()
            .list_for(&next.queue, next.message.priority());
        Push {
            list,
            end: crate::transport::End::Back,
            message: next.message.to_json(),
        }
    }
}
