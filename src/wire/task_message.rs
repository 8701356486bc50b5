//! Task messages as `apply_async` of a Python client sends them.
//!
//! All headers that Python writes are present, with the same types: a Python worker that retries such a message
//! computes with `retries`, and Flower shows `argsrepr`.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::body::Body;
use super::envelope::{Envelope, Priority};
use super::{python_repr, timestamp};

/// A task to publish.
#[derive(Debug, Clone, Default)]
pub struct TaskMessage {
    /// Registered name of the task.
    pub task: String,
    /// Task id; if empty, a new UUID.
    pub id: String,
    /// Arguments, and what runs afterwards.
    pub body: Body,
    /// Destination queue.
    pub queue: String,
    /// Earliest time to run.
    pub eta: Option<DateTime<Utc>>,
    /// Time after which it must not run.
    pub expires: Option<DateTime<Utc>>,
    /// Priority; 0 is served first.
    pub priority: Priority,
    /// First task of the workflow; if absent, this one.
    pub root_id: Option<String>,
    /// Task that publishes this one.
    pub parent_id: Option<String>,
    /// Headers that override the standard ones, as a signature's options do.
    pub headers: Map<String, Value>,
    /// Reply queue, if the task comes from a signature.
    pub reply_to: Option<String>,
}

impl TaskMessage {
    /// The envelope to push. `origin` names the publisher (`gen<pid>@<host>`); the property `expiration` counts from
    /// `now`.
    #[must_use]
    pub fn into_envelope(mut self, origin: &str, now: DateTime<Utc>) -> Envelope {
        if self.id.is_empty() {
            self.id = Uuid::new_v4().to_string();
        }
        let properties = self.properties(now);
        let mut headers = self.standard_headers(origin);
        headers.append(&mut self.headers);
        for name in ["callbacks", "errbacks", "chain", "chord"] {
            self.body.embed.entry(name).or_insert(Value::Null);
        }
        Envelope::assemble(headers, properties, &self.body)
    }

    fn standard_headers(&self, origin: &str) -> Map<String, Value> {
        let time = |time: Option<DateTime<Utc>>| time.map(timestamp::isoformat);
        let headers = json!({
            "lang": "py",
            "task": self.task,
            "id": self.id,
            "shadow": null,
            "eta": time(self.eta),
            "expires": time(self.expires),
            "group": null,
            "group_index": null,
            "retries": 0,
            "timelimit": [null, null],
            "root_id": self.root_id.as_ref().unwrap_or(&self.id),
            "parent_id": self.parent_id,
            "argsrepr": python_repr::args(&self.body.args),
            "kwargsrepr": python_repr::kwargs(&self.body.kwargs),
            "origin": origin,
            "ignore_result": false,
            "replaced_task_nesting": 0,
            "stamped_headers": null,
            "stamps": {},
        });
        headers.as_object().cloned().unwrap_or_default()
    }

    fn properties(&self, now: DateTime<Utc>) -> Map<String, Value> {
        let reply_to = self
            .reply_to
            .clone()
            .unwrap_or_else(|| Uuid::new_v4().to_string());
        let mut properties = json!({
            "correlation_id": self.id,
            "reply_to": reply_to,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": self.queue},
            "priority": self.priority.0,
            "body_encoding": "base64",
            "delivery_tag": Uuid::new_v4().to_string(),
        });
        if let Some(expires) = self.expires {
            let left = (expires - now).max(TimeDelta::zero()).num_milliseconds();
            properties["expiration"] = json!(left.to_string());
        }
        properties.as_object().cloned().unwrap_or_default()
    }
}

/// The name of this publisher as Celery writes it into the header `origin`.
#[must_use]
pub fn origin(host: &str) -> String {
    format!("gen{}@{host}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_all_that_python_sends() {
        let now = timestamp::parse("2026-11-23T10:00:00Z").unwrap();
        let message = TaskMessage {
            task: "t".into(),
            queue: "celery".into(),
            expires: Some(now + TimeDelta::seconds(300)),
            ..TaskMessage::default()
        };
        let envelope = message.into_envelope("gen1@h", now);
        assert_eq!(envelope.header("retries"), Some(json!(0)));
        assert_eq!(envelope.header("root_id"), envelope.header("id"));
        assert_eq!(envelope.text("expires"), Some("2026-11-23T10:05:00+00:00"));
        assert_eq!(envelope.property("expiration"), Some(json!("300000")));
        assert_eq!(
            envelope.property("delivery_info").unwrap()["routing_key"],
            json!("celery")
        );
        assert_eq!(envelope.text("argsrepr"), Some("()"));
        let text = envelope.to_json();
        for name in [
            "group_index",
            "timelimit",
            "stamps",
            "kwargsrepr",
            "ignore_result",
            "body_encoding",
        ] {
            assert!(text.contains(name), "{name}");
        }
        assert_eq!(Envelope::parse(text.as_bytes()).unwrap(), envelope);
    }
}
