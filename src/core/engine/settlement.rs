//! Settling: what is written once it is clear what becomes of a delivery.
//!
//! A settlement that Redis does not take is kept and tried again until it does; the task is not run again
//! for it. Only a cold stop gives up, and then the message is still in `unacked`.

use std::sync::Arc;

use tracing::{debug, error, info, warn};

use super::{Engine, Received};
use crate::core::backoff::Reconnect;
use crate::core::canvas::{self, Successor};
use crate::core::error_chain;
use crate::core::failpoint;
use crate::core::transport::{
    Claimed, DeliveryTag, Push, RedisTrouble, Settled, Source, StoredResult, Transport,
};
use crate::core::wire::envelope::Envelope;
use crate::core::wire::result::{Exception, State};

impl Engine {
    /// Ends a delivery with a state and what follows from it.
    pub(super) async fn settle(
        &self,
        tag: &DeliveryTag,
        message: &Envelope,
        state: &State,
        successors: &[Successor],
    ) -> Option<Settled> {
        // Celery stores a failure before it calls the errbacks: they are nobody's children.
        let children = match state {
            State::Failure(..) => Vec::new(),
            _ => canvas::children(successors),
        };
        let document = self.results.document(message, state, &children);
        let pushes: Vec<Push> = successors.iter().map(|next| self.publish_push(next)).collect();
        let settled = self.settle_with(tag, document.as_ref(), &pushes).await?;
        if settled.held {
            for next in successors {
                self.events.sent(&next.queue, &next.message);
            }
        }
        Some(settled)
    }

    /// Gives a failed chain's remaining tasks the same failure.
    pub(super) async fn fail_rest_of_chain(&self, received: &super::Job, state: &State) {
        for task_id in canvas::abandoned(&received.body) {
            let mut message = received.message.clone();
            message.set_header("id", task_id.into());
            if let Some(document) = self.results.document(&message, state, &[]) {
                self.until_done("store a result", || self.results.store(&document))
                    .await;
            }
        }
    }

    pub(super) async fn settle_expired(&self, received: &Received) {
        let state = State::Revoked(Exception::revoked("expired"));
        info!(
            task.name = received.message.task(),
            task.id = received.message.id(),
            outcome = "expired",
            "task expired before it could start"
        );
        let settled = self
            .settle(&received.claimed.tag, &received.message, &state, &[])
            .await;
        if settled.is_some() {
            self.events.revoked(received.message.id(), false, None, true);
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
        if let Some(document) = document.filter(|_| !self.results_with_broker) {
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
        let mut waits = Reconnect::default();
        loop {
            let trouble = match attempt().await {
                Ok(done) => return Some(done),
                Err(trouble) => trouble,
            };
            if waits.attempt() == 0 {
                warn!(error = %error_chain(&trouble), "cannot {what} yet, trying until it works");
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

    fn publish_push(&self, next: &Successor) -> Push {
        let list = self
            .transport
            .keys()
            .list_for(&next.queue, next.message.priority());
        Push {
            list,
            end: crate::core::transport::End::Back,
            message: next.message.to_json(),
        }
    }
}

impl Engine {
    /// Settles a job that was never started because its arguments do not fit the task.
    pub async fn refuse(self: &Arc<Self>, job: super::Job, why: &str) {
        let _running = self.events.running();
        self.events.started(&job.message);
        let exception = Exception::builtin("TypeError", why);
        let failure = super::Failure {
            exception,
            kind: super::FailureKind::Final,
        };
        self.conclude(
            job,
            &super::TaskPolicy::default(),
            Err(failure),
            std::time::Duration::ZERO,
        )
        .await;
    }

    /// Returns a job that was received and not started.
    pub async fn return_unstarted(&self, job: super::Job) {
        self.hand_back(&job.tag, &job.source, &job.message).await;
    }
}
