//! Sorting: what becomes of a message that was claimed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use tokio::sync::mpsc;
use tracing::warn;

use super::{Engine, Job, Phase, Received, Revocation, Slot, TaskType};
use crate::transport::Claimed;
use tradebot_wire::canvas;
use tradebot_wire::envelope::Envelope;

/// What to do with a message that was read.
enum Verdict {
    Run(Arc<TaskType>),
    WaitUntil(Arc<TaskType>, DateTime<Utc>),
    Revoked(Revocation),
    LeaveToOthers(&'static str),
    Park(String),
}

impl Engine {
    /// Sends a claimed message on its way.
    pub(super) async fn sort(self: &Arc<Self>, claimed: Claimed, slot: Slot, jobs: &mpsc::Sender<Job>) {
        let (mut received, verdict) = match self.read(claimed) {
            Ok(read) => read,
            Err((claimed, reason)) => {
                let engine = Arc::clone(self);
                self.track(async move {
                    engine.park(&claimed, &reason).await;
                    drop(slot);
                });
                return;
            }
        };
        let engine = Arc::clone(self);
        match verdict {
            Verdict::Run(task) if !task.rate().is_limited() => {
                self.enter(&mut received, task, None);
                self.events.received(&received.message);
                if received.message.redelivered() {
                    let jobs = jobs.clone();
                    self.track(engine.start_again(received, slot, jobs));
                } else {
                    self.send(received, slot, jobs).await;
                }
            }
            Verdict::Run(task) => {
                drop(slot);
                self.enter(&mut received, task, None);
                self.events.received(&received.message);
                let jobs = jobs.clone();
                self.track(engine.wait_for_turn(received, jobs));
            }
            Verdict::WaitUntil(task, eta) => {
                drop(slot);
                self.enter(&mut received, task, Some(eta));
                self.events.received(&received.message);
                let jobs = jobs.clone();
                self.waiting.fetch_add(1, Ordering::Relaxed);
                self.track(async move { engine.wait_for_eta(received, eta, jobs).await });
            }
            Verdict::Revoked(why) => self.track(async move {
                engine
                    .settle_revoked(&received.claimed.tag, &received.message, why)
                    .await;
                drop(slot);
            }),
            Verdict::LeaveToOthers(why) => {
                warn!(
                    task.name = received.message.task(),
                    task.id = received.message.id(),
                    why,
                    "leaving a message to the Python workers"
                );
                self.leave_out(&received.message);
                self.track(async move {
                    engine
                        .hand_back(&received.claimed.tag, &received.claimed.source, &received.message)
                        .await;
                    drop(slot);
                });
            }
            Verdict::Park(reason) => self.track(async move {
                engine.park(&received.claimed, &reason).await;
                engine.events.rejected(received.message.id(), false);
                drop(slot);
            }),
        }
    }

    fn read(&self, claimed: Claimed) -> Result<(Received, Verdict), (Claimed, String)> {
        let message = match Envelope::parse(&claimed.raw) {
            Ok(message) => message,
            Err(reason) => return Err((claimed, reason.to_string())),
        };
        let body = match message.body() {
            Ok(body) => body,
            Err(reason) => return Err((claimed, reason.to_string())),
        };
        let received = Received {
            claimed,
            message,
            body,
            marked: false,
            ticket: None,
        };
        let verdict = self.judge(&received);
        Ok((received, verdict))
    }

    fn judge(&self, received: &Received) -> Verdict {
        let message = &received.message;
        let Some(task) = self.types.get(message.task()) else {
            return Verdict::LeaveToOthers("its task is not one of ours");
        };
        if let Some(why) = canvas::beyond_us(&received.body) {
            return Verdict::LeaveToOthers(why);
        }
        let (eta, expires) = match (message.eta(), message.expires()) {
            (Ok(eta), Ok(expires)) => (eta, expires),
            (Err(reason), _) | (_, Err(reason)) => return Verdict::Park(reason.to_string()),
        };
        let now = self.clock.now();
        if expires.is_some_and(|expires| now >= expires) {
            return Verdict::Revoked(Revocation::EXPIRED);
        }
        if self.revocations.contains(message) {
            return Verdict::Revoked(Revocation::REVOKED);
        }
        match eta {
            Some(eta) if eta > now => Verdict::WaitUntil(Arc::clone(task), eta),
            _ => Verdict::Run(Arc::clone(task)),
        }
    }

    /// Enters a message that will run into the requests, which keep its bytes from now on.
    fn enter(&self, received: &mut Received, task: Arc<TaskType>, eta: Option<DateTime<Utc>>) {
        let raw = std::mem::take(&mut received.claimed.raw);
        let phase = if eta.is_some() {
            Phase::Scheduled
        } else {
            Phase::Reserved
        };
        let ticket = self.requests.enter(task, received.message.id(), raw, eta, phase);
        received.ticket = Some(ticket);
    }

    /// Hands a due message to whoever runs it. Once stopping, nothing more is started.
    pub(super) async fn send(&self, received: Received, slot: Slot, jobs: &mpsc::Sender<Job>) {
        let Received {
            claimed,
            message,
            body,
            marked,
            ticket,
        } = received;
        let unfinished = self.tracker.token();
        let job = Job {
            tag: claimed.tag,
            source: claimed.source,
            message,
            body,
            ticket: ticket.expect("a message is entered before it is sent"),
            slot,
            marked,
            unfinished,
        };
        let refused = if self.stop.is_stopping() {
            Some(job)
        } else {
            jobs.send(job).await.err().map(|refused| refused.0)
        };
        if let Some(job) = refused {
            self.hand_back(&job.tag, &job.source, &job.message).await;
        }
    }
}
