//! Skimming: a message's usual members, found without building the tree of its JSON.
//!
//! A message has some forty members, and a run asks for a dozen. Skimming notes where the value of each of those
//! lies in the text, if it is plain; everything else is left to the tree, which is built when somebody asks for
//! it. It reads every value as strictly as the tree does, so a text that was skimmed can be built. Of members
//! that come twice the last one counts, as in the tree.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The members noted. Those of one object each.
const FIELDS: [&str; 2] = ["body", "content-type"];
const HEADERS: [&str; 18] = [
    "task",
    "id",
    "eta",
    "expires",
    "retries",
    "timelimit",
    "group",
    "group_index",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "redelivered",
    "compression",
    "stamped_headers",
    "stamps",
];
const PROPERTIES: [&str; 5] = [
    "delivery_tag",
    "body_encoding",
    "priority",
    "reply_to",
    "correlation_id",
];

/// What skimming found; places are in the text it was given.
#[derive(Debug, Clone)]
pub(super) struct Skimmed {
    fields: [Plain; FIELDS.len()],
    headers: [Plain; HEADERS.len()],
    properties: [Plain; PROPERTIES.len()],
    /// Seconds of the header `timelimit`, as far as they are numbers: hard limit first.
    pub(super) timelimit: [Option<f64>; 2],
}

/// A value without structure.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plain {
    /// Null, or absent.
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
    start: u32,
    end: u32,
}

impl Span {
    /// The part itself.
    pub(super) fn of(self, text: &str) -> &str {
        text.get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }

    /// Where `part` lies in `text`, from which it was borrowed.
    fn locate(text: &str, part: &str) -> Option<Self> {
        let start = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
        Some(Self {
            start: u32::try_from(start).ok()?,
            end: u32::try_from(start + part.len()).ok()?,
        })
    }
}

impl Skimmed {
    /// Skims a message; `None` where only the tree helps.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut found = Self {
            fields: [Plain::Null; FIELDS.len()],
            headers: [Plain::Null; HEADERS.len()],
            properties: [Plain::Null; PROPERTIES.len()],
            timelimit: [None, None],
        };
        let mut json = serde_json::Deserializer::from_str(text);
        Message {
            text,
            found: &mut found,
        }
        .deserialize(&mut json)
        .ok()?;
        json.end().ok()?;
        Some(found)
    }

    pub(super) fn field(&self, name: &str) -> Plain {
        look_up(&FIELDS, &self.fields, name)
    }

    pub(super) fn header(&self, name: &str) -> Plain {
        look_up(&HEADERS, &self.headers, name)
    }

    pub(super) fn property(&self, name: &str) -> Plain {
        look_up(&PROPERTIES, &self.properties, name)
    }
}

fn look_up(names: &[&str], values: &[Plain], name: &str) -> Plain {
    let place = names.iter().position(|known| *known == name);
    place.map_or(Plain::Other, |place| values[place])
}

/// Reads the message's object.
struct Message<'t, 'f> {
    text: &'t str,
    found: &'f mut Skimmed,
}

impl<'de: 't, 't> DeserializeSeed<'de> for Message<'t, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de: 't, 't> Visitor<'de> for Message<'t, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a message")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let Self { text, found } = self;
        while let Some(name) = map.next_key::<&str>()? {
            match name {
                "headers" => {
                    found.timelimit = [None, None];
                    map.next_value_seed(Members {
                        text,
                        names: &HEADERS,
                        values: &mut found.headers,
                        timelimit: &mut found.timelimit,
                    })?;
                }
                "properties" => map.next_value_seed(Members {
                    text,
                    names: &PROPERTIES,
                    values: &mut found.properties,
                    timelimit: &mut [None, None],
                })?,
                _ => {
                    let value = map.next_value::<Json<'_>>()?;
                    if let Some(place) = FIELDS.iter().position(|known| *known == name) {
                        found.fields[place] = value.plain(text);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Reads one of its objects. One that is none ends the skimming.
struct Members<'t, 'f> {
    text: &'t str,
    names: &'static [&'static str],
    values: &'f mut [Plain],
    timelimit: &'f mut [Option<f64>; 2],
}

impl<'de: 't, 't> DeserializeSeed<'de> for Members<'t, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de: 't, 't> Visitor<'de> for Members<'t, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        self.values.fill(Plain::Null);
        while let Some(name) = map.next_key::<&str>()? {
            let value = map.next_value::<Json<'_>>()?;
            let Some(place) = self.names.iter().position(|known| *known == name) else {
                continue;
            };
            if name == "timelimit" {
                *self.timelimit = match value {
                    Json::List(limits) => limits,
                    _ => [None, None],
                };
            }
            self.values[place] = value.plain(self.text);
        }
        Ok(())
    }
}

/// A JSON value, as far as it is of interest here.
enum Json<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'a str),
    /// A list, of which the first two elements are told if they are numbers.
    List([Option<f64>; 2]),
    /// An object, or a text that does not stand in the message as it is meant.
    Other,
}

impl Json<'_> {
    fn plain(&self, text: &str) -> Plain {
        match self {
            Self::Null => Plain::Null,
            Self::Bool(value) => Plain::Bool(*value),
            Self::Int(value) => Plain::Int(*value),
            Self::Text(value) => Span::locate(text, value).map_or(Plain::Other, Plain::Text),
            Self::Float(_) | Self::List(_) | Self::Other => Plain::Other,
        }
    }

    fn seconds(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "a limit of 2^53 seconds is none")]
            Self::Int(seconds) => Some(*seconds as f64),
            Self::Float(seconds) => Some(*seconds),
            _ => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue(PhantomData))
    }
}

struct AnyValue<'a>(PhantomData<Json<'a>>);

impl<'de: 'a, 'a> Visitor<'de> for AnyValue<'a> {
    type Value = Json<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json<'a>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json<'a>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json<'a>, E> {
        Ok(Json::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json<'a>, E> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "as the tree reads it where a float is asked for"
        )]
        let float = value as f64;
        Ok(i64::try_from(value).map_or(Json::Float(float), Json::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'a>, E> {
        Ok(Json::Float(value))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Json<'a>, E> {
        Ok(Json::Text(text))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Json<'a>, E> {
        Ok(Json::Other)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Json<'a>, S::Error> {
        let mut first = [None, None];
        let mut place = 0;
        while let Some(item) = seq.next_element::<Json<'_>>()? {
            if let Some(slot) = first.get_mut(place) {
                *slot = item.seconds();
            }
            place += 1;
        }
        Ok(Json::List(first))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Json<'a>, M::Error> {
        while map.next_key::<Json<'_>>()?.is_some() {
            map.next_value::<Json<'_>>()?;
        }
        Ok(Json::Other)
    }
}
