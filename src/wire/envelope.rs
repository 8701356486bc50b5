//! The message envelope: one element of a queue's list.
//!
//! An [`Envelope`] keeps the JSON object as it came, in its order, and reads single fields on demand: what
//! is not understood here survives a retry or a hand-back unchanged. The usual fields are skimmed off the text;
//! the whole tree is built only for a message that is changed or asked for more. Reading is lenient where Python's is
//! (absent fields have defaults) and where Python crashes (no `properties`, no `delivery_info`); it is
//! strict only about what makes the message a task: a JSON object with a name and an id.
//!
//! A protocol 1 message (Celery 3) is turned into protocol 2 on reading, as Celery does when it retries one.

mod error;
mod protocol_1;
mod skim;

use std::sync::OnceLock;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::body::{Body, Encoded};
use super::body_error::BodyError;
use super::{python_json, timestamp};
use skim::{Plain, Skimmed};

pub use error::EnvelopeError;

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
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The text as it came, until something is changed.
    source: Option<Box<Source>>,
    /// The tree; always there when the text is not.
    tree: OnceLock<Map<String, Value>>,
}

#[derive(Debug, Clone)]
struct Source {
    text: String,
    skimmed: Skimmed,
}

impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        self.tree() == other.tree()
    }
}

impl Envelope {
    /// Reads a list element.
    ///
    /// # Errors
    /// See [`EnvelopeError`]; the caller sets such a message aside with the error as the reason.
    pub fn parse(raw: &[u8]) -> Result<Self, EnvelopeError> {
        let skimmed = std::str::from_utf8(raw).ok().and_then(Self::skim);
        let mut envelope = skimmed.map_or_else(|| Self::build(raw), Ok)?;
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

    fn skim(text: &str) -> Option<Self> {
        let skimmed = Skimmed::of(text)?;
        let text = text.to_owned();
        Some(Self {
            source: Some(Box::new(Source { text, skimmed })),
            tree: OnceLock::new(),
        })
    }

    fn build(raw: &[u8]) -> Result<Self, EnvelopeError> {
        match python_json::from_slice(raw)? {
            Value::Object(fields) => Ok(Self::of_tree(fields)),
            _ => Err(EnvelopeError::NotAnObject),
        }
    }

    fn of_tree(fields: Map<String, Value>) -> Self {
        Self {
            source: None,
            tree: OnceLock::from(fields),
        }
    }

    fn tree(&self) -> &Map<String, Value> {
        self.tree.get_or_init(|| {
            let text = self.source.as_ref().map_or("{}", |source| source.text.as_str());
            python_json::from_slice(text.as_bytes()).expect("a text that was skimmed can be built")
        })
    }

    /// The tree, for a change: the text is out of date from now on.
    fn tree_mut(&mut self) -> &mut Map<String, Value> {
        self.tree();
        self.source = None;
        self.tree.get_mut().expect("just built")
    }

    /// An envelope of the given parts; `body` is stored as base64 JSON, the form Python sends.
    #[must_use]
    pub fn assemble(headers: Map<String, Value>, properties: Map<String, Value>, body: &Body) -> Self {
        let mut envelope = Self::of_tree(Map::new());
        envelope.set_body(body);
        let fields = envelope.tree_mut();
        fields.insert("headers".into(), Value::Object(headers));
        fields.insert("properties".into(), Value::Object(properties));
        envelope
    }

    /// The element to push: JSON in Python's spelling.
    #[must_use]
    pub fn to_json(&self) -> String {
        python_json::to_string(self.tree()).expect("a map of JSON values is JSON")
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
        if let Plain::Null = self.skimmed_header(name) {
            return None;
        }
        self.tree()
            .get("headers")?
            .get(name)
            .filter(|value| !value.is_null())
    }

    /// A header that is text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        match (self.skimmed_header(name), &self.source) {
            (Plain::Text(span), Some(source)) => Some(span.of(&source.text)),
            (Plain::Other, _) => self.header(name)?.as_str(),
            _ => None,
        }
    }

    /// A property, unless absent or null.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Value> {
        if let Plain::Null = self.skimmed(|source| source.skimmed.property(name)) {
            return None;
        }
        self.tree()
            .get("properties")?
            .get(name)
            .filter(|value| !value.is_null())
    }

    /// A property that is text.
    #[must_use]
    pub fn property_text(&self, name: &str) -> Option<&str> {
        match (self.skimmed(|source| source.skimmed.property(name)), &self.source) {
            (Plain::Text(span), Some(source)) => Some(span.of(&source.text)),
            (Plain::Other, _) => self.property(name)?.as_str(),
            _ => None,
        }
    }

    /// A field beside headers and properties, such as `content-type`, if it is text.
    #[must_use]
    pub fn field_text(&self, name: &str) -> Option<&str> {
        match (self.skimmed(|source| source.skimmed.field(name)), &self.source) {
            (Plain::Text(span), Some(source)) => Some(span.of(&source.text)),
            (Plain::Other, _) => self.tree().get(name)?.as_str(),
            _ => None,
        }
    }

    fn skimmed_header(&self, name: &str) -> Plain {
        self.skimmed(|source| source.skimmed.header(name))
    }

    /// What skimming knows; [`Plain::Other`] when there is only the tree.
    fn skimmed(&self, look: impl FnOnce(&Source) -> Plain) -> Plain {
        self.source.as_deref().map_or(Plain::Other, look)
    }

    /// Retries made so far; absent is zero.
    #[must_use]
    pub fn retries(&self) -> u32 {
        let retries = match self.skimmed_header("retries") {
            Plain::Int(retries) => u64::try_from(retries).ok(),
            Plain::Other => self.header("retries").and_then(Value::as_u64),
            _ => None,
        };
        retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
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
        let [hard, soft] = match &self.source {
            Some(source) => source.skimmed.timelimit,
            None => [0, 1].map(|at| self.header("timelimit")?.get(at)?.as_f64()),
        };
        let sensible = |seconds: &f64| seconds.is_finite() && *seconds > 0.0;
        (hard.filter(sensible), soft.filter(sensible))
    }

    /// The producer's wish not to have a result stored; `None` leaves it to the worker.
    #[must_use]
    pub fn ignore_result(&self) -> Option<bool> {
        match self.skimmed_header("ignore_result") {
            Plain::Bool(ignore) => Some(ignore),
            Plain::Other => self.header("ignore_result")?.as_bool(),
            _ => None,
        }
    }

    /// The priority that decides on the list.
    #[must_use]
    pub fn priority(&self) -> Priority {
        let priority = match self.skimmed(|source| source.skimmed.property("priority")) {
            Plain::Int(priority) => Some(priority),
            Plain::Other => self.property("priority").and_then(Value::as_i64),
            _ => None,
        };
        Priority(priority.unwrap_or(0))
    }

    /// The publisher's delivery tag, the same through every restore of the message.
    #[must_use]
    pub fn publisher_tag(&self) -> Option<&str> {
        self.property_text("delivery_tag")
    }

    /// Whether the message was handed out before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        match self.skimmed_header("redelivered") {
            Plain::Bool(redelivered) => redelivered,
            Plain::Other => self
                .header("redelivered")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            _ => false,
        }
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
            text: self.field_text("body"),
            content_type: self.field_text("content-type"),
            is_base64: self.property_text("body_encoding") == Some("base64"),
            compression: self.text("compression"),
        }
    }

    fn set_body(&mut self, body: &Body) {
        let fields = self.tree_mut();
        for (name, value) in [
            ("body", body.to_base64_json()),
            ("content-encoding", "utf-8".into()),
            ("content-type", "application/json".into()),
        ] {
            fields.insert(name.into(), Value::String(value));
        }
    }

    fn time(&self, name: &'static str) -> Result<Option<DateTime<Utc>>, EnvelopeError> {
        if let Some(time) = self.text(name).and_then(timestamp::parse) {
            return Ok(Some(time));
        }
        self.header(name).map_or(Ok(None), |value| {
            Err(EnvelopeError::BadHeader {
                name,
                value: value.to_string().chars().take(80).collect(),
                expected: "an ISO-8601 time",
            })
        })
    }

    fn object(&mut self, name: &str) -> &mut Map<String, Value> {
        let slot = self
            .tree_mut()
            .entry(name)
            .or_insert_with(|| Value::Object(Map::new()));
        if !slot.is_object() {
            *slot = Value::Object(Map::new());
        }
        slot.as_object_mut().expect("just made an object")
    }
}

#[cfg(test)]
#[path = "envelope/tests.rs"]
mod tests;
