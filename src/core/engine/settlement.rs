//! Settling a delivery: storing the result, publishing what follows and acknowledging.
//!
//! A settlement that fails is retried until Redis accepts it; the task does not run again. Only a cold stop ends the
//! retries, or a right that is missing: no attempt helps until an operator grants it. The message is then still in
//! `unacked`. This worker keeps it there, and returns it to its queue when it ends.

use std::borrow::Cow;
use std::sync::Arc;

use tracing::{debug, error, warn};

use super::errbacks::ErrbackCaller;
use super::hold_ups::{HeldUp, HoldUps};
use super::task_end::Unsent;
use crate::events::Events;
use crate::results::Results;
use crate::transport::{Claimed, DeliveryTag, Push, Settled, Source, Stored, StoredResult, Transport};
use tradebot_base::backoff::Reconnect;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::failpoint;
use tradebot_base::lifecycle::Stop;
use tradebot_base::random::SharedRandom;
use tradebot_base::said::Said;
use tradebot_wire::canvas::Successor;
use tradebot_wire::envelope::Envelope;

/// How many times messages are parked that lead to a key which is no list: a message, its errbacks, theirs.
pub(super) const MAX_MISDIRECTIONS: usize = 8;

/// Writes outcomes, results, follow-up messages and acknowledgements, and retries until Redis accepts them.
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
    /// What cannot be done for want of a right, and is in the log.
    pub(super) forbidden: Said,
    /// This worker's node name.
    pub(super) hostname: String,
    /// `origin` of the messages that follow from a task.
    pub(super) origin: String,
    /// Where signatures without a queue are published.
    pub(super) default_queue: String,
    /// Slots, for the reminder in the log.
    pub(super) concurrency: usize,
    pub(super) errbacks: ErrbackCaller,
}

impl Settlement {
    /// Returns a message to the front of its list.
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

    /// Sets a message aside of which not even the id can be read.
    pub(super) async fn park(&self, claimed: &Claimed, reason: &str) {
        let push = self.transport.park(&claimed.source, &claimed.raw, reason);
        if self.settle_with(&claimed.tag, None, &[push]).await.is_some() {
            self.report_parked(&claimed.source, reason, None);
        }
    }

    /// Logs that a message was parked, with its task if that is known.
    pub(super) fn report_parked(&self, source: &Source, reason: &str, message: Option<&Envelope>) {
        error!(
            task.name = message.map(Envelope::task),
            task.id = message.map(Envelope::id),
            outcome = "parked",
            queue = source.queue,
            reason,
            list = self.transport.keys().parked(),
            "parked a message"
        );
    }

    pub(super) async fn settle_with(
        &self,
        tag: &DeliveryTag,
        document: Option<&StoredResult>,
        pushes: &[Push],
    ) -> Option<Settled> {
        let mut with_ack = document;
        if let Some(document) = document.filter(|_| !self.one_database) {
            self.store(document).await?;
            with_ack = None;
            failpoint::pass("result stored");
        }
        let mut settled = self
            .until_done("settle a message", || {
                self.transport.settle(tag, with_ack, pushes)
            })
            .await?;
        let (mut pushes, mut unsent) = (Cow::Borrowed(pushes), Unsent::default());
        for _ in 0..MAX_MISDIRECTIONS {
            if !settled.misdirected {
                break;
            }
            let left = self
                .without_misdirected(tag, pushes.into_owned(), &mut unsent)
                .await?;
            pushes = Cow::Owned(left);
            // A retry that cannot be sent is a failure.
            with_ack = with_ack.filter(|document| !unsent.failed.contains(&document.key));
            settled = self
                .until_done("settle a message", || {
                    self.transport.settle(tag, with_ack, &pushes)
                })
                .await?;
        }
        if settled.misdirected {
            error!(
                delivery.tag = tag.0,
                list = self.transport.keys().parked(),
                "cannot park the messages that follow from a task: that key is not a list either; rename or delete \
                 it, the message stays in unacked until this worker ends"
            );
            return None;
        }
        if settled.held {
            self.finish_chords(unsent.unfinished).await;
        }
        if let Some(document) = document {
            self.note_stored(document, settled.stored);
        }
        if !settled.held {
            warn!(
                delivery.tag = tag.0,
                "the delivery was not held any more: another worker restored it, or an earlier attempt settled it and the reply was lost"
            );
        }
        Some(settled)
    }

    /// Stores and announces a result.
    pub(super) async fn store(&self, document: &StoredResult) -> Option<()> {
        let stored = self
            .until_done("store a result", || self.results.store(document))
            .await?;
        self.note_stored(document, stored);
        Some(())
    }

    fn note_stored(&self, document: &StoredResult, stored: Stored) {
        let key = &document.key;
        if stored == Stored::Unannounced && self.forbidden.first("announce a result") {
            warn!(
                channel = key,
                "results are stored but not announced: this Redis user lacks the right to the channel (`&`), so `get()` \
                 never returns; grant it with `ACL SETUSER`, docs/redis.md lists all rights"
            );
        }
        if stored == Stored::Replaced {
            warn!(
                key,
                "the key of a result held a value of another type, which the result has replaced; find out which \
                 program wrote it"
            );
        }
    }

    /// Repeats `attempt` until it succeeds, is forbidden, or a cold stop gives up.
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
            if trouble.is_forbidden() {
                if self.forbidden.first(what) {
                    error!(
                        error = %error_chain(&trouble),
                        "this Redis user may not {what}: the messages stay in unacked until this worker ends, and then \
                         their tasks run again"
                    );
                } else {
                    debug!(error = %error_chain(&trouble), "may not {what}");
                }
                return None;
            }
            if waits.attempt() == 0 {
                warn!(error = %error_chain(&trouble), "cannot {what} yet, retrying");
            }
            let held_up: &HeldUp<'_> = held_up.get_or_insert_with(|| self.hold_ups.begin());
            if let Some((waiting, seconds)) = held_up.reminder() {
                warn!(
                    error = %error_chain(&trouble),
                    waiting,
                    seconds,
                    slots = self.concurrency,
                    "still cannot {what}: each waiting task keeps a slot, and without a free slot this worker claims nothing"
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
