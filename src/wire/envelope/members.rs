//! The members of a JSON object, each kept as its own text until its value is needed.

use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::python_json;

/// Members by name, in the order of the message. If a name occurs twice, the last value counts.
pub(super) type Members = IndexMap<String, Member>;

/// The value of one member.
#[derive(Debug, Clone)]
pub(super) enum Member {
    /// A string, unescaped.
    Text(String),
    /// Any other value as JSON, and strings that Rust cannot hold because of half a surrogate pair.
    Json(Box<RawValue>),
}

impl Member {
    /// `{}`.
    pub(super) fn empty_object() -> Self {
        Self::from(Value::Object(Map::new()))
    }

    /// The string, unless this is another type.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Json(_) => None,
        }
    }

    /// The value, unless it is null or beyond what a [`Value`] holds.
    pub(super) fn value(&self) -> Option<Value> {
        match self {
            Self::Text(text) => Some(Value::from(text.as_str())),
            Self::Json(_) if self.is_null() => None,
            Self::Json(json) => python_json::from_slice(json.get().as_bytes()).ok(),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Json(json) if json.get() == "null")
    }
}

impl From<&RawValue> for Member {
    fn from(json: &RawValue) -> Self {
        if json.get().starts_with('"')
            && let Ok(text) = serde_json::from_str::<String>(json.get())
            && !python_json::is_opaque(&text)
        {
            return Self::Text(text);
        }
        Self::Json(json.to_owned())
    }
}

impl From<Value> for Member {
    fn from(value: Value) -> Self {
        match value {
            Value::String(text) if !python_json::is_opaque(&text) => Self::Text(text),
            other => Self::Json(python_json::to_raw(&other)),
        }
    }
}

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <&RawValue>::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for Member {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => text.serialize(serializer),
            Self::Json(json) => json.serialize(serializer),
        }
    }
}

/// The members of an object.
pub(super) fn of(object: Map<String, Value>) -> Members {
    let member = |(name, value)| (name, Member::from(value));
    object.into_iter().map(member).collect()
}

/// The members that have a value.
pub(super) fn values(members: &Members) -> Map<String, Value> {
    let value = |(name, member): (&String, &Member)| Some((name.clone(), member.value()?));
    members.iter().filter_map(value).collect()
}

/// Moves the members of one object out of `fields` and leaves `{}` in its place. A field of another type stays.
pub(super) fn take_object(fields: &mut Members, name: &str) -> Result<Members, serde_json::Error> {
    match fields.get_mut(name) {
        Some(Member::Json(json)) if json.get().starts_with('{') => {
            let members = serde_json::from_str(json.get())?;
            *json = python_json::to_raw(&Map::new());
            Ok(members)
        }
        _ => Ok(Members::new()),
    }
}
