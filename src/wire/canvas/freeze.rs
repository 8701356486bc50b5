//! Freezing: giving everything in a signature the ids that its messages and results will have.

use std::collections::VecDeque;

use serde_json::{Value, json};
use uuid::Uuid;

use super::outcome::{Outcome, Outcomes};
use super::signature::{Kind, Options, Signature, listed};

/// What a signature is part of.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Frame<'f> {
    /// Id to use if it has none.
    pub(super) id: Option<&'f str>,
    /// Group that its result belongs to.
    pub(super) group_id: Option<&'f str>,
    /// Place in the group.
    pub(super) group_index: Option<usize>,
    /// Body of the chord that waits for its result.
    pub(super) chord: Option<&'f Value>,
    /// First task of the workflow.
    pub(super) root_id: Option<&'f str>,
    /// The task before it.
    pub(super) parent_id: Option<&'f str>,
}

/// Options of a chain that are consumed when it is run, instead of being passed to its first task.
const CONSUMED: [&str; 8] = [
    "chord",
    "group_id",
    "group_index",
    "link",
    "link_error",
    "parent_id",
    "root_id",
    "task_id",
];

impl Outcomes {
    /// Freezes a signature. Ids that it has stay, so that a repeated run publishes the same ones.
    pub(super) fn freeze(&mut self, signature: &mut Signature, frame: Frame<'_>) -> Outcome {
        match &signature.kind {
            Kind::Task | Kind::Chunks => self.freeze_task(signature, frame),
            Kind::Group(_) => self.freeze_group(signature, frame),
            Kind::Chain(_) => self.freeze_chain(signature, frame),
            Kind::Chord { .. } => self.freeze_chord(signature, frame),
        }
    }

    fn freeze_task(&mut self, task: &mut Signature, frame: Frame<'_>) -> Outcome {
        let id = own_id(task, frame.id);
        for (name, value) in [("root_id", frame.root_id), ("parent_id", frame.parent_id)] {
            if let Some(value) = value {
                task.options.insert(name.into(), json!(value));
            }
        }
        if let Some(group_id) = frame.group_id
            && !task.options.contains_key("group_id")
        {
            task.options.insert("group_id".into(), json!(group_id));
        }
        if let Some(chord) = frame.chord {
            task.options.insert("chord".into(), chord.clone());
        }
        if let Some(index) = frame.group_index {
            task.options.insert("group_index".into(), json!(index));
        }
        self.of_task(&id)
    }

    /// Freezes a group and makes groups in it part of it.
    pub(super) fn freeze_group(&mut self, group: &mut Signature, frame: Frame<'_>) -> Outcome {
        let id = own_id(group, None);
        for (name, value) in [
            ("group_id", frame.group_id.map(Value::from)),
            ("chord", frame.chord.cloned()),
        ] {
            if let Some(value) = value {
                group.options.insert(name.into(), value);
            }
        }
        if let Some(index) = frame.group_index {
            group.options.insert("group_index".into(), json!(index));
        }
        for (name, value) in [("root_id", frame.root_id), ("parent_id", frame.parent_id)] {
            if let Some(value) = value
                && group.option(name).is_none()
            {
                group.options.insert(name.into(), json!(value));
            }
        }
        let (root_id, parent_id) = (owned(group.text("root_id")), owned(group.text("parent_id")));
        let Kind::Group(tasks) = &mut group.kind else {
            return self.of_group(&id, Vec::new());
        };
        let mut waiting: VecDeque<Signature> = std::mem::take(tasks).into();
        let mut members = Vec::new();
        while let Some(mut task) = waiting.pop_front() {
            match task.kind {
                // Celery's order: `deque.extendleft` turns the members of an inner group round.
                Kind::Group(inner) => inner.into_iter().for_each(|task| waiting.push_front(task)),
                Kind::Chain(steps) if steps.is_empty() => {}
                _ => {
                    members.push(self.freeze(
                        &mut task,
                        Frame {
                            id: None,
                            group_id: frame.group_id,
                            group_index: Some(tasks.len()),
                            chord: frame.chord,
                            root_id: root_id.as_deref(),
                            parent_id: parent_id.as_deref(),
                        },
                    ));
                    tasks.push(task);
                }
            }
        }
        self.of_group(&id, members)
    }

    fn freeze_chain(&mut self, chain: &mut Signature, frame: Frame<'_>) -> Outcome {
        let Kind::Chain(tasks) = &mut chain.kind else {
            return self.of_task("");
        };
        let (mut steps, outcome) = self.steps(std::mem::take(tasks), &[], &[], frame, false);
        steps.reverse();
        *tasks = steps;
        match outcome {
            Some(outcome) => {
                let id = self.id(outcome).to_owned();
                chain.options.insert("task_id".into(), json!(id));
                outcome
            }
            None => self.of_task(&own_id(chain, frame.id)),
        }
    }

    fn freeze_chord(&mut self, chord: &mut Signature, frame: Frame<'_>) -> Outcome {
        let header_id = owned(chord.text("task_id"));
        let Kind::Chord { header, body } = &mut chord.kind else {
            return self.of_task("");
        };
        let body_outcome = self.freeze(
            body,
            Frame {
                parent_id: None,
                ..frame
            },
        );
        // The header's tasks get the body when they are published: written down here as well, the messages of
        // nested chords would double with each level.
        let mut group = Signature::group(std::mem::take(header));
        let group_frame = Frame {
            root_id: frame.root_id,
            parent_id: frame.parent_id,
            ..Frame::default()
        };
        if let Some(id) = header_id {
            group.options.insert("task_id".into(), json!(id));
        }
        let header_outcome = self.freeze_group(&mut group, group_frame);
        if let Kind::Group(tasks) = group.kind {
            *header = tasks;
        }
        let id = self.id(header_outcome).to_owned();
        chord.options.insert("task_id".into(), json!(id));
        let first = self.first(body_outcome);
        self.set_parent(first, Some(header_outcome));
        body_outcome
    }

    /// Celery's `prepare_steps`: the tasks of a chain, the last one first, with groups in its middle made
    /// chords; and the result of the last one. `executing` says that they are about to be published.
    pub(super) fn steps(
        &mut self,
        tasks: Vec<Signature>,
        args: &[Value],
        errbacks: &[Value],
        frame: Frame<'_>,
        executing: bool,
    ) -> (Vec<Signature>, Option<Outcome>) {
        let mut waiting = led_by_a_task(tasks);
        let mut steps: Vec<Signature> = Vec::new();
        let mut outcomes: Vec<Outcome> = Vec::new();
        // What the result of the step before is linked to.
        let mut before: Option<Outcome> = None;
        let mut frozen = 0_usize;
        while let Some(task) = waiting.pop_back() {
            let is_first = waiting.is_empty();
            let mut task = task.unrolled();
            if task.is_empty_group() && (!is_first || !steps.is_empty()) {
                continue;
            }
            if executing && is_chord_before_a_chain(&task) {
                waiting.extend(task.split_body());
                continue;
            }
            if is_first {
                task.prepend(args);
            }
            if let Kind::Chain(inner) = task.kind {
                waiting.extend(inner);
                continue;
            }
            if matches!(task.kind, Kind::Group(_))
                && let (Some(body), Some(body_outcome)) = (steps.pop(), outcomes.pop())
            {
                task = upgraded(task, body, frame.root_id);
                before = self.unlinked(outcomes.last().copied(), body_outcome);
            }
            let outcome = if frozen == 0 {
                self.freeze(
                    &mut task,
                    Frame {
                        parent_id: None,
                        ..frame
                    },
                )
            } else {
                let root_only = Frame {
                    root_id: frame.root_id,
                    ..Frame::default()
                };
                self.freeze(&mut task, root_only)
            };
            frozen += 1;
            if let Some(before) = before
                && self.parent(before).is_none()
            {
                self.set_parent(before, Some(outcome));
            }
            for errback in errbacks {
                task.link_error(errback);
            }
            before = Some(match task.kind {
                // The body may be a chain, whose beginning follows the header.
                Kind::Chord { .. } => self.first(outcome),
                _ => outcome,
            });
            steps.push(task);
            outcomes.push(outcome);
        }
        (steps, outcomes.first().copied())
    }

    /// What of the steps behind is to be linked to a chord, once its body's own result no longer is in between.
    fn unlinked(&mut self, last: Option<Outcome>, body: Outcome) -> Option<Outcome> {
        let mut node = last?;
        while let Some(parent) = self.parent(node) {
            if parent == body {
                self.set_parent(node, None);
                return Some(node);
            }
            node = parent;
        }
        last
    }
}

impl Signature {
    /// A chord and what follows the first step of its body, which is a chain. The body is written into every
    /// task of the header: it should not hold the rest of the chain.
    fn split_body(self) -> Vec<Self> {
        let Kind::Chord { header, body } = self.kind else {
            return vec![self];
        };
        let passed_on: Options = body
            .options
            .iter()
            .filter(|(name, _)| !CONSUMED.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let mut steps = body.unchained();
        let rest = steps.split_off(1.min(steps.len()));
        let Some(mut first) = steps.pop() else {
            return rest;
        };
        first.merge(&[], passed_on);
        let chord = Self {
            kind: Kind::Chord {
                header,
                body: Box::new(first),
            },
            ..self
        };
        std::iter::once(chord).chain(rest).collect()
    }

    /// The tasks of a chain, with its callbacks at the last of them and its errbacks at each.
    fn unchained(self) -> Vec<Self> {
        let (links, errbacks) = (self.list("link"), self.list("link_error"));
        let Kind::Chain(mut tasks) = self.kind else {
            return vec![self];
        };
        if let Some(last) = tasks.last_mut() {
            links.iter().for_each(|link| last.link(link));
        }
        for task in &mut tasks {
            errbacks.iter().for_each(|errback| task.link_error(errback));
        }
        tasks
    }

    /// Splits chords in a chain whose bodies are chains.
    pub(super) fn split_chords(&mut self) {
        let Kind::Chain(tasks) = &mut self.kind else {
            return;
        };
        let mut waiting: VecDeque<Self> = std::mem::take(tasks).into();
        while let Some(mut task) = waiting.pop_front() {
            task.split_chords();
            if is_chord_before_a_chain(&task) {
                task.split_body()
                    .into_iter()
                    .rev()
                    .for_each(|task| waiting.push_front(task));
            } else {
                tasks.push(task);
            }
        }
    }
}

/// Nested chains at the beginning spliced in, and empty groups there left out unless nothing else is there.
fn led_by_a_task(tasks: Vec<Signature>) -> VecDeque<Signature> {
    let mut waiting: VecDeque<Signature> = tasks.into();
    let mut left_out = None;
    while let Some(head) = waiting.pop_front() {
        match head.unrolled() {
            Signature {
                kind: Kind::Chain(inner),
                ..
            } => inner.into_iter().rev().for_each(|task| waiting.push_front(task)),
            empty if empty.is_empty_group() && !waiting.is_empty() => left_out = Some(empty),
            head => {
                waiting.push_front(head);
                return waiting;
            }
        }
    }
    waiting.extend(left_out);
    waiting
}

/// A group followed by a task is a chord.
fn upgraded(group: Signature, body: Signature, root_id: Option<&str>) -> Signature {
    let Kind::Group(header) = group.kind else {
        return group;
    };
    let body = Box::new(body);
    let mut chord = Signature::new("celery.chord", Kind::Chord { header, body });
    chord.kwargs.insert("kwargs".into(), json!({}));
    if let Some(id) = root_id {
        chord.options.insert("root_id".into(), json!(id));
    }
    chord
}

fn is_chord_before_a_chain(task: &Signature) -> bool {
    let Kind::Chord { body, .. } = &task.kind else {
        return false;
    };
    matches!(&body.kind, Kind::Chain(steps)
        if steps.first().is_some_and(|first| !matches!(first.kind, Kind::Group(_))))
}

/// The id of a signature, given to it if it has none.
fn own_id(signature: &mut Signature, given: Option<&str>) -> String {
    if let Some(id) = signature.text("task_id") {
        return id.to_owned();
    }
    let id = given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
    signature.options.insert("task_id".into(), json!(id));
    id
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

/// Lists in the order of both, without what is in the first already.
pub(super) fn joined(first: Option<&Value>, second: &[Value]) -> Vec<Value> {
    let mut all = listed(first);
    all.extend(second.iter().cloned());
    all
}
