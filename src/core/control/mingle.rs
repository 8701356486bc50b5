//! Mingle: asking the other workers at the start, and after every reconnect, for what was revoked.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::cmd;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::node::Node;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_wire::keys;
use tradebot_wire::pidbox::{self, PidboxMessage, ReplyTo};

/// How long answers are waited for; Celery waits so long always.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);

impl Node {
    /// Takes over what the others know.
    pub(super) async fn mingle(&self) {
        if !self.settings.mingle {
            return;
        }
        info!("mingle: searching for neighbors");
        match self.hello_to_all().await {
            Ok(replies) if replies.is_empty() => info!("mingle: all alone"),
            Ok(replies) => {
                info!("mingle: sync with {} nodes", replies.len());
                for (node, reply) in &replies {
                    debug!(node, "mingle: processing reply");
                    match reply.get("clock").and_then(Value::as_u64) {
                        Some(clock) => self.engine().lamport().adjust(clock),
                        None => self.engine().lamport().forward(),
                    };
                    self.take_over(reply.get("revoked"));
                }
                self.save(false);
                info!("mingle: sync complete");
            }
            Err(trouble) => warn!(error = %error_chain(&trouble), "mingle failed"),
        }
    }

    /// Adds ids that another worker has revoked: a list, or before Celery 5.7 an object with the ids as names.
    pub(super) fn take_over(&self, revoked: Option<&Value>) {
        let ids: Vec<&str> = match revoked {
            Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).collect(),
            Some(Value::Object(ids)) => ids.keys().map(String::as_str).collect(),
            _ => return,
        };
        self.engine().revoke(&ids);
    }

    /// Sends `hello` and collects what other nodes answer.
    async fn hello_to_all(&self) -> Result<BTreeMap<String, Value>, RedisTrouble> {
        let oid = Uuid::new_v4().to_string();
        let queue = format!("{oid}.{}", pidbox::REPLY_EXCHANGE);
        let member = keys::binding_member(&oid, "", &queue);
        self.declare(pidbox::REPLY_EXCHANGE, &member).await?;
        let answers = self.collect(&oid, &queue).await;
        self.release(pidbox::REPLY_EXCHANGE, &member, &queue).await?;
        answers
    }

    async fn collect(&self, oid: &str, queue: &str) -> Result<BTreeMap<String, Value>, RedisTrouble> {
        let to = ReplyTo {
            exchange: pidbox::REPLY_EXCHANGE.to_owned(),
            routing_key: oid.to_owned(),
            ticket: json!(Uuid::new_v4().to_string()),
        };
        let now = self.clock().now();
        let revoked = self.engine().revocations().ids(now);
        let ids: Vec<String> = revoked.into_iter().map(|(id, _)| id).collect();
        let arguments = json!({"from_node": self.name(), "revoked": ids});
        let expires = self.clock().unix_seconds() + PATIENCE.as_secs_f64();
        let hello = pidbox::call("hello", arguments, &to, self.mailbox().forward(), expires);
        let mut publish = cmd("PUBLISH");
        publish.arg(self.channel()).arg(hello);
        // So many got it, this node among them: when all have answered there is nothing to wait for.
        let mut expected: usize = self.connection().command(&publish).await?;

        let deadline = Instant::now() + PATIENCE;
        let mut replies = BTreeMap::new();
        let list = self.keys().list(queue, 0);
        while expected > 0 && Instant::now() < deadline {
            let raw: Option<Vec<u8>> = self.connection().command(cmd("RPOP").arg(&list)).await?;
            let Some(raw) = raw else {
                tokio::time::sleep(POLL).await;
                continue;
            };
            expected -= 1;
            match PidboxMessage::parse(&raw) {
                Ok(message) if message.ticket.as_ref() == Some(&to.ticket) => {
                    self.mailbox().adjust(message.clock);
                    replies.extend(message.body.into_iter().filter(|(_, reply)| reply.is_object()));
                }
                Ok(_) => {}
                Err(reason) => debug!(reason = %error_chain(&reason), "mingle: an answer is none"),
            }
        }
        replies.remove(self.name());
        Ok(replies)
    }
}
