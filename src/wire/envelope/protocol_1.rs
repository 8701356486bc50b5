//! Conversion of protocol 1 messages (Celery 3) to protocol 2.

use serde_json::{Map, Value, json};

use super::{Envelope, EnvelopeError};
use crate::body::Body;

impl Envelope {
    /// Rebuilds the message as protocol 2. Protocol 1 has everything in the body.
    pub(super) fn adopt_protocol_1(&mut self) -> Result<(), EnvelopeError> {
        let value = Body::decode_value(&self.encoded_body()).map_err(EnvelopeError::NoTask)?;
        let Value::Object(mut old) = value else {
            return Err(EnvelopeError::NoName);
        };
        let mut take = |name: &str| old.remove(name).unwrap_or(Value::Null);
        let args = take("args").as_array().cloned().unwrap_or_default();
        let kwargs = take("kwargs").as_object().cloned().unwrap_or_default();
        let mut embed = Map::new();
        embed.insert("callbacks".into(), take("callbacks"));
        embed.insert("errbacks".into(), take("errbacks"));
        embed.insert("chain".into(), Value::Null);
        embed.insert("chord".into(), take("chord"));
        let id = take("id");
        for (name, value) in [
            ("lang", json!("py")),
            ("task", take("task")),
            ("id", id.clone()),
            ("eta", take("eta")),
            ("expires", take("expires")),
            ("group", take("taskset")),
            ("retries", take("retries")),
            ("timelimit", take("timelimit")),
            ("root_id", id),
            ("parent_id", Value::Null),
        ] {
            self.set_header(name, value);
        }
        self.set_property("body_encoding", json!("base64"));
        self.headers.shift_remove("compression");
        self.set_body(&Body { args, kwargs, embed });
        Ok(())
    }
}
