//! Applying: the messages that `apply_async` of a signature publishes, and the writes before them.

use serde_json::{Map, Value, json};

use super::freeze::{Frame, joined};
use super::result_tree::{Ids, ResultRef, ResultTree};
use super::signature::{CallOptions, Signature, SubtaskType, listed};
use super::{CanvasContext, Preparation, Sending, Successor, SuccessorPlan};

/// Applies signatures on behalf of one task.
pub(super) struct CanvasPublisher<'a> {
    by: CanvasContext<'a>,
    results: ResultTree,
    plan: SuccessorPlan,
}

impl<'a> CanvasPublisher<'a> {
    pub(super) fn new(by: CanvasContext<'a>) -> Self {
        Self::with_ids(by, Ids::default())
    }

    /// A publisher that takes new ids from `ids`.
    pub(super) fn with_ids(by: CanvasContext<'a>, ids: Ids) -> Self {
        Self {
            by,
            results: ResultTree::new(ids),
            plan: SuccessorPlan::default(),
        }
    }

    /// The finished plan.
    pub(super) fn into_plan(self) -> SuccessorPlan {
        self.plan
    }

    /// The finished plan of a signature with this result.
    pub(super) fn sent(self, result: ResultRef) -> Sending {
        Sending {
            id: self.results.id(result).to_owned(),
            result: self.results.tuple(result),
            plan: self.plan,
        }
    }

    /// Applies a signature. With `trail`, its result becomes a child of the publishing task.
    pub(super) fn apply(
        &mut self,
        signature: Signature,
        args: &[Value],
        options: CallOptions,
        trail: bool,
    ) -> ResultRef {
        match signature.kind {
            SubtaskType::Task => self.apply_task(signature, args, options, trail),
            SubtaskType::Chunks => self.apply_chunks(&signature, options, trail),
            SubtaskType::Group(_) => self.apply_group(signature, args, options, trail),
            SubtaskType::Chain(_) => self.apply_chain(signature, args, options, trail),
            SubtaskType::Chord { .. } => self.apply_chord(signature, args, options, trail),
        }
    }

    fn apply_task(
        &mut self,
        mut task: Signature,
        args: &[Value],
        mut options: CallOptions,
        trail: bool,
    ) -> ResultRef {
        options.retain(|_, value| !value.is_null());
        task.merge(args, options);
        if task.text("task_id").is_none() {
            task.options
                .insert("task_id".into(), json!(self.results.new_id()));
        }
        let (queue, message) = task.into_message(&self.by);
        let result = self.results.of_task(message.id());
        self.plan.successors.push(Successor { queue, message });
        self.leave_trail(result, trail);
        result
    }

    /// Applies a starmap to each chunk of the list.
    fn apply_chunks(&mut self, chunks: &Signature, options: CallOptions, trail: bool) -> ResultRef {
        let items = listed(chunks.kwargs.get("it"));
        let size = chunks.kwargs.get("n").and_then(Value::as_u64).unwrap_or(1);
        let size = usize::try_from(size).unwrap_or(usize::MAX).max(1);
        let task = chunks.kwargs.get("task").unwrap_or(&Value::Null);
        let starmaps = items.chunks(size).map(|part| {
            let mut starmap = Signature::new("celery.starmap", SubtaskType::Task);
            starmap.immutable = true;
            starmap.kwargs = Map::from_iter([("task".into(), task.clone()), ("it".into(), json!(part))]);
            starmap
        });
        let group = Signature::group(starmaps);
        self.apply_group(group, &[], options, trail)
    }

    fn apply_group(
        &mut self,
        mut group: Signature,
        args: &[Value],
        options: CallOptions,
        trail: bool,
    ) -> ResultRef {
        if matches!(&group.kind, SubtaskType::Group(tasks) if tasks.is_empty()) {
            return self.results.freeze(&mut group, Frame::default());
        }
        group.merge(&[], options);
        let mut options = std::mem::take(&mut group.options);
        let group_id = match options.shift_remove("task_id") {
            Some(Value::String(id)) => id,
            _ => self.results.new_id(),
        };
        options.insert("group_id".into(), json!(group_id));
        options.shift_remove("group_index");
        let chord = options.shift_remove("chord").filter(|chord| !chord.is_null());
        let root_id = options.get("root_id").and_then(Value::as_str).map(str::to_owned);
        let mut members = Vec::new();
        self.prepare_members(group, &group_id, root_id.as_deref(), &mut members);
        let size = members.iter().map(|(task, _)| task.size()).sum();
        let chord_of = |task: &Signature| chord.clone().or_else(|| task.set_option("chord").cloned());
        if members.last().and_then(|(task, _)| chord_of(task)).is_some() {
            self.plan.preparations.push(Preparation::ChordSize {
                group: group_id.clone(),
                size,
            });
        }
        let mut results = Vec::with_capacity(members.len());
        for (task, result) in members {
            let mut options = options.clone();
            options.insert("chord".into(), chord_of(&task).unwrap_or_default());
            self.apply(task, args, options, false);
            results.push(result);
        }
        let result = match results.as_slice() {
            [only] if self.results.members(*only).is_some() => *only,
            _ => self.results.of_group(&group_id, results),
        };
        self.leave_trail(result, trail);
        result
    }

    /// Freezes the tasks of a group, including those of nested groups.
    fn prepare_members(
        &mut self,
        group: Signature,
        group_id: &str,
        root_id: Option<&str>,
        members: &mut Vec<(Signature, ResultRef)>,
    ) {
        let SubtaskType::Group(tasks) = group.kind else {
            return;
        };
        for (index, mut task) in tasks.into_iter().enumerate() {
            match &task.kind {
                SubtaskType::Group(_) => self.prepare_members(task, group_id, root_id, members),
                SubtaskType::Chain(steps) if steps.is_empty() => {}
                _ => {
                    let frame = Frame {
                        group_id: Some(group_id),
                        group_index: Some(index),
                        root_id,
                        ..Frame::default()
                    };
                    let result = self.results.freeze(&mut task, frame);
                    members.push((task, result));
                }
            }
        }
    }

    fn apply_chain(
        &mut self,
        mut chain: Signature,
        args: &[Value],
        call_options: CallOptions,
        trail: bool,
    ) -> ResultRef {
        let mut args = args.to_vec();
        if chain.immutable {
            args.clear();
        }
        args.append(&mut chain.args);
        let mut options = chain.options;
        options.extend(call_options);
        let mut take = |name: &str| options.shift_remove(name).filter(|value| !value.is_null());
        let [id, group_id, root_id, chord, link, link_error] =
            ["task_id", "group_id", "root_id", "chord", "link", "link_error"].map(&mut take);
        let index = take("group_index").and_then(|index| usize::try_from(index.as_u64()?).ok());
        options.shift_remove("parent_id");
        let text = |value: &'_ Option<Value>| value.as_ref().and_then(Value::as_str).map(str::to_owned);
        let (id, group_id, root_id) = (text(&id), text(&group_id), text(&root_id));
        let frame = Frame {
            id: id.as_deref(),
            group_id: group_id.as_deref(),
            group_index: index,
            chord: chord.as_ref(),
            root_id: root_id.as_deref(),
            parent_id: None,
        };
        let SubtaskType::Chain(tasks) = chain.kind else {
            return self.results.of_task("");
        };
        let errbacks = listed(link_error.as_ref());
        let (mut steps, result) = self.results.steps(tasks, &args, &errbacks, frame, true);
        if let Some(last) = steps.first_mut() {
            for callback in listed(link.as_ref()) {
                last.append("link", &callback);
            }
        }
        let (Some(first), Some(result)) = (steps.pop(), result) else {
            return self.results.of_task("");
        };
        let steps: Vec<Value> = steps.iter().map(Signature::to_value).collect();
        let rest = joined(options.get("chain"), &steps);
        options.insert("chain".into(), Value::Array(rest));
        let applied = self.apply(first, &[], options, trail);
        if steps.is_empty() { applied } else { result }
    }

    fn apply_chord(
        &mut self,
        mut chord: Signature,
        args: &[Value],
        mut options: CallOptions,
        trail: bool,
    ) -> ResultRef {
        let mut args = args.to_vec();
        if chord.immutable {
            args.clear();
        }
        args.append(&mut chord.args);
        let own_options = std::mem::take(&mut chord.options);
        let SubtaskType::Chord { header, mut body } = chord.kind else {
            return self.results.of_task("");
        };
        let delays = delays(&own_options, &mut options);
        let group_id = own_options.get("task_id").and_then(Value::as_str);
        let group_id = group_id.map_or_else(|| self.results.new_id(), str::to_owned);
        let callbacks = ["link", "link_error"].map(|name| {
            let of_call = options.shift_remove(name);
            listed(of_call.as_ref().or_else(|| own_options.get(name)))
        });
        let body_id = options
            .shift_remove("task_id")
            .or_else(|| own_options.get("task_id").cloned());
        let mut merged = own_options;
        merged.extend(options);
        for name in ["task_id", "countdown", "eta", "link", "link_error"] {
            merged.shift_remove(name);
        }
        add_callbacks(&mut body, &callbacks);
        let for_body = merged.iter().filter(|(name, _)| *name != "parent_id");
        let for_body: CallOptions = for_body
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        body.merge(&[], for_body);
        body.split_chords();
        let body_id = match body_id {
            Some(Value::String(id)) => id,
            _ => self.results.new_id(),
        };
        let root_id = body.text("root_id").map(str::to_owned);
        let frame = Frame {
            id: Some(&body_id),
            group_id: Some(&group_id),
            root_id: root_id.as_deref(),
            ..Frame::default()
        };
        let body_result = self.results.freeze(&mut body, frame);
        if header.is_empty() {
            self.apply(*body, &[json!([])], CallOptions::new(), trail);
            return body_result;
        }
        for name in ["chain", "chord", "group_index"] {
            merged.shift_remove(name);
        }
        let mut group = Signature::group(header);
        group.options.insert("task_id".into(), json!(group_id));
        let body = body.to_value();
        let frame = Frame {
            group_id: Some(&group_id),
            chord: Some(&body),
            root_id: root_id.as_deref(),
            ..Frame::default()
        };
        let header_result = self.results.freeze_group(&mut group, frame);
        self.save_if_nested(&group_id, header_result);
        merged.shift_remove("group_id");
        merged.insert("task_id".into(), json!(group_id));
        merged.extend(delays);
        self.apply_group(group, &args, merged, trail);
        body_result
    }

    /// Saves the result of a header that contains groups, so that joining can rebuild its structure.
    fn save_if_nested(&mut self, group_id: &str, header: ResultRef) {
        let members = self.results.members(header).unwrap_or_default();
        if members
            .iter()
            .any(|member| self.results.members(*member).is_some())
        {
            self.plan.preparations.push(Preparation::SavedGroup {
                group: group_id.to_owned(),
                result: self.results.tuple(header),
            });
        }
    }

    fn leave_trail(&mut self, result: ResultRef, trail: bool) {
        if trail {
            self.plan.children.push(self.results.tuple(result));
        }
    }
}

/// A chord's countdown or eta applies to its header.
fn delays(own: &CallOptions, of_call: &mut CallOptions) -> CallOptions {
    let mut delays = CallOptions::new();
    for name in ["countdown", "eta"] {
        let value = of_call.shift_remove(name).filter(|value| !value.is_null());
        if let Some(value) = value.or_else(|| own.get(name).cloned()) {
            delays.insert(name.into(), value);
        }
    }
    delays
}

/// Adds a chord's callbacks to its body.
fn add_callbacks(body: &mut Signature, [links, errbacks]: &[Vec<Value>; 2]) {
    for callback in links {
        body.link(callback);
    }
    for errback in errbacks {
        match &body.kind {
            SubtaskType::Group(_) => body.link_error(errback),
            _ => body.append("link_error", errback),
        }
    }
}
