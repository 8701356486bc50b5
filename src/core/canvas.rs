//! Canvas: what is published after a task, from the signatures embedded in its message.
//!
//! Known so far are callbacks (`link`), errbacks (`link_error`) and chains, each of plain tasks, and members
//! of a group. A message that needs more after it ran (a chord part, a next step that is itself a group or a
//! chord) is recognised by [`beyond_us`] before it is run, and left to the Python workers on the queue:
//! running it and dropping the rest would break the workflow in silence.

mod signature;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use self::signature::{Publisher, Signature};
use crate::core::wire::body::Body;
use crate::core::wire::envelope::Envelope;
use crate::core::wire::result;

/// A message that follows from a task.
#[derive(Debug, PartialEq)]
pub struct Successor {
    /// Destination.
    pub queue: String,
    /// The message.
    pub message: Envelope,
}

/// Who publishes the successors.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The task that ended.
    pub message: &'a Envelope,
    /// Its decoded body.
    pub body: &'a Body,
    /// `gen<pid>@<host>` of this worker.
    pub origin: &'a str,
    /// Where signatures without a queue go.
    pub default_queue: &'a str,
    /// The present.
    pub now: DateTime<Utc>,
}

impl Context<'_> {
    fn publisher(&self) -> Publisher<'_> {
        Publisher {
            parent: self.message,
            origin: self.origin,
            default_queue: self.default_queue,
            now: self.now,
        }
    }
}

/// Why this worker cannot carry a message's workflow on, if so.
#[must_use]
pub fn beyond_us(body: &Body) -> Option<&'static str> {
    if body.embed.get("chord").is_some_and(|chord| !chord.is_null()) {
        return Some("it is part of a chord");
    }
    if body
        .embedded("chain")
        .last()
        .is_some_and(|next| Signature::plain(next).is_none())
    {
        return Some("its chain goes on with a group, a chord or another composite");
    }
    let linked = body.embedded("callbacks").iter().chain(body.embedded("errbacks"));
    if linked.into_iter().any(|sig| Signature::plain(sig).is_none()) {
        return Some("a callback of it is a group, a chord or another composite");
    }
    None
}

/// Messages to publish after a success, in Celery's order: callbacks, then the next of the chain.
///
/// Several callbacks form an anonymous group. Ids come from the signatures, so that a repeated run
/// publishes the same ids.
#[must_use]
pub fn after_success(context: Context<'_>, result: &Value) -> Vec<Successor> {
    let callbacks: Vec<Signature> = context
        .body
        .embedded("callbacks")
        .iter()
        .filter_map(Signature::plain)
        .collect();
    let several = callbacks.len() > 1;
    let group_id = Uuid::new_v4().to_string();
    let mut successors: Vec<Successor> = callbacks
        .into_iter()
        .enumerate()
        .map(|(index, sig)| {
            let sig = sig.with_first(result);
            publish(
                if several {
                    sig.in_group(&group_id, index)
                } else {
                    sig
                },
                context,
            )
        })
        .collect();
    if let Some((next, rest)) = context.body.embedded("chain").split_last()
        && let Some(sig) = Signature::plain(next)
    {
        successors.push(publish(sig.with_first(result).with_chain(rest), context));
    }
    successors
}

/// What follows as a result document lists it: each successor is a child, and callbacks that were made a group
/// are one child together.
#[must_use]
pub fn children(successors: &[Successor]) -> Vec<Value> {
    let group = |one: &Successor| one.message.text("group").map(str::to_owned);
    let child = |one: &Successor| result::child(one.message.id());
    successors
        .chunk_by(|one, next| group(one).is_some() && group(one) == group(next))
        .map(|together| match together {
            [one] => child(one),
            members => {
                let results: Vec<Value> = members.iter().map(child).collect();
                json!([[group(&members[0]), null], results])
            }
        })
        .collect()
}

/// Messages to publish after a failure: the errbacks in their old form, called with the failed task's id,
/// which is how a worker calls an errback that it does not run itself.
#[must_use]
pub fn after_failure(context: Context<'_>) -> Vec<Successor> {
    let group_id = Uuid::new_v4().to_string();
    let failed = json!(context.message.id());
    context
        .body
        .embedded("errbacks")
        .iter()
        .filter_map(Signature::plain)
        .enumerate()
        .map(|(index, sig)| publish(sig.with_first(&failed).in_group(&group_id, index), context))
        .collect()
}

/// Ids of the chain's tasks that will never run once this one has failed; each is given the same failure, so
/// that nobody waits for the end of the chain.
#[must_use]
pub fn abandoned(body: &Body) -> Vec<&str> {
    body.embedded("chain")
        .iter()
        .filter_map(|sig| sig.get("options")?.get("task_id")?.as_str())
        .collect()
}

fn publish(sig: Signature, context: Context<'_>) -> Successor {
    let (queue, message) = sig.into_message(context.publisher());
    Successor { queue, message }
}

#[cfg(test)]
#[path = "canvas/tests.rs"]
mod tests;
