//! Any bytes as the body of a message, in every serializer and compression.
//!
//! Decoding them never panics and never yields more than its bound. What was decoded is written and read back
//! unchanged. The first byte chooses the form, the others are the body.

#![no_main]

use base64::prelude::{BASE64_STANDARD, Engine};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};
use tradebot_wire::body::Body;
use tradebot_wire::body_error::MAX_BODY_BYTES;
use tradebot_wire::envelope::Envelope;

const SERIALIZERS: [&str; 3] = [
    "application/json",
    "application/x-msgpack",
    "application/x-python-serialize",
];
const COMPRESSIONS: [Option<&str>; 5] = [
    None,
    Some("application/x-gzip"),
    Some("application/x-bz2"),
    Some("application/zstd"),
    Some("application/x-brotli"),
];

fuzz_target!(|bytes: &[u8]| {
    let Some((form, bytes)) = bytes.split_first() else {
        return;
    };
    let form = usize::from(*form);
    let serializer = SERIALIZERS[form % SERIALIZERS.len()];
    let compression = COMPRESSIONS[form / SERIALIZERS.len() % COMPRESSIONS.len()];
    let message = json!({
        "body": BASE64_STANDARD.encode(bytes), "content-type": serializer, "content-encoding": "binary",
        "headers": {"task": "t", "id": "i", "compression": compression},
        "properties": {"body_encoding": "base64"},
    });
    let message = Envelope::parse(message.to_string().as_bytes()).expect("it has a name and an id");
    let Ok(mut body) = message.body() else {
        return;
    };
    // As good as absent, and left out by some ways of reading.
    body.embed.retain(|_, value| !value.is_null());
    assert!(serializer != SERIALIZERS[2], "pickle was read");
    let values = body
        .args
        .iter()
        .chain(body.kwargs.values())
        .chain(body.embed.values());
    // Bytes become base64, which is a third longer.
    assert!(values.map(size).sum::<usize>() <= MAX_BODY_BYTES * 4 / 3 + 4);
    assert_eq!(again(&body), body);
});

/// What a worker reads that is sent this body.
fn again(body: &Body) -> Body {
    let headers = Map::from_iter([("task".to_owned(), json!("t")), ("id".to_owned(), json!("i"))]);
    let properties = Map::from_iter([("body_encoding".to_owned(), json!("base64"))]);
    let sent = Envelope::assemble(headers, properties, body).to_json();
    let received = Envelope::parse(sent.as_bytes()).expect("what was written is a message");
    received.body().expect("what was written is a body")
}

/// Bytes of text in a value, the names of members left out.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.values().map(size).sum(),
        _ => 0,
    }
}
