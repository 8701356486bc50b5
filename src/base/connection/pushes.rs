//! What the server pushes over a connection, and where that goes.

use std::sync::Arc;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{Notify, mpsc};
use tracing::warn;

/// What the server pushes over a connection.
#[derive(Clone)]
pub(super) enum Pushes {
    Nothing,
    /// Changes of the keys it reads, and its own loss.
    Changes(Arc<Notify>),
    /// What is published on a channel, and its own loss.
    Channel {
        name: String,
        inbox: mpsc::Sender<Vec<u8>>,
        lost: Arc<Notify>,
    },
}

impl Pushes {
    /// Whether they come from a channel, which needs RESP3.
    pub(super) fn is_channel(&self) -> bool {
        matches!(self, Self::Channel { .. })
    }

    /// Hands on what the server pushed.
    pub(super) fn deliver(&self, push: PushInfo) {
        match (self, push.kind) {
            (Self::Changes(changes), PushKind::Invalidate | PushKind::Disconnection) => changes.notify_one(),
            (Self::Channel { lost, .. }, PushKind::Disconnection) => lost.notify_one(),
            (Self::Channel { inbox, name, .. }, PushKind::Message) => {
                // Channel and payload.
                let Some(Value::BulkString(payload)) = push.data.into_iter().nth(1) else {
                    return;
                };
                if inbox.try_send(payload).is_err() {
                    warn!(channel = name, "dropped a message: too many are waiting");
                }
            }
            _ => {}
        }
    }
}
