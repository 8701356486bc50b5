//! The message body: `[args, kwargs, embed]` behind base64, compression and a serializer.
//!
//! Only JSON and msgpack are accepted: loading pickle runs code, and so can loading YAML.

use std::fmt;

use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use base64::prelude::{BASE64_STANDARD, Engine};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::body_error::BodyError;
use super::{compression, msgpack, python_json};

/// A body as the message holds it.
pub(super) struct Encoded<'m> {
    /// The encoded body.
    pub(super) text: Option<&'m str>,
    /// MIME type of the serializer; JSON when absent.
    pub(super) content_type: Option<&'m str>,
    /// Whether `text` is base64.
    pub(super) is_base64: bool,
    /// Name of the compression method, if compressed.
    pub(super) compression: Option<&'m str>,
}

/// A decoded body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Body {
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments.
    pub kwargs: Map<String, Value>,
    /// What runs afterwards: `callbacks`, `errbacks`, `chain` (the next task is last) and `chord`. Absent means null.
    pub embed: Map<String, Value>,
}

impl Body {
    /// Decodes the body of a protocol 2 message. Some producers send an object with an `args` key instead of the
    /// list; that is read too.
    pub(super) fn decode(encoded: &Encoded<'_>) -> Result<Self, BodyError> {
        if let Some(body) = Self::decode_usual(encoded) {
            return Ok(body);
        }
        match Self::decode_value(encoded)? {
            Value::Array(parts) => {
                let [args, kwargs, embed] = <[Value; 3]>::try_from(parts)
                    .map_err(|_| BodyError::Shape("a list of another length"))?;
                Self::of_parts(args, kwargs, embed)
            }
            Value::Object(mut old) => {
                let args = old
                    .remove("args")
                    .ok_or(BodyError::Shape("an object without `args`"))?;
                let kwargs = old.remove("kwargs").unwrap_or(Value::Null);
                old.retain(|name, _| matches!(name.as_str(), "callbacks" | "errbacks" | "chord"));
                Self::of_parts(args, kwargs, Value::Object(old))
            }
            _ => Err(BodyError::Shape("neither a list nor an object")),
        }
    }

    /// Fast path for nearly every message: three parts, as uncompressed JSON in base64.
    fn decode_usual(encoded: &Encoded<'_>) -> Option<Self> {
        if !encoded.is_base64
            || encoded.compression.is_some()
            || encoded.content_type != Some("application/json")
        {
            return None;
        }
        let bytes = BASE64_STANDARD.decode(encoded.text?).ok()?;
        let (args, kwargs, Embed(embed)) = python_json::from_slice(&bytes).ok()?;
        Some(Self { args, kwargs, embed })
    }

    /// The decoded body, whatever its shape.
    pub(super) fn decode_value(encoded: &Encoded<'_>) -> Result<Value, BodyError> {
        let text = encoded.text.ok_or(BodyError::Missing)?;
        let is_json = match encoded.content_type.unwrap_or("application/json") {
            "application/json" | "json" => true,
            "application/x-msgpack" | "msgpack" => false,
            other => return Err(BodyError::ContentDisallowed(other.chars().take(80).collect())),
        };
        let bytes = if encoded.is_base64 {
            decode_base64(text)?
        } else {
            text.as_bytes().to_vec()
        };
        let plain = match encoded.compression {
            None => bytes,
            Some(method) => compression::decompress(method, &bytes)?,
        };
        if is_json {
            Ok(python_json::from_slice(&plain)?)
        } else {
            msgpack::decode(&plain)
        }
    }

    /// The body as base64 of its JSON, the form Python sends.
    #[must_use]
    pub fn to_base64_json(&self) -> String {
        let parts = (&self.args, &self.kwargs, &self.embed);
        BASE64_STANDARD.encode(python_json::to_string(&parts).expect("JSON values are JSON"))
    }

    /// The signatures under a name in the embed; empty if absent or null.
    #[must_use]
    pub fn embedded(&self, name: &str) -> &[Value] {
        self.embed
            .get(name)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    /// The embed alone of a body whose other parts are not in order.
    pub(super) fn of_workflow(encoded: &Encoded<'_>) -> Self {
        let embed = match Self::decode_value(encoded) {
            Ok(Value::Array(mut parts)) if parts.len() > 2 => parts.swap_remove(2),
            Ok(value @ Value::Object(_)) => value,
            _ => Value::Null,
        };
        Self {
            embed: embed.as_object().cloned().unwrap_or_default(),
            ..Self::default()
        }
    }

    fn of_parts(args: Value, kwargs: Value, embed: Value) -> Result<Self, BodyError> {
        let Value::Array(args) = args else {
            return Err(BodyError::Shape("a list whose args are not a list"));
        };
        let object = |value: Value, what| match value {
            Value::Object(fields) => Ok(fields),
            Value::Null => Ok(Map::new()),
            _ => Err(BodyError::Shape(what)),
        };
        Ok(Self {
            args,
            kwargs: object(kwargs, "a list whose kwargs are not an object")?,
            embed: object(embed, "a list whose embed is not an object")?,
        })
    }
}

/// Decodes base64 as Python's `b64decode` does: characters outside the alphabet, such as line ends, are passed over, and
/// so is what follows the padding.
fn decode_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
    );
    if let Ok(bytes) = BASE64_STANDARD.decode(text) {
        return Ok(bytes);
    }
    let (mut kept, mut padding) = (Vec::with_capacity(text.len()), 0);
    for byte in text.bytes() {
        if byte == b'=' {
            padding += 1;
            if kept.len() % 4 >= 2 && kept.len() % 4 + padding >= 4 {
                kept.resize(kept.len().next_multiple_of(4), b'=');
                break;
            }
        } else if byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/') {
            kept.push(byte);
            padding = 0;
        }
    }
    LENIENT.decode(kept)
}

/// The embed without its null members. Usually all of them are null.
struct Embed(Map<String, Value>);

impl<'de> Deserialize<'de> for Embed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EmbedVisitor;
        impl<'de> Visitor<'de> for EmbedVisitor {
            type Value = Embed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Embed, M::Error> {
                let mut members = Map::new();
                while let Some(name) = map.next_key::<&str>()? {
                    if let Some(value) = map.next_value::<Option<Value>>()? {
                        members.insert(name.to_owned(), value);
                    }
                }
                Ok(Embed(members))
            }
        }
        deserializer.deserialize_map(EmbedVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::super::envelope::Envelope;
    use super::*;
    use serde_json::json;

    fn message(body: &str, headers: Value, properties: Value) -> Envelope {
        let mut headers = headers;
        headers["task"] = json!("t");
        headers["id"] = json!("i");
        let raw = json!({"body": body, "content-type": "application/json", "headers": headers,
            "properties": properties});
        Envelope::parse(raw.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn a_plain_body_and_an_object_with_args_are_read() {
        let body = message("[[1], null, null]", json!({}), json!({})).body().unwrap();
        assert_eq!(body.args, [json!(1)]);
        let body = message(
            r#"{"args": [1], "callbacks": [{"task": "x"}]}"#,
            json!({}),
            json!({}),
        )
        .body()
        .unwrap();
        assert_eq!(body.embedded("callbacks").len(), 1);
    }

    #[test]
    fn damage_is_named() {
        for (text, headers, properties, reason) in [
            ("[[1], {}]", json!({}), json!({}), "another length"),
            ("[1, {}, {}]", json!({}), json!({}), "args are not a list"),
            ("[[], [], {}]", json!({}), json!({}), "kwargs are not an object"),
            ("{}", json!({}), json!({}), "without `args`"),
            ("7", json!({}), json!({}), "neither a list"),
            ("[[", json!({}), json!({}), "not JSON"),
            ("[[nan], {}, {}]", json!({}), json!({}), "not JSON"),
            ("A", json!({}), json!({"body_encoding": "base64"}), "not base64"),
            (
                "AAAA",
                json!({"compression": "application/x-gzip"}),
                json!({"body_encoding": "base64"}),
                "decompress",
            ),
            (
                "AAAA",
                json!({"compression": "rot13"}),
                json!({"body_encoding": "base64"}),
                "rot13",
            ),
        ] {
            let error = message(text, headers, properties).body().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    /// Expected values from Python 3.11.
    #[test]
    fn base64_is_read_as_python_reads_it() {
        for (text, decoded) in [
            ("aGVs\nbG8=\n", Ok("hello")),
            ("aGVs\r\nbG8=\r\n", Ok("hello")),
            ("aGVsbG8=aGVsbG8=", Ok("hello")),
            ("aG=VsbG8=", Ok("hello")),
            (" a*G-V_s é b G 8 = ", Ok("hello")),
            ("aGVsbG9=", Ok("hello")),
            ("", Ok("")),
            ("aGVsbG8", Err(())),
            ("aGVsb===", Err(())),
        ] {
            let ours = decode_base64(text).map_err(drop);
            assert_eq!(ours, decoded.map(|text| text.as_bytes().to_vec()), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let body = Body {
            args: vec![json!("币")],
            ..Body::default()
        };
        let read = message(
            &body.to_base64_json(),
            json!({}),
            json!({"body_encoding": "base64"}),
        )
        .body()
        .unwrap();
        assert_eq!(read, body);
    }
}
