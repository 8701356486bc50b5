//! The message envelope: one element of a queue's list.
//!
//! An [`Envelope`] keeps the JSON object as it came, in its order, and reads single fields on demand: what
//! is not understood here survives a retry or a hand-back unchanged. Reading is lenient where Python's is
//! (absent fields have defaults) and where Python crashes (no `properties`, no `delivery_info`); it is
//! strict only about what makes the message a task: a JSON object with a name and an id.
//!
//! A protocol 1 message (Celery 3) is turned into protocol 2 on reading, as Celery does when it retries one.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use thiserror::Error;

use super::body::{Body, Encoded};
use super::body_error::BodyError;
use super::{python_json, timestamp};

/// Why a list element is no task message.
#[derive(Debug, Error)]
pub enum EnvelopeError {
    /// The bytes are not a JSON document.
    #[error("message is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// JSON, but not an object.
    #[error("message is JSON but not an object")]
    NotAnObject,
    /// A header without which nothing can be run or reported is absent, or not text.
    #[error("message has no usable header `{0}`")]
    MissingHeader(&'static str),
    /// A header is there and cannot be understood.
    #[error("message header `{name}` has the value {value}, expected {expected}")]
    BadHeader {
        /// Name of the header.
        name: &'static str,
        /// What it holds, cut to 80 characters.
        value: String,
        /// What would have been understood.
        expected: &'static str,
    },
    /// A protocol 1 message in a serializer or compression that this worker does not accept and another may:
    /// whose task it is cannot be told.
    #[error("message names no task in its headers, and its protocol 1 body cannot be read here: {error}")]
    Foreign {
        /// What is not accepted.
        error: BodyError,
        /// The message's own delivery tag, by which it is recognised.
        publisher_tag: String,
    },
    /// Neither a protocol 2 header nor a protocol 1 body names a task.
    #[error("message names no task in its headers, and its body is no protocol 1 task: {0}")]
    NoTask(BodyError),
}

/// A message priority as sent: 0 is served first, values outside 0..=9 are clamped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Priority(pub i64);

impl Priority {
    /// The priority step (0, 3, 6 or 9) whose list holds messages of this priority.
    #[must_use]
    pub fn step(self) -> u8 {
        match self.0 {
            ..=2 => 0,
            3..=5 => 3,
            6..=8 => 6,
            9.. => 9,
        }
    }
}

/// One task message.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    fields: Map<String, Value>,
}

impl Envelope {
    /// Reads a list element.
    ///
    /// # Errors
    /// See [`EnvelopeError`]; the caller sets such a message aside with the error as the reason.
    pub fn parse(raw: &[u8]) -> Result<Self, EnvelopeError> {
        let Value::Object(fields) = serde_json::from_slice(raw)? else {
            return Err(EnvelopeError::NotAnObject);
        };
        let mut envelope = Self { fields };
        if envelope.header("task").is_none() {
            envelope.adopt_protocol_1()?;
        }
        for name in ["task", "id"] {
            if envelope.text(name).is_none_or(str::is_empty) {
                return Err(EnvelopeError::MissingHeader(name));
            }
        }
        Ok(envelope)
    }

    /// An envelope of the given parts; `body` is stored as base64 JSON, the form Python sends.
    #[must_use]
    pub fn assemble(headers: Map<String, Value>, properties: Map<String, Value>, body: &Body) -> Self {
        let mut envelope = Self { fields: Map::new() };
        envelope.set_body(body);
        envelope.fields.insert("headers".into(), Value::Object(headers));
        envelope
            .fields
            .insert("properties".into(), Value::Object(properties));
        envelope
    }

    /// The element to push: JSON in Python's spelling.
    #[must_use]
    pub fn to_json(&self) -> String {
        python_json::to_string(&self.fields).expect("a map of JSON values is JSON")
    }

    /// Name of the task.
    #[must_use]
    pub fn task(&self) -> &str {
        self.text("task").unwrap_or_default()
    }

    /// Id of the task, unique per task and kept through retries.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text("id").unwrap_or_default()
    }

    /// A header, unless absent or null.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&Value> {
        self.fields
            .get("headers")?
            .get(name)
            .filter(|value| !value.is_null())
    }

    /// A header that is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.header(name)?.as_str()
    }

    /// A property, unless absent or null.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Value> {
        self.fields
            .get("properties")?
            .get(name)
            .filter(|value| !value.is_null())
    }

    /// A field beside headers and properties, such as `content-type`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.fields.get(name)
    }

    /// Retries made so far; absent is zero.
    #[must_use]
    pub fn retries(&self) -> u32 {
        self.header("retries")
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0)
    }

    /// When the task may start at the earliest.
    ///
    /// # Errors
    /// [`EnvelopeError::BadHeader`] when it is no time; Celery calls that an invalid task.
    pub fn eta(&self) -> Result<Option<DateTime<Utc>>, EnvelopeError> {
        self.time("eta")
    }

    /// From when on the task must not be started.
    ///
    /// # Errors
    /// [`EnvelopeError::BadHeader`] when it is no time.
    pub fn expires(&self) -> Result<Option<DateTime<Utc>>, EnvelopeError> {
        self.time("expires")
    }

    /// The message's own hard and soft limit in seconds (Celery's order: hard first).
    #[must_use]
    pub fn timelimit(&self) -> (Option<f64>, Option<f64>) {
        let limit = |at: usize| {
            self.header("timelimit")?
                .get(at)?
                .as_f64()
                .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
        };
        (limit(0), limit(1))
    }

    /// The producer's wish not to have a result stored; `None` leaves it to the worker.
    #[must_use]
    pub fn ignore_result(&self) -> Option<bool> {
        self.header("ignore_result")?.as_bool()
    }

    /// The priority that decides on the list.
    #[must_use]
    pub fn priority(&self) -> Priority {
        Priority(self.property("priority").and_then(Value::as_i64).unwrap_or(0))
    }

    /// The publisher's delivery tag, the same through every restore of the message.
    #[must_use]
    pub fn publisher_tag(&self) -> Option<&str> {
        self.property("delivery_tag")?.as_str()
    }

    /// Whether the message was handed out before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.header("redelivered")
            .and_then(Value::as_bool)
            .unwrap_or(false)
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// See [`BodyError`].
    pub fn body(&self) -> Result<Body, BodyError> {
        Body::decode(&self.encoded_body())
    }

    /// Sets a header.
    pub fn set_header(&mut self, name: &str, value: Value) {
        self.object("headers").insert(name.into(), value);
    }

    /// Sets a property.
    pub fn set_property(&mut self, name: &str, value: Value) {
        self.object("properties").insert(name.into(), value);
    }

    /// Puts both marks of a redelivery on the message, as kombu's restore does.
    pub fn mark_redelivered(&mut self) {
        self.set_header("redelivered", Value::Bool(true));
        if let Some(Value::Object(info)) = self.object("properties").get_mut("delivery_info") {
            info.insert("redelivered".into(), Value::Bool(true));
        }
    }

    /// Takes the marks of a redelivery off, for a message that is published anew.
    pub fn clear_redelivered(&mut self) {
        self.object("headers").shift_remove("redelivered");
        if let Some(Value::Object(info)) = self.object("properties").get_mut("delivery_info") {
            info.shift_remove("redelivered");
        }
    }

    fn encoded_body(&self) -> Encoded<'_> {
        Encoded {
            text: self.field("body").and_then(Value::as_str),
            content_type: self.field("content-type").and_then(Value::as_str),
            is_base64: self.property("body_encoding").and_then(Value::as_str) == Some("base64"),
            compression: self.text("compression"),
        }
    }

    fn set_body(&mut self, body: &Body) {
        self.fields
            .insert("body".into(), Value::String(body.to_base64_json()));
        self.fields
            .insert("content-encoding".into(), Value::String("utf-8".into()));
        self.fields
            .insert("content-type".into(), Value::String("application/json".into()));
    }

    fn time(&self, name: &'static str) -> Result<Option<DateTime<Utc>>, EnvelopeError> {
        let Some(value) = self.header(name) else {
            return Ok(None);
        };
        value
            .as_str()
            .and_then(timestamp::parse)
            .map(Some)
            .ok_or_else(|| EnvelopeError::BadHeader {
                name,
                value: value.to_string().chars().take(80).collect(),
                expected: "an ISO-8601 time",
            })
    }

    fn object(&mut self, name: &str) -> &mut Map<String, Value> {
        let slot = self
            .fields
            .entry(name)
            .or_insert_with(|| Value::Object(Map::new()));
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        slot.as_object_mut().expect("just made an object")
    }

    /// Celery 3 put everything into the body; rebuild it as protocol 2.
    fn adopt_protocol_1(&mut self) -> Result<(), EnvelopeError> {
        let value = Body::decode_value(&self.encoded_body()).map_err(|error| match self.publisher_tag() {
            Some(tag) if error.is_not_accepted() => EnvelopeError::Foreign {
                error,
                publisher_tag: tag.to_owned(),
            },
            _ => EnvelopeError::NoTask(error),
        })?;
        let Value::Object(mut old) = value else {
            return Err(EnvelopeError::MissingHeader("task"));
        };
        let mut take = |name: &str| old.remove(name).unwrap_or(Value::Null);
        let args = take("args").as_array().cloned().unwrap_or_default();
        let kwargs = take("kwargs").as_object().cloned().unwrap_or_default();
        let mut embed = Map::new();
        embed.insert("callbacks".into(), take("callbacks"));
        embed.insert("errbacks".into(), take("errbacks"));
        embed.insert("chain".into(), Value::Null);
        embed.insert("chord".into(), take("chord"));
        let id = take("id");
        for (name, value) in [
            ("lang", json!("py")),
            ("task", take("task")),
            ("id", id.clone()),
            ("eta", take("eta")),
            ("expires", take("expires")),
            ("group", take("taskset")),
            ("retries", take("retries")),
            ("timelimit", take("timelimit")),
            ("root_id", id),
            ("parent_id", Value::Null),
        ] {
            self.set_header(name, value);
        }
        self.set_property("body_encoding", json!("base64"));
        self.object("headers").remove("compression");
        self.set_body(&Body { args, kwargs, embed });
        Ok(())
    }
}

#[cfg(test)]
#[path = "envelope/tests.rs"]
mod tests;
