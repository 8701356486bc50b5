//! Canvas: the messages that follow a task, from the signatures embedded in its message.
//!
//! In Celery this is the worker's job. The next step of a chain, a callback or the body of a chord may itself be a
//! group, a chord or a chain; the worker that finishes the task before it expands it. `signature` reads and writes
//! signatures, `freeze` assigns ids to everything in one, `apply` determines the messages to publish, and `chord`
//! joins the results that a chord waits for. Nothing here does I/O; the engine carries out a [`SuccessorPlan`].
//!
//! Where releases of Celery differ, this follows the newest: 5.7 splits chords whose body is a chain, and does not
//! repeat a chord's body in the tasks of a header that is not due yet. Workers from 5.2 on read both forms.
//!
//! Two kinds of signature are left to the Python workers on the queue ([`beyond_us`]): those with a `subtask_type`
//! that is not Celery's, and those for an exchange that is not bound to one queue alone.

mod apply;
mod chord;
mod compose;
mod freeze;
mod message;
mod result_tree;
mod send;
mod signature;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use self::apply::CanvasPublisher;
use self::signature::{CallOptions, SubtaskType};
use crate::body::Body;
use crate::envelope::Envelope;
use crate::result;

pub use chord::{Abandoned, ChordPart, Joined, abandoned, abandoned_body, join, missing, part_of_document};
pub use result_tree::Ids;
pub use send::{SendError, Sending, add_to_chord, replace, send};
pub use signature::Signature;

/// A message to publish after a task.
#[derive(Debug, PartialEq)]
pub struct Successor {
    /// Destination queue.
    pub queue: String,
    /// The message.
    pub message: Envelope,
}

/// A write to the result backend that must precede the publishing of successors.
#[derive(Debug, PartialEq)]
pub enum Preparation {
    /// The number of results a chord waits for.
    ChordSize {
        /// Group id of the header.
        group: String,
        /// Number of results.
        size: usize,
    },
    /// The saved `GroupResult` of a header that contains groups.
    SavedGroup {
        /// Group id.
        group: String,
        /// `[[id, parent], members]`.
        result: Value,
    },
    /// A task adds members to the chord that it is a member of.
    ChordGrows {
        /// Group id of the header.
        group: String,
        /// The task and its try. If it runs again, the members that it added before count no more.
        by: String,
        /// How many members it adds.
        members: usize,
    },
}

/// Everything to write and publish after a task.
#[derive(Debug, Default, PartialEq)]
pub struct SuccessorPlan {
    /// Writes that come first.
    pub preparations: Vec<Preparation>,
    /// Messages to publish.
    pub successors: Vec<Successor>,
    /// The children to list in the task's result.
    pub children: Vec<Value>,
}

impl SuccessorPlan {
    /// Appends another plan.
    pub fn extend(&mut self, other: Self) {
        for preparation in other.preparations {
            if let Preparation::ChordGrows { members: more, .. } = preparation
                && let Some(Preparation::ChordGrows { members, .. }) = self.growth()
            {
                *members += more;
            } else {
                self.preparations.push(preparation);
            }
        }
        self.successors.extend(other.successors);
        self.children.extend(other.children);
    }

    /// The growth of the task's own chord; a task is a member of one.
    fn growth(&mut self) -> Option<&mut Preparation> {
        let grows = |preparation: &&mut Preparation| matches!(preparation, Preparation::ChordGrows { .. });
        self.preparations.iter_mut().find(grows)
    }

    /// The plan without children: Celery stores a failure before it calls the errbacks.
    #[must_use]
    pub fn without_children(mut self) -> Self {
        self.children.clear();
        self
    }

    /// A plan of one message, the task's only child.
    #[must_use]
    pub fn of(next: Successor) -> Self {
        Self {
            preparations: Vec::new(),
            children: vec![result::child(next.message.id())],
            successors: vec![next],
        }
    }
}

/// The task that publishes the successors, and the worker that runs it.
#[derive(Debug, Clone, Copy)]
pub struct CanvasContext<'a> {
    /// The task that ended or runs; empty for a program that is no worker.
    pub task_id: &'a str,
    /// First task of its workflow, if that is another task.
    pub root: Option<&'a str>,
    /// `gen<pid>@<host>` of this worker.
    pub origin: &'a str,
    /// Queue of signatures that name none.
    pub default_queue: &'a str,
    /// The current time.
    pub now: DateTime<Utc>,
}

impl CanvasContext<'_> {
    fn root_id(&self) -> &str {
        self.root.unwrap_or(self.task_id)
    }

    /// The parent and root ids for what the task publishes.
    fn lineage(&self) -> CallOptions {
        CallOptions::from_iter([
            ("parent_id".into(), json!(self.task_id)),
            ("root_id".into(), json!(self.root_id())),
        ])
    }
}

/// Why this worker cannot continue a message's workflow; `None` if it can.
#[must_use]
pub fn beyond_us(body: &Body) -> Option<&'static str> {
    let chord = body.embed.get("chord").filter(|chord| !chord.is_null());
    let next = body.embedded("chain").last();
    let linked = body.embedded("callbacks").iter().chain(body.embedded("errbacks"));
    for value in linked.chain(chord).chain(next) {
        match Signature::read(value) {
            None => return Some("what follows it is of an unknown kind"),
            Some(signature) if any_needs_an_exchange(&signature) => {
                return Some("what follows it goes through an exchange");
            }
            Some(_) => {}
        }
    }
    None
}

/// Whether a message that would be published right away needs an exchange.
fn any_needs_an_exchange(signature: &Signature) -> bool {
    let any = |tasks: &[Signature]| tasks.iter().any(any_needs_an_exchange);
    signature.needs_an_exchange()
        || match &signature.kind {
            SubtaskType::Task | SubtaskType::Chunks => false,
            SubtaskType::Chain(tasks) | SubtaskType::Group(tasks) => any(tasks),
            SubtaskType::Chord { header, .. } => any(header),
        }
}

/// The plan after a success, in Celery's order: callbacks, then the next task of the chain.
///
/// Several callbacks form an anonymous group. Ids come from the signatures, so a repeated run publishes the same ids.
#[must_use]
pub fn after_success(context: CanvasContext<'_>, body: &Body, result: &Value) -> SuccessorPlan {
    let (callbacks, chain) = (body.embedded("callbacks"), body.embedded("chain"));
    if callbacks.is_empty() && chain.is_empty() {
        return SuccessorPlan::default();
    }
    let mut publisher = CanvasPublisher::new(context);
    let args = std::slice::from_ref(result);
    let callbacks: Vec<Signature> = callbacks.iter().filter_map(Signature::read).collect();
    let several = callbacks.len() > 1;
    let (groups, others): (Vec<Signature>, Vec<Signature>) = callbacks
        .into_iter()
        .partition(|callback| several && matches!(callback.kind, SubtaskType::Group(_)));
    for group in groups {
        publisher.apply(group, args, context.lineage(), true);
    }
    let together = if several && !others.is_empty() {
        vec![Signature::group(others)]
    } else {
        others
    };
    for callback in together {
        publisher.apply(callback, args, context.lineage(), true);
    }
    if let Some((next, rest)) = chain.split_last()
        && let Some(next) = Signature::read(next)
    {
        let mut options = context.lineage();
        options.insert("chain".into(), json!(rest));
        publisher.apply(next, args, options, true);
    }
    publisher.into_plan()
}

/// The plan after a failure: the errbacks, called with the failed task's id. This is how Celery calls errbacks that
/// run in another process.
#[must_use]
pub fn after_failure(context: CanvasContext<'_>, errbacks: &[Value]) -> SuccessorPlan {
    let errbacks: Vec<Signature> = errbacks.iter().filter_map(Signature::read).collect();
    if errbacks.is_empty() {
        return SuccessorPlan::default();
    }
    let mut publisher = CanvasPublisher::new(context);
    let failed = json!(context.task_id);
    publisher.apply(Signature::group(errbacks), &[failed], context.lineage(), true);
    publisher.into_plan()
}

/// The plan after a chord's header has succeeded: the body, with the results before its own arguments.
#[must_use]
pub fn after_header(context: CanvasContext<'_>, body: &Value, results: Vec<Value>) -> SuccessorPlan {
    let mut publisher = CanvasPublisher::new(context);
    if let Some(body) = Signature::read(body) {
        publisher.apply(body, &[Value::Array(results)], CallOptions::new(), false);
    }
    publisher.into_plan()
}

/// The errbacks of a chord's body: the ids of the failed tasks, each with the signatures to call.
#[must_use]
pub fn errbacks_of_body(body: &Value) -> Vec<(String, Vec<Value>)> {
    let Some(body) = Signature::read(body) else {
        return Vec::new();
    };
    let of = |signature: &Signature, linked: Vec<Value>| {
        let mut errbacks: Vec<Value> = Vec::new();
        for errback in linked {
            if !errbacks.contains(&errback) {
                errbacks.push(errback);
            }
        }
        let id = signature.text("task_id").unwrap_or_default().to_owned();
        (id, errbacks)
    };
    match &body.kind {
        SubtaskType::Group(members) => {
            let shared = body.list("link_error");
            let of_member =
                |member: &Signature| of(member.result(), [member.errbacks(), shared.clone()].concat());
            members.iter().map(of_member).collect()
        }
        _ => vec![of(&body, body.list("link_error"))],
    }
}

#[cfg(test)]
#[path = "canvas/tests.rs"]
mod tests;
