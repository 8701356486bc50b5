//! Sending signatures: from a program, from within a task, in a task's place, and into the chord of a task.

use serde_json::{Value, json};
use thiserror::Error;

use super::apply::CanvasPublisher;
use super::freeze::Frame;
use super::result_tree::{Ids, ResultTree};
use super::signature::{CallOptions, Signature, SubtaskType};
use super::{CanvasContext, Preparation, SuccessorPlan};
use crate::body::Body;
use crate::envelope::Envelope;

/// A signature that was sent.
#[derive(Debug)]
pub struct Sending {
    /// The id of its result: of the task, of a chain's last task, of a chord's body, or of a group.
    pub id: String,
    /// Its result as `AsyncResult.as_tuple` writes it: `[[id, parent], members]`. A task that returns it returns the
    /// result to Python.
    pub result: Value,
    /// What to write and publish.
    pub plan: SuccessorPlan,
}

/// Why a signature cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// An empty chain.
    #[error("the chain is empty: add a task to it")]
    Empty,
    /// An empty chain in a task's place; Celery's words.
    #[error("Cannot replace with an empty chain")]
    EmptyReplacement,
    /// It must go through an exchange.
    #[error("the signature names an exchange, and only queues are known here: set the option `queue`")]
    Exchange,
    /// A replacement that belongs to a chord; Celery's words.
    #[error("A signature replacing a task must not be part of a chord")]
    PartOfAChord,
    /// There is no chord to extend; Celery's words.
    #[error("Current task is not member of any chord")]
    NoChord,
}

/// Sends a signature; its result becomes a child of the task in the context.
///
/// # Errors
/// [`SendError::Empty`] and [`SendError::Exchange`].
pub fn send(context: CanvasContext<'_>, ids: Ids, signature: Signature) -> Result<Sending, SendError> {
    if matches!(&signature.kind, SubtaskType::Chain(steps) if steps.is_empty()) {
        return Err(SendError::Empty);
    }
    if super::any_needs_an_exchange(&signature) {
        return Err(SendError::Exchange);
    }
    let mut publisher = CanvasPublisher::with_ids(context, ids);
    let result = publisher.apply(signature, &[], CallOptions::new(), true);
    Ok(publisher.sent(result))
}

/// Sends a signature in the place of a task, with the task's id and all that follows it. The task's own result must not be
/// stored.
///
/// # Errors
/// [`SendError`].
pub fn replace(
    (context, mut ids): (CanvasContext<'_>, Ids),
    message: &Envelope,
    body: &Body,
    mut signature: Signature,
) -> Result<Sending, SendError> {
    if signature.options.contains_key("chord") {
        return Err(SendError::PartOfAChord);
    }
    match &mut signature.kind {
        SubtaskType::Chain(steps) => match steps.pop() {
            None => return Err(SendError::EmptyReplacement),
            Some(last) => steps.push(last.collected()),
        },
        _ => signature = signature.collected(),
    }
    for callback in body.embedded("callbacks") {
        signature.link(callback);
    }
    for errback in body.embedded("errbacks") {
        signature.link_error(errback);
    }
    // The rest of the task's chain may follow: the callbacks belong to the last task.
    let links = signature.list("link");
    if let SubtaskType::Chain(steps) = &mut signature.kind
        && let Some(last) = steps.last_mut()
        && !links.is_empty()
    {
        links.iter().for_each(|link| last.append("link", link));
        signature.options.shift_remove("link");
    }
    let frame = Frame {
        id: Some(message.id()),
        ..Frame::default()
    };
    ids = ResultTree::new(ids).frozen(&mut signature, frame);
    let nesting = message.header("replaced_task_nesting");
    let nesting = json!(nesting.and_then(|nesting| nesting.as_u64()).unwrap_or(0) + 1);
    let header = |name: &str| message.header(name).unwrap_or_default();
    let chord = body.embed.get("chord").cloned().unwrap_or_default();
    for (name, value) in [
        ("chord", chord),
        ("group_id", header("group")),
        ("group_index", header("group_index")),
        ("root_id", header("root_id")),
        ("replaced_task_nesting", nesting.clone()),
    ] {
        signature.options.insert(name.into(), value);
    }
    if let SubtaskType::Chain(steps) = &mut signature.kind {
        for step in steps {
            step.options
                .insert("replaced_task_nesting".into(), nesting.clone());
        }
    }
    let rest = body.embedded("chain").iter().rev().filter_map(Signature::read);
    let whole = rest.fold(signature, |whole, mut step| {
        step.options
            .insert("replaced_task_nesting".into(), nesting.clone());
        whole.then(step)
    });
    send(context, ids, whole)
}

/// Sends a signature as one more member of the chord that `message` is a member of.
///
/// # Errors
/// [`SendError`].
pub fn add_to_chord(
    (context, mut ids): (CanvasContext<'_>, Ids),
    message: &Envelope,
    body: &Body,
    mut signature: Signature,
) -> Result<Sending, SendError> {
    let chord = body.embed.get("chord").filter(|chord| !chord.is_null());
    let (Some(chord), Some(group)) = (chord, message.text("group")) else {
        return Err(SendError::NoChord);
    };
    let header = |name: &str| message.header(name).unwrap_or_default();
    for (name, value) in [
        ("group_id", json!(group)),
        ("group_index", header("group_index")),
        ("chord", chord.clone()),
        ("root_id", header("root_id")),
    ] {
        signature.options.insert(name.into(), value);
    }
    ids = ResultTree::new(ids).frozen(&mut signature, Frame::default());
    let mut sending = send(context, ids, signature)?;
    let grown = Preparation::ChordGrows {
        group: group.to_owned(),
        by: format!("{}:{}", message.id(), message.publisher_tag().unwrap_or_default()),
        members: 1,
    };
    sending.plan.preparations.push(grown);
    Ok(sending)
}

impl ResultTree {
    /// Freezes a signature, and returns where further ids come from.
    fn frozen(mut self, signature: &mut Signature, frame: Frame<'_>) -> Ids {
        self.freeze(signature, frame);
        self.ids
    }
}

impl Signature {
    /// A group gets a body, to which others can be linked.
    fn collected(self) -> Self {
        match self.kind {
            SubtaskType::Group(_) => self.then(Self::first_of_its_arguments()),
            _ => self,
        }
    }
}
