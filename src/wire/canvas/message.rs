//! Conversion of a single task's signature into a message.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};

use super::CanvasContext;
use super::signature::Signature;
use crate::body::Body;
use crate::envelope::{Envelope, Priority};
use crate::task_message::TaskMessage;
use crate::timestamp;

/// Headers, each with the option that sets it.
const HEADERS: [(&str, &str); 9] = [
    ("group", "group_id"),
    ("group_index", "group_index"),
    ("shadow", "shadow"),
    ("retries", "retries"),
    ("ignore_result", "ignore_result"),
    ("argsrepr", "argsrepr"),
    ("kwargsrepr", "kwargsrepr"),
    ("replaced_task_nesting", "replaced_task_nesting"),
    ("stamped_headers", "stamped_headers"),
];

impl Signature {
    /// The destination: the option `queue`, else the routing key (a direct exchange is bound to the queue of the same
    /// name), else the default queue.
    fn destination<'a>(&'a self, by: &CanvasContext<'a>) -> &'a str {
        self.text("queue")
            .or_else(|| self.text("routing_key"))
            .unwrap_or(by.default_queue)
    }

    /// Whether the message must go through an exchange that is not bound to one queue alone.
    pub(super) fn needs_an_exchange(&self) -> bool {
        let exchange = self.text("exchange").filter(|name| !name.is_empty());
        self.set_option("queue").is_some_and(|queue| !queue.is_string())
            || self.text("queue").is_none()
                && exchange.is_some_and(|exchange| Some(exchange) != self.text("routing_key"))
    }

    /// The message to publish, and its queue.
    pub(super) fn into_message(self, by: &CanvasContext<'_>) -> (String, Envelope) {
        let queue = self.destination(by).to_owned();
        let message = TaskMessage {
            task: self.task.clone(),
            id: self.text("task_id").unwrap_or_default().to_owned(),
            queue: queue.clone(),
            eta: self
                .after("countdown", by.now)
                .filter(|time| *time != by.now)
                .or_else(|| self.time("eta", by.now)),
            expires: self.time("expires", by.now),
            priority: Priority(self.set_option("priority").and_then(Value::as_i64).unwrap_or(0)),
            root_id: named(self.text("root_id").unwrap_or(by.root_id())),
            parent_id: named(self.text("parent_id").unwrap_or(by.task_id)),
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
            let value = if listed.is_empty() {
                Value::Null
            } else {
                Value::Array(listed)
            };
            embed.insert(name.into(), value);
        }
        for name in ["chain", "chord"] {
            let value = self.options.get(name).cloned().unwrap_or(Value::Null);
            embed.insert(name.into(), value);
        }
        Body {
            args: self.args,
            kwargs: self.kwargs,
            embed,
        }
    }

    /// The headers that the options set.
    fn headers(&self) -> Map<String, Value> {
        let option = |name: &str| self.set_option(name).cloned();
        let mut headers = option("headers")
            .and_then(|value| value.as_object().cloned())
            .unwrap_or_default();
        for (header, name) in HEADERS {
            if let Some(value) = option(name) {
                headers.insert(header.into(), value);
            }
        }
        let (hard, soft) = (option("time_limit"), option("soft_time_limit"));
        if hard.is_some() || soft.is_some() {
            headers.insert("timelimit".into(), json!([hard, soft]));
        }
        let stamps: Map<String, Value> = self
            .list("stamped_headers")
            .iter()
            .filter_map(Value::as_str)
            .filter_map(|name| Some((name.to_owned(), self.options.get(name)?.clone())))
            .collect();
        if !stamps.is_empty() {
            headers.insert("stamps".into(), Value::Object(stamps));
        }
        if let Some(uuid) = self.uuid() {
            headers.insert("id".into(), uuid.clone());
        }
        headers
    }

    /// A time option: an ISO string, a `datetime` of kombu's JSON, or a number of seconds from now.
    fn time(&self, name: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let value = self.set_option(name)?;
        value
            .as_str()
            .or_else(|| value.get("__value__")?.as_str())
            .and_then(timestamp::parse)
            .or_else(|| self.after(name, now))
    }

    fn after(&self, name: &str, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let seconds = self
            .set_option(name)?
            .as_f64()
            .filter(|seconds| seconds.abs() < 1e10)?;
        #[expect(clippy::cast_possible_truncation, reason = "bounded on the line above")]
        let millis = (seconds * 1000.0) as i64;
        now.checked_add_signed(TimeDelta::milliseconds(millis))
    }
}

/// A program that is no worker has no ids to pass on.
fn named(id: &str) -> Option<String> {
    Some(id).filter(|id| !id.is_empty()).map(str::to_owned)
}
