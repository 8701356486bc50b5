//! The message around events, as kombu publishes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use uuid::Uuid;

use super::buffer::Chunk;
use tradebot_wire::python_json;

/// The message of one chunk; `hostname` is the sender where the chunk names none.
pub(super) fn message(chunk: &Chunk, hostname: &str) -> String {
    let message = json!({
        "body": STANDARD.encode(chunk.body().as_bytes()),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"hostname": chunk.sender.as_deref().unwrap_or(hostname)},
        "properties": {
            "delivery_mode": 1,
            "delivery_info": {"exchange": "celeryev", "routing_key": chunk.routing_key},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": Uuid::new_v4().to_string(),
        },
    });
    python_json::to_string(&message).expect("a JSON value is JSON")
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Buffer;
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_envelope_is_kombus() {
        for length in 0..4 {
            let mut buffer = Buffer::default();
            let text = "x".repeat(length);
            buffer.push_task(&format!(r#"{{"uuid": "{text}"}}"#));
            let message: Value = serde_json::from_str(&message(&buffer.take().0[0], "w\"@h")).unwrap();
            let body = STANDARD.decode(message["body"].as_str().unwrap()).unwrap();
            assert_eq!(
                serde_json::from_slice::<Value>(&body).unwrap(),
                json!([{"uuid": text}])
            );
            let mut rest = message.clone();
            rest["body"] = Value::Null;
            let tag = rest["properties"]["delivery_tag"].take();
            assert_eq!(tag.as_str().map(str::len), Some(36));
            assert_eq!(
                rest,
                json!({"body": null, "content-encoding": "utf-8", "content-type": "application/json",
                    "headers": {"hostname": "w\"@h"},
                    "properties": {"delivery_mode": 1, "delivery_info": {"exchange": "celeryev", "routing_key": "task.multi"},
                        "priority": 0, "body_encoding": "base64", "delivery_tag": null}})
            );
        }
    }
}
