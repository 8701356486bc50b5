//! Asks all nodes a question over remote control and collects their replies.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::cmd;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::debug;
use uuid::Uuid;

use crate::events::LamportClock;
use crate::transport::bind;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_wire::keys::Keys;
use tradebot_wire::pidbox::{self, PidboxMessage, ReplyTo};

const POLL: Duration = Duration::from_millis(10);

/// A command for all nodes.
pub struct Inquiry<'a> {
    /// A connection to the broker.
    pub connection: &'a Connection,
    /// The broker's keys.
    pub keys: &'a Keys,
    /// The sender's mailbox clock.
    pub mailbox: &'a LamportClock,
    /// Name of the command.
    pub method: &'a str,
    /// Its arguments.
    pub arguments: Value,
    /// Unix time after which nodes ignore the command.
    pub expires: f64,
    /// How long to wait, unless all nodes reply sooner.
    pub patience: Duration,
    /// A node whose reply is enough.
    pub wanted: Option<&'a str>,
}

/// The replies to an [`Inquiry`].
#[derive(Default)]
pub struct Replies {
    /// Each node's reply.
    pub by_node: BTreeMap<String, Value>,
    /// How many replies came under each name: one, unless several nodes share it.
    pub counts: BTreeMap<String, usize>,
    /// How many nodes listen but did not reply in time.
    pub silent: usize,
}

impl Inquiry<'_> {
    /// Sends the command and collects the replies.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn send(self) -> Result<Replies, RedisTrouble> {
        let oid = Uuid::new_v4().to_string();
        let queue = format!("{oid}.{}", pidbox::REPLY_EXCHANGE);
        let member = self.keys.binding_member(&oid, "", &queue);
        // Nodes look up the reply queue by this binding.
        let bound = bind(
            self.connection,
            self.keys,
            pidbox::REPLY_EXCHANGE,
            &[false],
            &member,
        );
        if !bound.await? {
            return Ok(Replies::default());
        }
        let replies = self.collect(oid, &queue).await;
        release(
            self.connection,
            self.keys,
            pidbox::REPLY_EXCHANGE,
            &member,
            &queue,
        )
        .await?;
        replies
    }

    async fn collect(&self, oid: String, queue: &str) -> Result<Replies, RedisTrouble> {
        let to = ReplyTo {
            exchange: pidbox::REPLY_EXCHANGE.to_owned(),
            routing_key: oid,
            ticket: json!(Uuid::new_v4().to_string()),
        };
        let clock = self.mailbox.forward();
        let call = pidbox::call(self.method, self.arguments.clone(), &to, clock, self.expires);
        let channel = self.keys.channel(self.connection.database(), pidbox::EXCHANGE);
        // PUBLISH returns how many nodes received the command.
        let publish = cmd("PUBLISH").arg(channel).arg(call).to_owned();
        let mut replies = Replies {
            silent: self.connection.command(&publish).await?,
            ..Replies::default()
        };
        let deadline = Instant::now() + self.patience;
        let list = self.keys.list(queue, 0);
        while replies.silent > 0 && Instant::now() < deadline {
            let raw: Option<Vec<u8>> = self.connection.command(cmd("RPOP").arg(&list)).await?;
            let Some(raw) = raw else {
                sleep(POLL).await;
                continue;
            };
            replies.silent -= 1;
            match PidboxMessage::parse(&raw) {
                Ok(message) if message.ticket.as_ref() == Some(&to.ticket) => {
                    self.mailbox.adjust(message.clock);
                    for node in message.body.keys() {
                        *replies.counts.entry(node.clone()).or_default() += 1;
                    }
                    replies.by_node.extend(message.body);
                }
                Ok(_) => {}
                Err(reason) => debug!(reason = %error_chain(&reason), "ignored a malformed reply"),
            }
            if self.wanted.is_some_and(|node| replies.by_node.contains_key(node)) {
                break;
            }
        }
        Ok(replies)
    }
}

/// Removes a binding and deletes the queue's lists.
pub(super) async fn release(
    connection: &Connection,
    keys: &Keys,
    exchange: &str,
    member: &str,
    queue: &str,
) -> Result<(), RedisTrouble> {
    let mut pipeline = redis::pipe();
    for permanent in [false, true] {
        pipeline.srem(keys.binding(exchange, permanent), member).ignore();
    }
    pipeline.del(keys.lists(queue).collect::<Vec<_>>()).ignore();
    connection.pipeline(&pipeline).await
}
