//! Composing signatures, as a program writes them: `proj.add(2, 2) | proj.double()`.

use std::ops::BitOr;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::freeze::upgraded;
use super::signature::{Signature, SubtaskType};
use crate::timestamp;

impl Signature {
    /// A call of the task with this registered name, without arguments.
    #[must_use]
    pub fn task(name: &str) -> Self {
        Self::new(name, SubtaskType::Task)
    }

    /// A signature as it stands in a message or in a task's arguments; `None` if it is not one.
    #[must_use]
    pub fn from_value(value: &Value) -> Option<Self> {
        Self::read(value)
    }

    /// The signature as Celery writes it, to be passed to a task as an argument.
    #[must_use]
    pub fn into_value(self) -> Value {
        self.to_value()
    }

    /// Tasks that run one after the other. Each gets the result of the one before as its first argument.
    #[must_use]
    pub fn chain(tasks: impl IntoIterator<Item = Self>) -> Self {
        tasks.into_iter().fold(Self::of_steps(Vec::new()), Self::then)
    }

    /// Tasks that run in parallel.
    #[must_use]
    pub fn group(tasks: impl IntoIterator<Item = Self>) -> Self {
        Self::new("celery.group", SubtaskType::Group(tasks.into_iter().collect()))
    }

    /// Tasks that run in parallel, and a body that gets the list of their results.
    #[must_use]
    pub fn chord(header: impl IntoIterator<Item = Self>, body: Self) -> Self {
        upgraded(Self::group(header), body, None)
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, value: impl Into<Value>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<V: Into<Value>>(mut self, values: impl IntoIterator<Item = V>) -> Self {
        self.args.extend(values.into_iter().map(Into::into));
        self
    }

    /// Sets a keyword argument.
    #[must_use]
    pub fn kwarg(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.kwargs.insert(name.to_owned(), value.into());
        self
    }

    /// Takes no result of a task before it, like Celery's `si`.
    #[must_use]
    pub fn immutable(mut self) -> Self {
        self.immutable = true;
        self
    }

    /// Sets any option of `apply_async` under Celery's name, or a header.
    #[must_use]
    pub fn option(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.options.insert(name.to_owned(), value.into());
        self
    }

    /// Sends it to this queue.
    #[must_use]
    pub fn queue(self, queue: &str) -> Self {
        self.option("queue", queue)
    }

    /// Gives it this id instead of a new one.
    #[must_use]
    pub fn task_id(self, id: &str) -> Self {
        self.option("task_id", id)
    }

    /// Runs it this many seconds after it was sent, at the earliest.
    #[must_use]
    pub fn countdown(self, seconds: f64) -> Self {
        self.option("countdown", seconds)
    }

    /// Runs it at this time at the earliest.
    #[must_use]
    pub fn eta(self, eta: DateTime<Utc>) -> Self {
        self.option("eta", timestamp::isoformat(eta))
    }

    /// Revokes it unless it has started by this time.
    #[must_use]
    pub fn expires(self, expires: DateTime<Utc>) -> Self {
        self.option("expires", timestamp::isoformat(expires))
    }

    /// Its priority from 0, which is served first, to 9.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.option("priority", priority)
    }

    /// Stores no result.
    #[must_use]
    pub fn ignore_result(self) -> Self {
        self.option("ignore_result", true)
    }

    /// Stamps the task, and all tasks of a combined signature, with a header that revokes can name.
    #[must_use]
    pub fn stamp(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.stamp_all(name, &value.into());
        self
    }

    fn stamp_all(&mut self, name: &str, value: &Value) {
        self.append("stamped_headers", &json!(name));
        self.options.insert(name.to_owned(), value.clone());
        match &mut self.kind {
            SubtaskType::Task | SubtaskType::Chunks => {}
            SubtaskType::Chain(tasks) | SubtaskType::Group(tasks) => {
                tasks.iter_mut().for_each(|task| task.stamp_all(name, value));
            }
            SubtaskType::Chord { header, body } => {
                header.iter_mut().for_each(|task| task.stamp_all(name, value));
                body.stamp_all(name, value);
            }
        }
    }

    /// Calls `callback` with its result when it succeeds. A group calls it when its first task does, as in Celery.
    #[must_use]
    pub fn on_success(mut self, callback: Self) -> Self {
        self.link(&callback.to_value());
        self
    }

    /// Calls `errback` with its id when it fails.
    #[must_use]
    pub fn on_error(mut self, errback: Self) -> Self {
        self.link_error(&errback.to_value());
        self
    }

    /// Runs `next` after it. A group becomes the header of a chord.
    #[must_use]
    pub fn then(mut self, next: Self) -> Self {
        if next.is_empty_group() {
            return self;
        }
        let next = next.unrolled();
        let joins_a_body = !matches!(next.kind, SubtaskType::Group(_) | SubtaskType::Chain(_));
        match &mut self.kind {
            SubtaskType::Group(_) => upgraded(self, next, None),
            SubtaskType::Chain(_) => self.extended(next),
            SubtaskType::Chord { body, .. } if joins_a_body => {
                body.go_on_with(next);
                self
            }
            _ => {
                let mut steps = vec![self];
                steps.extend(next.unchained());
                Self::of_steps(steps)
            }
        }
    }

    fn go_on_with(&mut self, next: Self) {
        let first = std::mem::replace(self, Self::task(""));
        *self = first.then(next);
    }

    /// Celery's `chain | next`. What the last step is decides where `next` goes.
    fn extended(mut self, next: Self) -> Self {
        let SubtaskType::Chain(steps) = &mut self.kind else {
            return self.then(next);
        };
        let is_group = matches!(next.kind, SubtaskType::Group(_));
        let is_chord = matches!(next.kind, SubtaskType::Chord { .. });
        match (steps.last().map(|last| &last.kind), &next.kind) {
            (_, SubtaskType::Chain(_)) => next.unchained().into_iter().fold(self, Self::then),
            (None, SubtaskType::Group(_)) => next,
            (Some(SubtaskType::Group(_)), _) if !is_group => {
                if let Some(group) = steps.pop() {
                    let chord = upgraded(group, next, None);
                    if let Some(SubtaskType::Chord { body, .. }) = steps.last_mut().map(|last| &mut last.kind)
                    {
                        body.go_on_with(chord);
                    } else {
                        steps.push(chord);
                    }
                }
                self
            }
            (Some(SubtaskType::Chord { .. }), _) if !is_chord => {
                let mut steps = self.unchained();
                if let Some(SubtaskType::Chord { body, .. }) = steps.last_mut().map(|last| &mut last.kind) {
                    body.go_on_with(next);
                }
                Self::of_steps(steps)
            }
            _ => {
                let mut steps = self.unchained();
                steps.push(next);
                Self::of_steps(steps)
            }
        }
    }

    fn of_steps(steps: Vec<Self>) -> Self {
        Self::new("celery.chain", SubtaskType::Chain(steps))
    }

    /// `celery.accumulate`, which returns the first of its arguments.
    pub(super) fn first_of_its_arguments() -> Self {
        Self {
            kwargs: Map::from_iter([("index".into(), json!(0))]),
            ..Self::task("celery.accumulate")
        }
    }
}

impl BitOr for Signature {
    type Output = Self;

    fn bitor(self, next: Self) -> Self {
        self.then(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(number: i64) -> Signature {
        Signature::task("add").arg(number)
    }

    /// The shape alone: `[..]` is a chain, `(..)` a group, `header>body` a chord.
    fn shape(signature: &Signature) -> String {
        let all = |tasks: &[Signature]| tasks.iter().map(shape).collect::<Vec<_>>().join(" ");
        match &signature.kind {
            SubtaskType::Task | SubtaskType::Chunks => signature.args[0].to_string(),
            SubtaskType::Chain(tasks) => format!("[{}]", all(tasks)),
            SubtaskType::Group(tasks) => format!("({})", all(tasks)),
            SubtaskType::Chord { header, body } => format!("({})>{}", all(header), shape(body)),
        }
    }

    #[test]
    fn signatures_are_joined_as_celery_joins_them() {
        let group = || Signature::group([add(1), add(2)]);
        let one = || Signature::group([add(1)]);
        let none = || Signature::group([]);
        let chord = || Signature::chord([add(1), add(2)], add(3));
        for (signature, expected) in [
            (add(1) | add(2), "[1 2]"),
            (add(1) | add(2) | add(3), "[1 2 3]"),
            (add(0) | (add(1) | add(2)), "[0 1 2]"),
            (add(0) | group(), "[0 (1 2)]"),
            (add(0) | one(), "[0 1]"),
            (add(0) | none(), "0"),
            (group() | add(3), "(1 2)>3"),
            (group() | group(), "(1 2)>(1 2)"),
            (add(0) | group() | add(3), "[0 (1 2)>3]"),
            (add(0) | group() | add(3) | add(4), "[0 (1 2)>[3 4]]"),
            (add(0) | group() | add(3) | group(), "[0 (1 2)>[3 (1 2)]]"),
            (chord() | add(4), "(1 2)>[3 4]"),
            (chord() | group(), "[(1 2)>3 (1 2)]"),
            (add(0) | chord() | chord(), "[0 (1 2)>3 (1 2)>3]"),
            (Signature::chain([]) | group(), "(1 2)"),
            (Signature::chain([add(1)]), "[1]"),
        ] {
            assert_eq!(shape(&signature), expected);
        }
    }

    #[test]
    fn a_signature_is_written_as_celery_writes_it() {
        let signature = add(1)
            .kwarg("y", 2)
            .queue("q")
            .immutable()
            .on_error(Signature::task("tell"));
        let value = signature.clone().into_value();
        assert_eq!(value["task"], "add");
        assert_eq!(value["args"], json!([1]));
        assert_eq!(value["kwargs"], json!({"y": 2}));
        assert_eq!(value["options"]["queue"], "q");
        assert_eq!(value["options"]["link_error"][0]["task"], "tell");
        assert_eq!(value["immutable"], true);
        assert_eq!(Signature::from_value(&value), Some(signature));
    }
}
