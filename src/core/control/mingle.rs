//! Mingle: getting revoked ids from the other workers, at the start and after every reconnect.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tracing::{debug, info, warn};

use super::inquiry::Inquiry;
use super::node::Node;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_wire::pidbox;

/// How long to wait for replies, as in Celery.
const PATIENCE: Duration = Duration::from_secs(1);

impl Node {
    /// Takes over the other workers' revoked ids.
    pub(super) async fn mingle(&self) {
        if !self.settings.mingle {
            return;
        }
        info!("mingle: searching for neighbors");
        self.mingling.store(true, Ordering::Relaxed);
        let replies = self.hello_to_all().await;
        self.mingling.store(false, Ordering::Relaxed);
        match replies {
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

    /// Celery's `DuplicateNodenameWarning`.
    pub(super) fn warn_of_twin(&self) {
        warn!(
            hostname = self.name(),
            "another worker has the same node name: remote control and monitors take both for one, \
             give each another name with -n"
        );
    }

    /// Sends `hello` and returns what other nodes reply.
    async fn hello_to_all(&self) -> Result<BTreeMap<String, Value>, RedisTrouble> {
        self.extend_deadline(pidbox::REPLY_EXCHANGE).await?;
        let inquiry = Inquiry {
            connection: self.connection(),
            keys: self.keys(),
            mailbox: self.mailbox(),
            method: "hello",
            arguments: json!({"from_node": self.name(), "revoked": self.revoked_ids()}),
            expires: self.clock().unix_seconds() + PATIENCE.as_secs_f64(),
            patience: PATIENCE,
            wanted: None,
        };
        let answers = inquiry.send().await?;
        if answers
            .counts
            .get(self.name())
            .is_some_and(|replies| *replies > 1)
        {
            self.warn_of_twin();
        }
        let mut replies = answers.by_node;
        replies.retain(|node, reply| node != self.name() && reply.is_object());
        Ok(replies)
    }
}
