//! Requests and replies of remote control, in the format of `kombu.pidbox`.

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Map, Value, json};
use thiserror::Error;
use uuid::Uuid;

use super::body::Body;
use super::body_error::BodyError;
use super::envelope::Envelope;
use super::python_json;

/// The fanout exchange of requests; on Redis, part of a channel's name.
pub const EXCHANGE: &str = "celery.pidbox";
/// The direct exchange of replies.
pub const REPLY_EXCHANGE: &str = "reply.celery.pidbox";

/// Why a message is not a request.
#[derive(Debug, Error)]
pub enum PidboxError {
    /// The message is not a JSON object.
    #[error("the request is no JSON object")]
    NotAnObject,
    /// The body cannot be decoded.
    #[error("the request's body cannot be read")]
    Body(#[source] BodyError),
    /// The body is not an object that names a command.
    #[error("the request names no method")]
    NoMethod,
}

/// Where to send the reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// Name of a direct exchange.
    pub exchange: String,
    /// Routing key of the client's reply queue.
    pub routing_key: String,
    /// Copied into the reply, so that the client can match it to its request.
    pub ticket: Value,
}

/// A pidbox message: a request to nodes or a reply to a client.
#[derive(Debug, Clone, PartialEq)]
pub struct PidboxMessage {
    /// The logical clock of the sender's mailbox.
    pub clock: u64,
    /// The ticket, if this is a reply.
    pub ticket: Option<Value>,
    /// The decoded body.
    pub body: Map<String, Value>,
}

/// A request to run a command.
#[derive(Debug, Clone, PartialEq)]
pub struct PidboxRequest {
    /// Name of the command.
    pub method: String,
    /// Arguments by name.
    pub arguments: Map<String, Value>,
    /// Names of the nodes it is for; null for all.
    pub destination: Value,
    /// Pattern of the nodes it is for, and how to match it: `glob` or `pcre`.
    pub pattern: Option<(String, String)>,
    /// Where to send a reply, if one is wanted.
    pub reply_to: Option<ReplyTo>,
}

impl PidboxMessage {
    /// Reads a request from the channel or a reply from a list.
    ///
    /// # Errors
    /// [`PidboxError`].
    pub fn parse(raw: &[u8]) -> Result<Self, PidboxError> {
        let message = Envelope::of_any_message(raw).map_err(|_| PidboxError::NotAnObject)?;
        let body = Body::decode_value(&message.encoded_body()).map_err(PidboxError::Body)?;
        let Value::Object(body) = body else {
            return Err(PidboxError::NoMethod);
        };
        let clock = message.header("clock").and_then(|clock| clock.as_u64());
        Ok(Self {
            clock: clock.unwrap_or(0),
            ticket: message.header("ticket"),
            body,
        })
    }

    /// Reads the body as a request.
    ///
    /// # Errors
    /// [`PidboxError::NoMethod`].
    pub fn into_request(mut self) -> Result<PidboxRequest, PidboxError> {
        let mut take = |name: &str| self.body.remove(name).unwrap_or(Value::Null);
        let Value::String(method) = take("method") else {
            return Err(PidboxError::NoMethod);
        };
        let arguments = match take("arguments") {
            Value::Object(arguments) => arguments,
            _ => Map::new(),
        };
        let pattern = match (take("pattern"), take("matcher")) {
            (Value::String(pattern), Value::String(matcher)) if !pattern.is_empty() => {
                Some((pattern, matcher)).filter(|(_, matcher)| !matcher.is_empty())
            }
            _ => None,
        };
        let (reply_to, ticket) = (take("reply_to"), take("ticket"));
        let text = |name: &str| reply_to.get(name).and_then(Value::as_str).map(str::to_owned);
        let reply_to = text("exchange").zip(text("routing_key"));
        Ok(PidboxRequest {
            method,
            arguments,
            destination: take("destination"),
            pattern,
            reply_to: reply_to.map(|(exchange, routing_key)| ReplyTo {
                exchange,
                routing_key,
                ticket,
            }),
        })
    }
}

/// A reply, to push to the client's list.
#[must_use]
pub fn reply(node: &str, answer: &Value, to: &ReplyTo, clock: u64) -> String {
    let headers = json!({"ticket": to.ticket, "clock": clock});
    envelope(&json!({node: answer}), &headers, 1, &to.exchange, &to.routing_key)
}

/// A request to all nodes, to publish on the channel.
#[must_use]
pub fn call(method: &str, arguments: Value, to: &ReplyTo, clock: u64, expires: f64) -> String {
    let body = json!({
        "method": method, "arguments": arguments, "destination": null, "pattern": null, "matcher": null,
        "ticket": to.ticket, "reply_to": {"exchange": to.exchange, "routing_key": to.routing_key},
    });
    let headers = json!({"clock": clock, "expires": expires});
    envelope(&body, &headers, 2, EXCHANGE, "")
}

fn envelope(body: &Value, headers: &Value, delivery_mode: u8, exchange: &str, routing_key: &str) -> String {
    let text = |value: &Value| python_json::to_string(value).expect("JSON values are JSON");
    let message = json!({
        "body": BASE64_STANDARD.encode(text(body)),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "delivery_mode": delivery_mode,
            "delivery_info": {"exchange": exchange, "routing_key": routing_key},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": Uuid::new_v4().to_string(),
        },
    });
    text(&message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to() -> ReplyTo {
        ReplyTo {
            exchange: REPLY_EXCHANGE.into(),
            routing_key: "oid".into(),
            ticket: json!("T"),
        }
    }

    #[test]
    fn a_call_is_read_back_as_a_request() {
        let raw = call("hello", json!({"from_node": "w@h"}), &to(), 7, 1.5);
        let message = PidboxMessage::parse(raw.as_bytes()).unwrap();
        assert_eq!(message.clock, 7);
        let request = message.into_request().unwrap();
        assert_eq!(
            (request.method.as_str(), &request.destination),
            ("hello", &Value::Null)
        );
        assert_eq!(request.arguments["from_node"], "w@h");
        assert_eq!((request.pattern, request.reply_to), (None, Some(to())));
    }

    #[test]
    fn an_answer_carries_ticket_and_clock() {
        let raw = reply("w@h", &json!({"ok": "pong"}), &to(), 5);
        let message = PidboxMessage::parse(raw.as_bytes()).unwrap();
        assert_eq!((message.clock, message.ticket), (5, Some(json!("T"))));
        assert_eq!(message.body["w@h"], json!({"ok": "pong"}));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (raw, reason) in [
            ("", "no JSON object"),
            ("[]", "no JSON object"),
            ("{}", "cannot be read"),
            (r#"{"body": "{"}"#, "cannot be read"),
            (r#"{"body": "[]"}"#, "no method"),
            (r#"{"body": "{}"}"#, "no method"),
            (r#"{"body": "{\"method\": 7}"}"#, "no method"),
            (
                r#"{"body": "x", "content-type": "application/x-python-serialize"}"#,
                "cannot be read",
            ),
        ] {
            let refused = PidboxMessage::parse(raw.as_bytes()).and_then(PidboxMessage::into_request);
            let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(reason), "{raw}: {error}");
        }
        // As in Python, an optional part of the wrong type counts as absent.
        let odd = r#"{"body": "{\"method\": \"ping\", \"arguments\": 1, \"reply_to\": 2, \"pattern\": 3}"}"#;
        let request = PidboxMessage::parse(odd.as_bytes())
            .unwrap()
            .into_request()
            .unwrap();
        assert!(request.arguments.is_empty() && request.reply_to.is_none());
    }
}
