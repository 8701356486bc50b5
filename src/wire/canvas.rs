//! Canvas: what is published after a task, from the signatures embedded in its message.
//!
//! Celery does this work in the worker: the next step of a chain, a callback or the body of a chord may be a
//! group, a chord or a chain itself, and is taken apart by whoever has just finished what comes before. The
//! parts: `signature` reads and writes signatures, `freeze` gives ids to everything in one, `apply` says
//! what applying one publishes, and `chord` what becomes of the results that a chord waits for. Nothing here
//! touches Redis; the engine carries a [`Plan`] out.
//!
//! Where releases of Celery differ, the newest one is followed: 5.7 splits chords whose body is a chain, and
//! does not repeat a chord's body in the tasks of a header that is not due yet. Workers from 5.2 on read both.
//!
//! Left to the Python workers on the queue, before anything is run ([`beyond_us`]): signatures of a kind that
//! is not Celery's own, and such that go through an exchange which is no queue's own.

mod apply;
mod chord;
mod freeze;
mod message;
mod outcome;
mod signature;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use self::apply::Publisher;
use self::signature::{Kind, Options, Signature};
use crate::body::Body;
use crate::envelope::Envelope;
use crate::result;

pub use chord::{Abandoned, Joined, Part, abandoned, abandoned_body, join, missing, part_of_document};

/// A message that follows from a task.
#[derive(Debug, PartialEq)]
pub struct Successor {
    /// Destination.
    pub queue: String,
    /// The message.
    pub message: Envelope,
}

/// What is to be written to the result backend before successors are published.
#[derive(Debug, PartialEq)]
pub enum Preparation {
    /// How many results a chord waits for.
    ChordSize {
        /// The header's group.
        group: String,
        /// The number.
        size: usize,
    },
    /// The result of a header with groups in it, as a saved `GroupResult`.
    SavedGroup {
        /// The group.
        group: String,
        /// `[[id, parent], members]`.
        result: Value,
    },
}

/// What follows from a task.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// To be written first.
    pub preparations: Vec<Preparation>,
    /// To be published.
    pub successors: Vec<Successor>,
    /// The successors as the task's result lists them.
    pub children: Vec<Value>,
}

impl Plan {
    /// Adds what follows from something else.
    pub fn extend(&mut self, other: Self) {
        self.preparations.extend(other.preparations);
        self.successors.extend(other.successors);
        self.children.extend(other.children);
    }

    /// One message, which is the task's child.
    #[must_use]
    pub fn of(next: Successor) -> Self {
        Self {
            preparations: Vec::new(),
            children: vec![result::child(next.message.id())],
            successors: vec![next],
        }
    }
}

/// Who publishes the successors.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The task that ended.
    pub task_id: &'a str,
    /// First task of its workflow, if it is another one.
    pub root: Option<&'a str>,
    /// `gen<pid>@<host>` of this worker.
    pub origin: &'a str,
    /// Where signatures without a queue go.
    pub default_queue: &'a str,
    /// The present.
    pub now: DateTime<Utc>,
}

impl Context<'_> {
    fn root_id(&self) -> &str {
        self.root.unwrap_or(self.task_id)
    }

    /// Parent and root of what the task publishes.
    fn lineage(&self) -> Options {
        Options::from_iter([
            ("parent_id".into(), json!(self.task_id)),
            ("root_id".into(), json!(self.root_id())),
        ])
    }
}

/// Why this worker cannot carry a message's workflow on, if so.
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

/// Whether anything that would be published at once needs an exchange.
fn any_needs_an_exchange(signature: &Signature) -> bool {
    let any = |tasks: &[Signature]| tasks.iter().any(any_needs_an_exchange);
    signature.needs_an_exchange()
        || match &signature.kind {
            Kind::Task | Kind::Chunks => false,
            Kind::Chain(tasks) | Kind::Group(tasks) => any(tasks),
            Kind::Chord { header, .. } => any(header),
        }
}

/// What follows a success, in Celery's order: callbacks, then the next of the chain.
///
/// Several callbacks form an anonymous group. Ids come from the signatures, so that a repeated run
/// publishes the same ids.
#[must_use]
pub fn after_success(context: Context<'_>, body: &Body, result: &Value) -> Plan {
    let (callbacks, chain) = (body.embedded("callbacks"), body.embedded("chain"));
    if callbacks.is_empty() && chain.is_empty() {
        return Plan::default();
    }
    let mut publisher = Publisher::new(context);
    let args = std::slice::from_ref(result);
    let callbacks: Vec<Signature> = callbacks.iter().filter_map(Signature::read).collect();
    let several = callbacks.len() > 1;
    let (groups, others): (Vec<Signature>, Vec<Signature>) = callbacks
        .into_iter()
        .partition(|callback| several && matches!(callback.kind, Kind::Group(_)));
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

/// What follows a failure: the errbacks in their old form, called with the failed task's id, which is how a
/// worker calls an errback that it does not run itself.
#[must_use]
pub fn after_failure(context: Context<'_>, errbacks: &[Value]) -> Plan {
    let errbacks: Vec<Signature> = errbacks.iter().filter_map(Signature::read).collect();
    if errbacks.is_empty() {
        return Plan::default();
    }
    let mut publisher = Publisher::new(context);
    let failed = json!(context.task_id);
    publisher.apply(Signature::group(errbacks), &[failed], context.lineage(), true);
    publisher.into_plan()
}

/// What follows a header all of which has succeeded: its body, with the results before its arguments.
#[must_use]
pub fn after_header(context: Context<'_>, body: &Value, results: Vec<Value>) -> Plan {
    let mut publisher = Publisher::new(context);
    if let Some(body) = Signature::read(body) {
        publisher.apply(body, &[Value::Array(results)], Options::new(), false);
    }
    publisher.into_plan()
}

/// Errbacks of a chord's body: ids of the tasks that have failed with the signatures to call for each.
#[must_use]
pub fn errbacks_of_body(body: &Value) -> Vec<(String, Vec<Value>)> {
    let Some(body) = Signature::read(body) else {
        return Vec::new();
    };
    let of = |signature: &Signature, more: &[Value]| {
        let mut errbacks = signature.list("link_error");
        for errback in more {
            if !errbacks.contains(errback) {
                errbacks.push(errback.clone());
            }
        }
        let id = signature.text("task_id").unwrap_or_default().to_owned();
        (id, errbacks)
    };
    match &body.kind {
        Kind::Group(members) => {
            let shared = body.list("link_error");
            members.iter().map(|member| of(member, &shared)).collect()
        }
        _ => vec![of(&body, &[])],
    }
}

#[cfg(test)]
#[path = "canvas/tests.rs"]
mod tests;
