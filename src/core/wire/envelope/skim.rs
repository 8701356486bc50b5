//! Skimming: a message's members, found without building the tree of its JSON.
//!
//! A message has some forty members, and a run asks for ten of them. Skimming notes where each plain value
//! lies in the text; whatever is not plain (nested, or with escapes) it leaves to the tree, which is built when
//! somebody asks for it. It reads every value as strictly as the tree does, so a text that was skimmed can be
//! built. Of members that come twice the last one counts, as in the tree.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// What skimming found; places are in the text it was given.
#[derive(Debug, Clone)]
pub(super) struct Skimmed {
    fields: Members,
    headers: Members,
    properties: Members,
    /// Seconds of the header `timelimit`, as far as they are numbers: hard limit first.
    pub(super) timelimit: [Option<f64>; 2],
}

/// The members of one object: where the name lies, and the value.
type Members = Vec<(Span, Plain)>;

/// A value without structure.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plain {
    Null,
    Bool(bool),
    Int(i64),
    Text(Span),
    /// Anything else: the tree tells.
    Other,
}

/// A part of the text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// The part itself.
    pub(super) fn of(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }

    /// Where `part` lies in `text`, from which it was borrowed.
    fn locate(text: &str, part: &str) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(text.as_ptr() as usize);
        Self {
            start,
            end: start.wrapping_add(part.len()),
        }
    }
}

impl Skimmed {
    /// Skims a message; `None` where only the tree helps.
    pub(super) fn of(text: &str) -> Option<Self> {
        let Json::Object(fields) = serde_json::from_str(text).ok()? else {
            return None;
        };
        let object = |name: &str| match last(&fields, name) {
            Some(Json::Object(members)) => members.as_slice(),
            _ => &[],
        };
        let headers = object("headers");
        let seconds = |value: &Json<'_>| match value {
            #[expect(clippy::cast_precision_loss, reason = "a limit of 2^53 seconds is none")]
            Json::Int(seconds) => Some(*seconds as f64),
            Json::Float(seconds) => Some(*seconds),
            _ => None,
        };
        let timelimit = match last(headers, "timelimit") {
            Some(Json::List(limits)) => [0, 1].map(|place| limits.get(place).and_then(seconds)),
            _ => [None, None],
        };
        Some(Self {
            timelimit,
            headers: places(text, headers),
            properties: places(text, object("properties")),
            fields: places(text, &fields),
        })
    }

    pub(super) fn field(&self, text: &str, name: &str) -> Plain {
        find(&self.fields, text, name)
    }

    pub(super) fn header(&self, text: &str, name: &str) -> Plain {
        find(&self.headers, text, name)
    }

    pub(super) fn property(&self, text: &str, name: &str) -> Plain {
        find(&self.properties, text, name)
    }
}

/// An absent member is as good as null.
fn find(members: &Members, text: &str, name: &str) -> Plain {
    let found = members.iter().rfind(|(known, _)| known.of(text) == name);
    found.map_or(Plain::Null, |(_, value)| *value)
}

fn last<'j, 'a>(members: &'j [(&'a str, Json<'a>)], name: &str) -> Option<&'j Json<'a>> {
    members
        .iter()
        .rfind(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

fn places(text: &str, members: &[(&str, Json<'_>)]) -> Members {
    let place = |(name, value): &(&str, Json<'_>)| {
        let value = match value {
            Json::Null => Plain::Null,
            Json::Bool(value) => Plain::Bool(*value),
            Json::Int(value) => Plain::Int(*value),
            Json::Text(value) => Plain::Text(Span::locate(text, value)),
            Json::Float(_) | Json::Escaped | Json::List(_) | Json::Object(_) => Plain::Other,
        };
        (Span::locate(text, name), value)
    };
    members.iter().map(place).collect()
}

/// A JSON value that borrows its text.
enum Json<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// A text that is not in the message as it is meant.
    Escaped,
    List(Vec<Json<'a>>),
    Object(Vec<(&'a str, Json<'a>)>),
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'de>, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "as the tree reads it where a float is asked for"
        )]
        let float = value as f64;
        Ok(i64::try_from(value).map_or(Json::Float(float), Json::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(value))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(text))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Json<'de>, E> {
        Ok(Json::Escaped)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Json<'de>, S::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Json::List(items))
    }

    /// A name that is not plain text ends the skimming.
    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Json<'de>, M::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Json::Object(members))
    }
}
