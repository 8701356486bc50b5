//! Questions to workers over Celery's remote control. Python workers leave nothing in Redis that describes them.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::cmd;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::FleetReader;
use tradebot_base::clock::Clock;
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::keys::{self, PRIORITY_STEPS};
use tradebot_wire::pidbox::{self, PidboxMessage, ReplyTo};

const POLL: Duration = Duration::from_millis(10);

/// A command for all nodes.
pub(super) struct Inquiry<'a> {
    pub(super) method: &'a str,
    /// How long to wait for answers, unless all have come.
    pub(super) patience: Duration,
    /// A node whose answer is enough.
    pub(super) wanted: Option<&'a str>,
}

/// The answers to an inquiry.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) by_node: BTreeMap<String, Value>,
    /// Nodes that listen and did not answer in time.
    pub(super) silent: usize,
}

impl Inquiry<'_> {
    /// Sends the command and collects the answers.
    pub(super) async fn send(
        &self,
        reader: &FleetReader,
        clock: &dyn Clock,
    ) -> Result<Answers, RedisTrouble> {
        let oid = Uuid::new_v4().to_string();
        let queue = format!("{oid}.{}", pidbox::REPLY_EXCHANGE);
        let member = keys::binding_member(&oid, "", &queue);
        let bind = cmd("SADD")
            .arg(reader.keys.binding(pidbox::REPLY_EXCHANGE, false))
            .arg(&member)
            .to_owned();
        // Python's nodes look up where an answer goes.
        reader.broker.command::<i64>(&bind).await?;
        let to = ReplyTo {
            exchange: pidbox::REPLY_EXCHANGE.to_owned(),
            routing_key: oid,
            ticket: json!(Uuid::new_v4().to_string()),
        };
        let expires = clock.unix_seconds() + 60.0;
        let call = pidbox::call(self.method, json!({}), &to, 1, expires);
        let answers = self.collect(reader, &call, &to.ticket, &queue).await;
        let mut release = redis::pipe();
        for permanent in [false, true] {
            release.srem(reader.keys.binding(pidbox::REPLY_EXCHANGE, permanent), &member);
        }
        for step in PRIORITY_STEPS {
            release.del(reader.keys.list(&queue, step));
        }
        reader.broker.pipeline::<Vec<i64>>(&release).await?;
        answers
    }

    async fn collect(
        &self,
        reader: &FleetReader,
        call: &str,
        ticket: &Value,
        queue: &str,
    ) -> Result<Answers, RedisTrouble> {
        let channel = reader.keys.channel(reader.broker.database(), pidbox::EXCHANGE);
        let mut answers = Answers {
            silent: reader
                .broker
                .command(cmd("PUBLISH").arg(channel).arg(call))
                .await?,
            ..Answers::default()
        };
        let deadline = Instant::now() + self.patience;
        let list = reader.keys.list(queue, 0);
        while answers.silent > 0 && Instant::now() < deadline {
            let raw: Option<Vec<u8>> = reader.broker.command(cmd("RPOP").arg(&list)).await?;
            let Some(raw) = raw else {
                sleep(POLL).await;
                continue;
            };
            answers.silent -= 1;
            if let Ok(message) = PidboxMessage::parse(&raw)
                && message.ticket.as_ref() == Some(ticket)
            {
                answers.by_node.extend(message.body);
            }
            if self.wanted.is_some_and(|node| answers.by_node.contains_key(node)) {
                break;
            }
        }
        Ok(answers)
    }
}
