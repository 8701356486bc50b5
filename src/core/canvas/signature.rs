//! A signature: a task call in JSON, as it is embedded in messages.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use crate::core::wire::body::Body;
use crate::core::wire::envelope::{Envelope, Priority};
use crate::core::wire::task_message::TaskMessage;
use crate::core::wire::timestamp;

/// Tasks that Celery expands in the worker instead of running them.
const COMPOSITE: [&str; 6] = [
    "celery.group",
    "celery.chain",
    "celery.chord",
    "celery.map",
    "celery.starmap",
    "celery.chunks",
];

/// A signature of one plain task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Signature {
    task: String,
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    options: Map<String, Value>,
    immutable: bool,
}

/// Who publishes, and in which workflow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Publisher<'a> {
    pub(super) parent: &'a Envelope,
    pub(super) origin: &'a str,
    pub(super) default_queue: &'a str,
    pub(super) now: DateTime<Utc>,
}

impl Signature {
    /// Reads a signature; `None` when it is none, or one that has to be expanded first.
    pub(super) fn plain(value: &Value) -> Option<Self> {
        let task = value.get("task")?.as_str()?;
        let composite = value.get("subtask_type").is_some_and(|kind| !kind.is_null());
        if composite || COMPOSITE.contains(&task) {
            return None;
        }
        let object = |name: &str| {
            value
                .get(name)
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default()
        };
        Some(Self {
            task: task.to_owned(),
            args: value
                .get("args")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            kwargs: object("kwargs"),
            options: object("options"),
            immutable: value.get("immutable").and_then(Value::as_bool).unwrap_or(false),
        })
    }

    /// Puts a value before the arguments, unless the signature is immutable.
    pub(super) fn with_first(mut self, value: &Value) -> Self {
        if !self.immutable {
            self.args.insert(0, value.clone());
        }
        self
    }

    /// Appends what remains of a chain (last element first) behind the signature's own.
    pub(super) fn with_chain(mut self, rest: &[Value]) -> Self {
        let mut chain = rest.to_vec();
        chain.extend(self.list("chain"));
        self.options.insert("chain".into(), Value::Array(chain));
        self
    }

    /// Makes the signature a member of a group.
    pub(super) fn in_group(mut self, group_id: &str, index: usize) -> Self {
        self.options.insert("group_id".into(), json!(group_id));
        self.options.insert("group_index".into(), json!(index));
        self
    }

    /// The message to publish, and its queue.
    pub(super) fn into_message(self, by: Publisher<'_>) -> (String, Envelope) {
        let queue = self
            .text("queue")
            .or_else(|| self.text("routing_key"))
            .unwrap_or(by.default_queue)
            .to_owned();
        let root = by.parent.text("root_id").unwrap_or(by.parent.id());
        let message = TaskMessage {
            task: self.task.clone(),
            id: self.text("task_id").unwrap_or_default().to_owned(),
            queue: queue.clone(),
            eta: self
                .time("eta", by.now)
                .or_else(|| self.after("countdown", by.now)),
            expires: self.time("expires", by.now),
            priority: Priority(self.options.get("priority").and_then(Value::as_i64).unwrap_or(0)),
            root_id: Some(root.to_owned()),
            parent_id: Some(by.parent.id().to_owned()),
            headers: self.headers(),
            reply_to: self.text("reply_to").map(str::to_owned),
            body: self.body(),
        };
        (queue, message.into_envelope(by.origin, by.now))
    }

    fn body(self) -> Body {
        let mut embed = Map::new();
        for (name, option) in [("callbacks", "link"), ("errbacks", "link_error")] {
            let listed = self.list(option);
            embed.insert(
                name.into(),
                if listed.is_empty() {
                    Value::Null
                } else {
                    Value::Array(listed)
                },
            );
        }
        for name in ["chain", "chord"] {
            embed.insert(
                name.into(),
                self.options.get(name).cloned().unwrap_or(Value::Null),
            );
        }
        Body {
            args: self.args,
            kwargs: self.kwargs,
            embed,
        }
    }

    /// Headers that a signature's options set.
    fn headers(&self) -> Map<String, Value> {
        let option = |name: &str| self.options.get(name).filter(|value| !value.is_null()).cloned();
        let mut headers = option("headers")
            .and_then(|value| value.as_object().cloned())
            .unwrap_or_default();
        for (header, name) in [
            ("group", "group_id"),
            ("group_index", "group_index"),
            ("shadow", "shadow"),
            ("retries", "retries"),
            ("ignore_result", "ignore_result"),
            ("argsrepr", "argsrepr"),
            ("kwargsrepr", "kwargsrepr"),
            ("stamped_headers", "stamped_headers"),
        ] {
            if let Some(value) = option(name) {
                headers.insert(header.into(), value);
            }
        }
        let (hard, soft) = (option("time_limit"), option("soft_time_limit"));
        if hard.is_some() || soft.is_some() {
            headers.insert("timelimit".into(), json!([hard, soft]));
        }
        let stamps: Map<String, Value> = option("stamped_headers")
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .filter_map(|name| Some((name.to_owned(), option(name)?)))
            .collect();
        if !stamps.is_empty() {
            headers.insert("stamps".into(), Value::Object(stamps));
        }
        headers
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.options.get(name)?.as_str()
    }

    /// An option that may be one value or a list of them.
    fn list(&self, name: &str) -> Vec<Value> {
        match self.options.get(name) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(items)) => items.clone(),
            Some(one) => vec![one.clone()],
        }
    }

    /// A time option: ISO text, or a number of seconds from now.
    fn time(&self, name: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.text(name)
            .and_then(timestamp::parse)
            .or_else(|| self.after(name, now))
    }

    fn after(&self, name: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let seconds = self
            .options
            .get(name)?
            .as_f64()
            .filter(|seconds| seconds.abs() < 1e10)?;
        #[expect(clippy::cast_possible_truncation, reason = "bounded on the line above")]
        let millis = (seconds * 1000.0) as i64;
        now.checked_add_signed(TimeDelta::milliseconds(millis))
    }
}
