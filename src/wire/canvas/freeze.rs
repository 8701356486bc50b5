//! Freezing: assigns the ids that the messages and results of a signature will have.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::result_tree::{ResultRef, ResultTree};
use super::signature::{CallOptions, Signature, SubtaskType, listed};

/// The surroundings of a signature.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Frame<'f> {
    /// Id for a signature that has none.
    pub(super) id: Option<&'f str>,
    /// Group of its result.
    pub(super) group_id: Option<&'f str>,
    /// Position in the group.
    pub(super) group_index: Option<usize>,
    /// Body of the chord that waits for its result.
    pub(super) chord: Option<&'f Value>,
    /// First task of the workflow.
    pub(super) root_id: Option<&'f str>,
    /// The task before it.
    pub(super) parent_id: Option<&'f str>,
}

/// Options that apply to a chain itself and are not passed on to its first task.
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

impl ResultTree {
    /// Freezes a signature. It keeps the ids it has, so a repeated run publishes the same ones.
    pub(super) fn freeze(&mut self, signature: &mut Signature, frame: Frame<'_>) -> ResultRef {
        match &signature.kind {
            SubtaskType::Task | SubtaskType::Chunks => self.freeze_task(signature, frame),
            SubtaskType::Group(_) => self.freeze_group(signature, frame),
            SubtaskType::Chain(_) => self.freeze_chain(signature, frame),
            SubtaskType::Chord { .. } => self.freeze_chord(signature, frame),
        }
    }

    fn freeze_task(&mut self, task: &mut Signature, frame: Frame<'_>) -> ResultRef {
        let id = self.own_id(task, frame.id);
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

    /// Freezes a group and splices nested groups into it.
    pub(super) fn freeze_group(&mut self, group: &mut Signature, frame: Frame<'_>) -> ResultRef {
        let id = self.own_id(group, None);
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
                && group.set_option(name).is_none()
            {
                group.options.insert(name.into(), json!(value));
            }
        }
        let (root_id, parent_id) = (owned(group.text("root_id")), owned(group.text("parent_id")));
        let SubtaskType::Group(tasks) = &mut group.kind else {
            return self.of_group(&id, Vec::new());
        };
        let mut waiting: VecDeque<Signature> = std::mem::take(tasks).into();
        let mut members = Vec::new();
        while let Some(mut task) = waiting.pop_front() {
            match task.kind {
                // As in Celery, `deque.extendleft` reverses the members of a nested group.
                SubtaskType::Group(inner) => inner.into_iter().for_each(|task| waiting.push_front(task)),
                SubtaskType::Chain(steps) if steps.is_empty() => {}
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

    fn freeze_chain(&mut self, chain: &mut Signature, frame: Frame<'_>) -> ResultRef {
        let SubtaskType::Chain(tasks) = &mut chain.kind else {
            return self.of_task("");
        };
        let (mut steps, result) = self.steps(std::mem::take(tasks), &[], &[], frame, false);
        steps.reverse();
        *tasks = steps;
        match result {
            Some(result) => {
                let id = self.id(result).to_owned();
                chain.options.insert("task_id".into(), json!(id));
                result
            }
            None => {
                let id = self.own_id(chain, frame.id);
                self.of_task(&id)
            }
        }
    }

    fn freeze_chord(&mut self, chord: &mut Signature, frame: Frame<'_>) -> ResultRef {
        let header_id = owned(chord.text("task_id"));
        let SubtaskType::Chord { header, body } = &mut chord.kind else {
            return self.of_task("");
        };
        let body_result = self.freeze(
            body,
            Frame {
                parent_id: None,
                ..frame
            },
        );
        // The header's tasks get the body when they are published. If they had it here too, messages of nested
        // chords would double in size with each level.
        let mut group = Signature::group(std::mem::take(header));
        let group_frame = Frame {
            root_id: frame.root_id,
            parent_id: frame.parent_id,
            ..Frame::default()
        };
        if let Some(id) = header_id {
            group.options.insert("task_id".into(), json!(id));
        }
        let header_result = self.freeze_group(&mut group, group_frame);
        if let SubtaskType::Group(tasks) = group.kind {
            *header = tasks;
        }
        let id = self.id(header_result).to_owned();
        chord.options.insert("task_id".into(), json!(id));
        let first = self.first(body_result);
        self.set_parent(first, Some(header_result));
        body_result
    }

    /// Celery's `prepare_steps`: returns the tasks of a chain, last one first, and the result of the last one. A group
    /// that is followed by a task becomes a chord. `executing` means the chain is about to be published.
    pub(super) fn steps(
        &mut self,
        tasks: Vec<Signature>,
        args: &[Value],
        errbacks: &[Value],
        frame: Frame<'_>,
        executing: bool,
    ) -> (Vec<Signature>, Option<ResultRef>) {
        let mut waiting = led_by_a_task(tasks);
        let mut steps: Vec<Signature> = Vec::new();
        let mut results: Vec<ResultRef> = Vec::new();
        // The result of the step after this one in the chain, which gets this step's result as its parent.
        let mut before: Option<ResultRef> = None;
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
            if let SubtaskType::Chain(inner) = task.kind {
                waiting.extend(inner);
                continue;
            }
            if matches!(task.kind, SubtaskType::Group(_))
                && let (Some(body), Some(body_result)) = (steps.pop(), results.pop())
            {
                task = upgraded(task, body, frame.root_id);
                before = self.unlinked(results.last().copied(), body_result);
            }
            let result = if frozen == 0 {
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
                self.set_parent(before, Some(result));
            }
            for errback in errbacks {
                task.link_error(errback);
            }
            before = Some(match task.kind {
                // The body may be a chain, whose beginning follows the header.
                SubtaskType::Chord { .. } => self.first(result),
                _ => result,
            });
            steps.push(task);
            results.push(result);
        }
        (steps, results.first().copied())
    }

    /// The id of a signature. A signature without one gets `given` or a new one.
    fn own_id(&mut self, signature: &mut Signature, given: Option<&str>) -> String {
        if let Some(id) = signature.text("task_id") {
            return id.to_owned();
        }
        let id = given.map_or_else(|| self.new_id(), str::to_owned);
        signature.options.insert("task_id".into(), json!(id));
        id
    }

    /// Returns the result to link to a new chord. If the later steps are linked to the chord's body, cuts that link.
    fn unlinked(&mut self, last: Option<ResultRef>, body: ResultRef) -> Option<ResultRef> {
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
    /// Splits a chord whose body is a chain into a chord with the first step as its body, and the other steps. Every
    /// task of the header carries the body, so it should not hold the whole chain.
    fn split_body(self) -> Vec<Self> {
        let SubtaskType::Chord { header, body } = self.kind else {
            return vec![self];
        };
        let passed_on: CallOptions = body
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
            kind: SubtaskType::Chord {
                header,
                body: Box::new(first),
            },
            ..self
        };
        std::iter::once(chord).chain(rest).collect()
    }

    /// The tasks of a chain: the last gets the chain's callbacks, each gets its errbacks.
    pub(super) fn unchained(self) -> Vec<Self> {
        let (links, errbacks) = (self.list("link"), self.list("link_error"));
        let SubtaskType::Chain(mut tasks) = self.kind else {
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

    /// Splits the chords in a chain that have a chain as their body.
    pub(super) fn split_chords(&mut self) {
        let SubtaskType::Chain(tasks) = &mut self.kind else {
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

/// Splices in nested chains at the beginning, and drops empty groups there unless nothing else is left.
fn led_by_a_task(tasks: Vec<Signature>) -> VecDeque<Signature> {
    let mut waiting: VecDeque<Signature> = tasks.into();
    let mut left_out = None;
    while let Some(head) = waiting.pop_front() {
        match head.unrolled() {
            Signature {
                kind: SubtaskType::Chain(inner),
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

/// Combines a group and the task after it into a chord.
pub(super) fn upgraded(group: Signature, body: Signature, root_id: Option<&str>) -> Signature {
    let SubtaskType::Group(header) = group.kind else {
        return group;
    };
    let body = Box::new(body);
    let mut chord = Signature::new("celery.chord", SubtaskType::Chord { header, body });
    chord.kwargs.insert("kwargs".into(), json!({}));
    if let Some(id) = root_id {
        chord.options.insert("root_id".into(), json!(id));
    }
    chord
}

fn is_chord_before_a_chain(task: &Signature) -> bool {
    let SubtaskType::Chord { body, .. } = &task.kind else {
        return false;
    };
    matches!(&body.kind, SubtaskType::Chain(steps)
        if steps.first().is_some_and(|first| !matches!(first.kind, SubtaskType::Group(_))))
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(str::to_owned)
}

/// Concatenates two lists.
pub(super) fn joined(first: Option<&Value>, second: &[Value]) -> Vec<Value> {
    let mut all = listed(first);
    all.extend(second.iter().cloned());
    all
}
