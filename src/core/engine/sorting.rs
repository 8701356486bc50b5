//! Sorting: deciding what to do with a claimed message.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tracing::warn;

use super::pool::Slot;
use super::received::{Received, Unusable};
use super::starting::Starter;
use super::{Engine, Phase, Revocation, TaskType};
use crate::transport::Claimed;
use tradebot_wire::canvas::{self, SuccessorPlan};
use tradebot_wire::result::Exception;

/// What to do with a message.
enum Verdict {
    Run(Arc<TaskType>),
    WaitUntil(Arc<TaskType>, DateTime<Utc>),
    Revoked(Revocation),
    LeaveToOthers(&'static str),
    /// Its client is told the reason, and an operator finds the message among the parked ones.
    Refuse(String),
}

impl Starter {
    /// Decides what to do with a claimed message, and does it.
    pub(super) async fn sort(&self, claimed: Claimed, slot: Slot) {
        let engine = Arc::clone(&self.engine);
        let mut received = match Received::read(claimed) {
            Ok(received) => received,
            Err(unusable) => {
                self.engine.track(async move {
                    match *unusable {
                        Unusable::NoTask(claimed, reason) => {
                            engine.settlement.park(&claimed, &reason.to_string()).await;
                        }
                        Unusable::Body(claimed, message, reason) => {
                            let failed = (reason.exception(), reason.to_string());
                            engine.settlement.refuse(&claimed, &message, failed).await;
                        }
                    }
                    drop(slot);
                });
                return;
            }
        };
        match judge(&engine, &received) {
            Verdict::Run(task) => {
                let limited = task.rate().is_limited();
                enter(&engine, &mut received, task, None);
                engine.events.received(&received.message);
                if limited {
                    drop(slot);
                    engine.track(self.clone().wait_for_turn(received));
                } else if received.message.redelivered() {
                    engine.track(self.clone().start_again(received, slot));
                } else {
                    self.send(received, slot).await;
                }
            }
            Verdict::WaitUntil(task, eta) => {
                drop(slot);
                enter(&engine, &mut received, task, Some(eta));
                engine.events.received(&received.message);
                let held = engine.etas.hold();
                self.engine.track(self.clone().wait_for_eta(received, eta, held));
            }
            Verdict::Revoked(why) => self.engine.track(async move {
                let (tag, message) = (&received.claimed.tag, &received.message);
                engine
                    .settlement
                    .settle_revoked(tag, message, why, &SuccessorPlan::default())
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
                engine.left_out.add(&received.message);
                self.engine.track(async move {
                    let Claimed { tag, source, .. } = &received.claimed;
                    engine.settlement.hand_back(tag, source, &received.message).await;
                    drop(slot);
                });
            }
            Verdict::Refuse(reason) => self.engine.track(async move {
                let exception = Exception::new(
                    "celery.exceptions",
                    "InvalidTaskError",
                    vec![reason.as_str().into()],
                );
                let (claimed, message) = (&received.claimed, &received.message);
                engine
                    .settlement
                    .refuse(claimed, message, (exception, reason))
                    .await;
                drop(slot);
            }),
        }
    }
}

fn judge(engine: &Engine, received: &Received) -> Verdict {
    let message = &received.message;
    let Some(task) = engine.types.get(message.task()) else {
        return Verdict::LeaveToOthers("its task is not one of ours");
    };
    if let Some(why) = canvas::beyond_us(&received.body) {
        return Verdict::LeaveToOthers(why);
    }
    if !maps_ours(engine, received) {
        return Verdict::LeaveToOthers("it maps a task that is not one of ours");
    }
    let (eta, expires) = match (message.eta(), message.expires()) {
        (Ok(eta), Ok(expires)) => (eta, expires),
        (Err(reason), _) | (_, Err(reason)) => return Verdict::Refuse(reason.to_string()),
    };
    let now = engine.clock.now();
    if expires.is_some_and(|expires| now >= expires) {
        return Verdict::Revoked(Revocation::EXPIRED);
    }
    if engine.revocations.contains(message) {
        return Verdict::Revoked(Revocation::REVOKED);
    }
    match eta {
        Some(eta) if eta > now => Verdict::WaitUntil(Arc::clone(task), eta),
        _ => Verdict::Run(Arc::clone(task)),
    }
}

/// Whether the task that `celery.map` or `celery.starmap` applies is one of ours; true for all other tasks.
fn maps_ours(engine: &Engine, received: &Received) -> bool {
    if !matches!(received.message.task(), "celery.map" | "celery.starmap") {
        return true;
    }
    let body = &received.body;
    let mapped = body.kwargs.get("task").or(body.args.first());
    let name = mapped
        .and_then(|mapped| mapped.get("task"))
        .and_then(Value::as_str);
    name.is_some_and(|name| engine.types.contains_key(name))
}

/// Enters a message that will run into the requests, which keep its bytes from now on.
fn enter(engine: &Engine, received: &mut Received, task: Arc<TaskType>, eta: Option<DateTime<Utc>>) {
    let raw = std::mem::take(&mut received.claimed.raw);
    let ignore_result = task.policy().and_then(|policy| policy.ignore_result);
    if let Some(ignored) = ignore_result
        && received.message.ignore_result().is_none()
    {
        received.message.set_header("ignore_result", ignored.into());
    }
    let phase = if eta.is_some() {
        Phase::Scheduled
    } else {
        Phase::Reserved
    };
    let ticket = engine
        .requests
        .enter(task, received.message.id(), raw, eta, phase);
    received.ticket = Some(ticket);
}
