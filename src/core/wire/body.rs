//! The message body: `[args, kwargs, embed]` behind base64, compression and a serializer.
//!
//! JSON is the only serializer accepted so far, as in Celery's default `accept_content`; pickle can run
//! code and stays refused. Of the compressions zlib is known, under the name kombu gives it
//! (`application/x-gzip` holds a zlib stream) and as real gzip, which foreign publishers send.

use std::io::Read;

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::read::{GzDecoder, ZlibDecoder};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{envelope::Envelope, python_json};

/// The most a decompressed body may hold, in bytes.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// Why a body could not be decoded.
#[derive(Debug, Error)]
pub enum BodyError {
    /// There is none, or it is not text.
    #[error("message has no body")]
    Missing,
    /// `body_encoding` says base64 and it is not.
    #[error("message body is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    /// A compression this worker does not know.
    #[error("message body is compressed with `{0}`, which this worker does not know")]
    UnknownCompression(String),
    /// The compressed bytes are damaged.
    #[error("message body does not decompress: {0}")]
    Compression(std::io::Error),
    /// Larger than [`MAX_BODY_BYTES`] after decompression.
    #[error("message body is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// A serializer outside the accept-list.
    #[error("message content type `{0}` is refused, only application/json is accepted")]
    ContentDisallowed(String),
    /// Not JSON.
    #[error("message body is not JSON: {0}")]
    NotJson(#[from] serde_json::Error),
    /// JSON of another shape than `[args, kwargs, embed]`.
    #[error("message body is not `[args, kwargs, embed]` but {0}")]
    Shape(&'static str),
}

/// A decoded body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Body {
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments.
    pub kwargs: Map<String, Value>,
    /// What to do afterwards: `callbacks`, `errbacks`, `chain` (last element first) and `chord`.
    pub embed: Map<String, Value>,
}

impl Body {
    /// Decodes the body of a protocol 2 message, or the object with an `args` key that some producers put
    /// under protocol 2 headers.
    pub(super) fn decode(envelope: &Envelope) -> Result<Self, BodyError> {
        match Self::decode_value(envelope)? {
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

    /// The body as the JSON value it holds, whatever its shape.
    pub(super) fn decode_value(envelope: &Envelope) -> Result<Value, BodyError> {
        let text = envelope
            .field("body")
            .and_then(Value::as_str)
            .ok_or(BodyError::Missing)?;
        let content_type = envelope
            .field("content-type")
            .and_then(Value::as_str)
            .unwrap_or("application/json");
        if content_type != "application/json" {
            return Err(BodyError::ContentDisallowed(
                content_type.chars().take(80).collect(),
            ));
        }
        let encoded = envelope.property("body_encoding").and_then(Value::as_str) == Some("base64");
        let bytes = if encoded {
            BASE64_STANDARD.decode(text)?
        } else {
            text.as_bytes().to_vec()
        };
        let plain = match envelope.header("compression").and_then(Value::as_str) {
            None => bytes,
            Some("application/x-gzip" | "application/zlib" | "gzip" | "zlib") => inflate(&bytes)?,
            Some(other) => return Err(BodyError::UnknownCompression(other.chars().take(80).collect())),
        };
        Ok(serde_json::from_slice(&plain)?)
    }

    /// Base64 of the body's JSON, the form in which Python sends it.
    #[must_use]
    pub fn to_base64_json(&self) -> String {
        let parts = (&self.args, &self.kwargs, &self.embed);
        BASE64_STANDARD.encode(python_json::to_string(&parts).expect("JSON values are JSON"))
    }

    /// One of the embed's lists of signatures, empty when absent or null.
    #[must_use]
    pub fn embedded(&self, name: &str) -> &[Value] {
        self.embed
            .get(name)
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
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

fn inflate(bytes: &[u8]) -> Result<Vec<u8>, BodyError> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        read_bounded(GzDecoder::new(bytes))
    } else {
        read_bounded(ZlibDecoder::new(bytes))
    }
}

fn read_bounded(decoder: impl Read) -> Result<Vec<u8>, BodyError> {
    let mut plain = Vec::new();
    let limit = u64::try_from(MAX_BODY_BYTES).unwrap_or(u64::MAX);
    decoder
        .take(limit + 1)
        .read_to_end(&mut plain)
        .map_err(BodyError::Compression)?;
    if plain.len() > MAX_BODY_BYTES {
        return Err(BodyError::TooLarge);
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
    fn compressed_bodies_are_read_as_zlib_and_as_gzip() {
        let plain = br#"[[1], {"k": 2}, {"chain": null}]"#;
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(plain).unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(plain).unwrap();
        for bytes in [zlib.finish().unwrap(), gzip.finish().unwrap()] {
            let body = message(
                &BASE64_STANDARD.encode(&bytes),
                json!({"compression": "application/x-gzip"}),
                json!({"body_encoding": "base64"}),
            )
            .body()
            .unwrap();
            assert_eq!((body.args, body.kwargs["k"].clone()), (vec![json!(1)], json!(2)));
        }
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
            ("*", json!({}), json!({"body_encoding": "base64"}), "not base64"),
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
