//! The message around events, as kombu publishes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;

use super::buffer::Chunk;
use tradebot_wire::python_json;

/// The message of one chunk; `hostname` is the sender where the chunk names none.
pub(super) fn message(chunk: &Chunk, hostname: &str) -> Vec<u8> {
    let (body, end) = chunk.body();
    let sender = python_json::to_string(chunk.sender.as_deref().unwrap_or(hostname)).expect("text is JSON");
    let routing_key = python_json::to_string(&chunk.routing_key).expect("text is JSON");
    let mut message = String::with_capacity(body.len() / 3 * 4 + 512);
    message.push_str(r#"{"body": ""#);
    // Encoded in two parts, of which the first must be a multiple of three bytes long.
    let whole = body.len() - body.len() % 3;
    STANDARD.encode_string(&body[..whole], &mut message);
    STANDARD.encode_string([&body[whole..], end].concat(), &mut message);
    message.push_str(
        r#"", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"hostname": "#,
    );
    message.push_str(&sender);
    message.push_str(
        r#"}, "properties": {"delivery_mode": 1, "delivery_info": {"exchange": "celeryev", "routing_key": "#,
    );
    message.push_str(&routing_key);
    message.push_str(r#"}, "priority": 0, "body_encoding": "base64", "delivery_tag": ""#);
    message.push_str(&Uuid::new_v4().to_string());
    message.push_str(r#""}}"#);
    message.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::buffer::Buffer;
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_envelope_is_kombus() {
        for length in 0..4 {
            let mut buffer = Buffer::default();
            let text = "x".repeat(length);
            buffer.push_task(|body, _| body.extend_from_slice(format!(r#"{{"uuid": "{text}"}}"#).as_bytes()));
            let message: Value = serde_json::from_slice(&message(&buffer.take().0[0], "w\"@h")).unwrap();
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
