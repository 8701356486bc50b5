//! Serving one request: parse it, run its command, send the reply.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use redis::{Pipeline, cmd};
use serde_json::Value;
use tracing::{debug, error, warn};

use super::arguments::{Arguments, not_ok};
use super::commands::CommandReply;
use super::destination;
use super::node::Node;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_wire::pidbox::{self, PidboxMessage, ReplyTo};

/// Seconds until an unread reply expires.
const REPLY_EXPIRES_SECONDS: u64 = 60;

impl Node {
    /// Handles one message of the channel.
    pub(super) async fn serve(&self, raw: &[u8]) {
        self.engine().lamport().forward();
        let request = PidboxMessage::parse(raw).and_then(|message| {
            self.mailbox().adjust(message.clock);
            message.into_request()
        });
        let request = match request {
            Ok(request) => request,
            Err(reason) => {
                warn!(reason = %error_chain(&reason), "ignored a message on the remote control channel: it is not a request");
                return;
            }
        };
        if !destination::is_for(&request, self.name()) {
            return;
        }
        debug!(command = request.method, "remote control");
        let arguments = Arguments {
            command: &request.method,
            given: &request.arguments,
        };
        let run = AssertUnwindSafe(self.run(&arguments)).catch_unwind().await;
        let answer = match run {
            Ok(Ok(CommandReply::Value(value))) => value,
            Ok(Ok(CommandReply::Silence)) => return,
            Ok(Err(reason)) => {
                warn!(
                    command = request.method,
                    error = reason.repr(),
                    "a command failed"
                );
                reason.answer()
            }
            Err(_) => {
                error!(command = request.method, "a command panicked");
                not_ok("RuntimeError('the command panicked')")
            }
        };
        self.save(false);
        if let Some(to) = &request.reply_to {
            self.reply(&answer, to).await;
        }
    }

    /// Sends a reply, unless the client has removed its binding.
    async fn reply(&self, answer: &Value, to: &ReplyTo) {
        let element = pidbox::reply(self.name(), answer, to, self.mailbox().forward());
        let mut sent = self.push_reply(&element, to).await;
        if sent.is_err() {
            // The connection may have broken while it was idle. The next attempt opens another.
            sent = self.push_reply(&element, to).await;
        }
        if let Err(trouble) = sent {
            warn!(error = %error_chain(&trouble), "cannot send a reply of remote control");
        }
    }

    async fn push_reply(&self, element: &str, to: &ReplyTo) -> Result<(), RedisTrouble> {
        let binding = self.keys().binding(&to.exchange, false);
        let members: Vec<Vec<u8>> = self.connection().command(cmd("SMEMBERS").arg(binding)).await?;
        let members = members.iter().map(|member| String::from_utf8_lossy(member));
        for member in members {
            let Some(queue) = self.keys().bound_queue(&member, &to.routing_key) else {
                continue;
            };
            let list = self.keys().list(queue, 0);
            let mut pipeline = Pipeline::new();
            pipeline.cmd("LPUSH").arg(&list).arg(element).ignore();
            pipeline
                .cmd("EXPIRE")
                .arg(&list)
                .arg(REPLY_EXPIRES_SECONDS)
                .ignore();
            self.connection().pipeline::<()>(&pipeline).await?;
        }
        Ok(())
    }
}
