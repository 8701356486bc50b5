//! The message envelope: one element of a queue's list.
//!
//! An [`Envelope`] keeps the members of a message in their order, each as its own text, and parses a member when its
//! value is needed. A change replaces one member; the others are written as they came, in Python's spacing and ASCII.
//! Reading is lenient where Python is (absent fields have defaults) and where Python crashes (no `properties`, no
//! `delivery_info`). It insists only on what makes a message a task: a JSON object with a name and an id.
//!
//! A protocol 1 message (Celery 3) is converted to protocol 2 on reading, as Celery does when it retries one.

mod error;
mod members;
mod protocol_1;

use chrono::{DateTime, Utc};
use serde::de::IgnoredAny;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use super::body::{Body, Encoded};
use super::body_error::BodyError;
use super::{opaque, python_json, python_repr, timestamp, typed};
use members::{Member, Members};

pub use error::EnvelopeError;

/// The default of kombu's `priority_steps`: the lists of a queue in the order they are served.
pub const PRIORITY_STEPS: [u8; 4] = [0, 3, 6, 9];

/// The priority of a message, as sent. 0 is served first; values outside 0..=9 are clamped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Priority(pub i64);

impl Priority {
    /// The step, of these in ascending order, whose list holds messages of this priority. As in kombu, a priority below the
    /// first step belongs to the last.
    #[must_use]
    pub fn step(self, steps: &[u8]) -> u8 {
        let priority = self.0.clamp(0, 9);
        let step = steps.iter().rev().find(|step| i64::from(**step) <= priority);
        step.or(steps.last()).copied().unwrap_or_default()
    }
}

/// One task message.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// All members of the message. `{}` marks the place of the two objects below.
    fields: Members,
    headers: Members,
    properties: Members,
    /// The id, if its header is a UUID object.
    uuid: Option<String>,
}

/// Messages are equal if they are written alike.
impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }
}

impl Serialize for Envelope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, member) in &self.fields {
            match name.as_str() {
                "headers" if !self.headers.is_empty() => map.serialize_entry(name, &self.headers)?,
                "properties" if !self.properties.is_empty() => map.serialize_entry(name, &self.properties)?,
                _ => map.serialize_entry(name, member)?,
            }
        }
        map.end()
    }
}

impl Envelope {
    /// Reads a list element.
    ///
    /// # Errors
    /// [`EnvelopeError`] if it is not a task message.
    pub fn parse(raw: &[u8]) -> Result<Self, EnvelopeError> {
        let mut envelope = Self::of_any_message(raw)?;
        if envelope.headers.get("task").is_none_or(Member::is_null) {
            envelope.adopt_protocol_1()?;
        }
        envelope.read_uuids();
        if envelope.task().is_empty() {
            return Err(EnvelopeError::NoName);
        }
        if envelope.id().is_empty() {
            return Err(EnvelopeError::NoId {
                task: envelope.task().to_owned(),
            });
        }
        Ok(envelope)
    }

    /// Ids may be UUID objects. The task's own stays one for its client, who looks for it in the result; the others
    /// become text.
    fn read_uuids(&mut self) {
        let uuid = |headers: &Members, name| match headers.get(name) {
            Some(member @ Member::Json(_)) => typed::uuid_text(&member.value()?),
            _ => None,
        };
        self.uuid = uuid(&self.headers, "id");
        for name in ["root_id", "parent_id", "group"] {
            if let Some(text) = uuid(&self.headers, name) {
                self.headers.insert(name.into(), Member::Text(text));
            }
        }
    }

    /// Reads any message of kombu, a task or not, as kombu does: bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// [`EnvelopeError`] if it is not a JSON object.
    pub fn of_any_message(raw: &[u8]) -> Result<Self, EnvelopeError> {
        let text = String::from_utf8_lossy(raw);
        match Self::of_json(&text) {
            Err(EnvelopeError::NotJson(_)) => Self::of_json(&opaque::standard(&text)),
            read => read,
        }
    }

    fn of_json(text: &str) -> Result<Self, EnvelopeError> {
        let mut fields: Members = match serde_json::from_str(text) {
            Err(error) if error.is_data() => {
                serde_json::from_str::<IgnoredAny>(text)?;
                return Err(EnvelopeError::NotAnObject);
            }
            read => read?,
        };
        Ok(Self {
            headers: members::take_object(&mut fields, "headers")?,
            properties: members::take_object(&mut fields, "properties")?,
            fields,
            uuid: None,
        })
    }

    /// Whether it has the fields of every message of kombu.
    #[must_use]
    pub fn is_of_kombu(&self) -> bool {
        ["body", "headers", "properties"]
            .iter()
            .all(|field| self.fields.contains_key(*field))
    }

    /// Builds an envelope. The body is encoded as Python sends it, as base64 of its JSON.
    #[must_use]
    pub fn assemble(headers: Map<String, Value>, properties: Map<String, Value>, body: &Body) -> Self {
        let mut envelope = Self {
            fields: Members::new(),
            headers: members::of(headers),
            properties: members::of(properties),
            uuid: None,
        };
        envelope.read_uuids();
        envelope.set_body(body);
        for object in ["headers", "properties"] {
            envelope.fields.insert(object.into(), Member::empty_object());
        }
        envelope
    }

    /// The list element to push, in Python's spelling of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        python_json::to_string(self).expect("names and JSON values are JSON")
    }

    /// Name of the task.
    #[must_use]
    pub fn task(&self) -> &str {
        self.text("task").unwrap_or_default()
    }

    /// Id of the task, which retries keep.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text("id").or(self.uuid.as_deref()).unwrap_or_default()
    }

    /// The id as it was sent: text, or a UUID object.
    pub(super) fn sent_id(&self) -> Option<&impl Serialize> {
        self.headers.get("id")
    }

    /// A header, unless absent or null.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<Value> {
        self.headers.get(name)?.value()
    }

    /// All headers that have a value.
    #[must_use]
    pub fn headers(&self) -> Map<String, Value> {
        members::values(&self.headers)
    }

    /// All properties that have a value.
    #[must_use]
    pub fn properties(&self) -> Map<String, Value> {
        members::values(&self.properties)
    }

    /// A header that is a string.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.text()
    }

    /// A property, unless absent or null.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<Value> {
        self.properties.get(name)?.value()
    }

    /// A property that is a string.
    #[must_use]
    pub fn property_text(&self, name: &str) -> Option<&str> {
        self.properties.get(name)?.text()
    }

    /// A field beside `headers` and `properties` that is a string, such as `content-type`.
    #[must_use]
    pub fn field_text(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.text()
    }

    /// Number of retries so far; 0 if absent.
    #[must_use]
    pub fn retries(&self) -> u32 {
        let retries = self.header("retries").and_then(|retries| retries.as_u64());
        retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    }

    /// Earliest time to run the task.
    ///
    /// # Errors
    /// [`EnvelopeError::BadHeader`] if it is not a time; Celery treats that as an invalid task.
    pub fn eta(&self) -> Result<Option<DateTime<Utc>>, EnvelopeError> {
        self.time("eta")
    }

    /// Time from which the task must not start.
    ///
    /// # Errors
    /// [`EnvelopeError::BadHeader`] if it is not a time.
    pub fn expires(&self) -> Result<Option<DateTime<Utc>>, EnvelopeError> {
        self.time("expires")
    }

    /// The message's own hard and soft time limit in seconds (Celery puts the hard one first).
    #[must_use]
    pub fn timelimit(&self) -> (Option<f64>, Option<f64>) {
        let limits = self.header("timelimit");
        let limit = |place: usize| {
            let seconds = limits.as_ref()?.get(place)?.as_f64()?;
            (seconds.is_finite() && seconds > 0.0).then_some(seconds)
        };
        (limit(0), limit(1))
    }

    /// Whether the producer wants no result; `None` leaves it to the worker.
    #[must_use]
    pub fn ignore_result(&self) -> Option<bool> {
        self.header("ignore_result")?.as_bool()
    }

    /// The priority, which selects the list.
    #[must_use]
    pub fn priority(&self) -> Priority {
        let priority = self.property("priority").and_then(|priority| priority.as_i64());
        Priority(priority.unwrap_or(0))
    }

    /// The publisher's delivery tag. Restores keep it, so it names one try of a task, however often that is run again after a
    /// crash.
    #[must_use]
    pub fn publisher_tag(&self) -> Option<&str> {
        self.property_text("delivery_tag")
    }

    /// Whether the message was delivered before.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.header("redelivered") == Some(Value::Bool(true))
    }

    /// Decodes the body.
    ///
    /// # Errors
    /// [`BodyError`] if it cannot be decoded.
    pub fn body(&self) -> Result<Body, BodyError> {
        Body::decode(&self.encoded_body())
    }

    /// What runs after the task, as far as the body can be read: without arguments if it has none that are in order.
    #[must_use]
    pub fn workflow(&self) -> Body {
        self.body()
            .unwrap_or_else(|_| Body::of_workflow(&self.encoded_body()))
    }

    /// Sets a header.
    pub fn set_header(&mut self, name: &str, value: Value) {
        self.headers.insert(name.into(), value.into());
        self.fields
            .entry("headers".into())
            .or_insert_with(Member::empty_object);
    }

    /// Sets a property.
    pub fn set_property(&mut self, name: &str, value: Value) {
        self.properties.insert(name.into(), value.into());
        self.fields
            .entry("properties".into())
            .or_insert_with(Member::empty_object);
    }

    /// Marks a redelivery in both places, as kombu's restore does.
    pub fn mark_redelivered(&mut self) {
        self.set_header("redelivered", Value::Bool(true));
        self.edit_delivery_info(|info| {
            info.insert("redelivered".into(), Value::Bool(true));
        });
    }

    /// Removes the marks of a redelivery, for a message that is published again.
    pub fn clear_redelivered(&mut self) {
        self.headers.shift_remove("redelivered");
        self.edit_delivery_info(|info| {
            info.shift_remove("redelivered");
        });
    }

    fn edit_delivery_info(&mut self, edit: impl FnOnce(&mut Map<String, Value>)) {
        if let Some(Value::Object(mut info)) = self.property("delivery_info") {
            edit(&mut info);
            self.set_property("delivery_info", Value::Object(info));
        }
    }

    pub(super) fn encoded_body(&self) -> Encoded<'_> {
        Encoded {
            text: self.field_text("body"),
            content_type: self.field_text("content-type"),
            is_base64: self.property_text("body_encoding") == Some("base64"),
            compression: self.text("compression"),
        }
    }

    /// Replaces the arguments, and what `result_extended` and Flower show of them.
    pub fn set_arguments(&mut self, args: Vec<Value>, kwargs: Map<String, Value>) {
        self.set_header("argsrepr", python_repr::args(&args).into());
        self.set_header("kwargsrepr", python_repr::kwargs(&kwargs).into());
        let embed = self.workflow().embed;
        self.set_body(&Body { args, kwargs, embed });
    }

    fn set_body(&mut self, body: &Body) {
        for (name, value) in [
            ("body", body.to_base64_json().as_str()),
            ("content-encoding", "utf-8"),
            ("content-type", "application/json"),
        ] {
            self.fields.insert(name.into(), Member::Text(value.into()));
        }
    }

    fn time(&self, name: &'static str) -> Result<Option<DateTime<Utc>>, EnvelopeError> {
        let Some(member) = self.headers.get(name).filter(|member| !member.is_null()) else {
            return Ok(None);
        };
        match member.text().and_then(timestamp::parse) {
            Some(time) => Ok(Some(time)),
            None => Err(EnvelopeError::BadHeader {
                name,
                value: python_json::to_string(member)?.chars().take(80).collect(),
                expected: "an ISO-8601 time",
            }),
        }
    }
}

#[cfg(test)]
#[path = "envelope/tests.rs"]
mod tests;
