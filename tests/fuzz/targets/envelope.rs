//! Any bytes as an element of a queue's list.
//!
//! Reading them never panics. What is a message is written and read back unchanged, and so is every other part of it
//! when one is edited.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};
use tradebot_wire::body_error::MAX_BODY_BYTES;
use tradebot_wire::envelope::Envelope;

fuzz_target!(|raw: &[u8]| {
    let Ok(message) = Envelope::parse(raw) else {
        return;
    };
    assert!(!message.task().is_empty() && !message.id().is_empty());
    let _ = (
        message.eta(),
        message.expires(),
        message.timelimit(),
        message.retries(),
    );
    let _ = (
        message.priority().step(&tradebot_wire::envelope::PRIORITY_STEPS),
        message.ignore_result(),
        message.redelivered(),
    );
    if let Ok(body) = message.body() {
        let texts = body.args.iter().map(size).sum::<usize>();
        assert!(texts <= MAX_BODY_BYTES);
    }

    let written = message.to_json();
    assert!(written.is_ascii(), "Python writes nothing else");
    let again = read(&written);
    assert_eq!(again, message);
    assert_eq!(read_of(&again), read_of(&message));
    for name in NAMES {
        assert_eq!(again.header(name), message.header(name), "{name}");
        assert_eq!(again.text(name), message.text(name), "{name}");
        assert_eq!(again.property(name), message.property(name), "{name}");
        assert_eq!(again.property_text(name), message.property_text(name), "{name}");
        assert_eq!(again.field_text(name), message.field_text(name), "{name}");
    }

    let mut edited = message.clone();
    edited.set_header("x-fuzz", json!({"a": ["\u{1F680}", null, 1.5]}));
    edited.set_property("priority", json!(9));
    edited.mark_redelivered();
    let edited = read(&edited.to_json());
    assert_eq!(
        edited.header("x-fuzz"),
        Some(json!({"a": ["\u{1F680}", null, 1.5]}))
    );
    assert_eq!(edited.property("priority"), Some(json!(9)));
    assert!(edited.redelivered());
    for name in [
        "task",
        "id",
        "eta",
        "expires",
        "retries",
        "timelimit",
        "root_id",
        "group",
    ] {
        assert_eq!(edited.header(name), message.header(name), "{name}");
    }
    for name in ["body", "content-type", "content-encoding"] {
        assert_eq!(edited.field_text(name), message.field_text(name), "{name}");
    }
    assert_eq!(edited.publisher_tag(), message.publisher_tag());
    assert_eq!(edited.body().ok(), message.body().ok());

    let mut cleared = edited;
    cleared.clear_redelivered();
    assert!(!read(&cleared.to_json()).redelivered());
});

const NAMES: [&str; 18] = [
    "task",
    "id",
    "eta",
    "expires",
    "retries",
    "timelimit",
    "redelivered",
    "ignore_result",
    "compression",
    "priority",
    "delivery_tag",
    "body_encoding",
    "delivery_info",
    "reply_to",
    "body",
    "content-type",
    "content-encoding",
    "headers",
];

/// What a worker asks a message for.
fn read_of(message: &Envelope) -> impl PartialEq + std::fmt::Debug {
    let times = (message.eta().ok(), message.expires().ok());
    let flags = (message.ignore_result(), message.redelivered());
    let text = (
        message.task().to_owned(),
        message.id().to_owned(),
        message.publisher_tag().map(str::to_owned),
    );
    (
        times,
        flags,
        text,
        message.retries(),
        message.timelimit(),
        message.priority(),
        message.body().ok(),
    )
}

fn read(text: &str) -> Envelope {
    Envelope::parse(text.as_bytes()).expect("what was written is a message")
}

/// Bytes of text in a value.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + size(value)).sum(),
        _ => 0,
    }
}
