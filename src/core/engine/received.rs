//! A message on its way to its task.

use super::Ticket;
use crate::transport::Claimed;
use tradebot_wire::body::Body;
use tradebot_wire::envelope::Envelope;

/// A claimed message, decoded.
pub(super) struct Received {
    /// Its place among the requests, once it is accepted to run.
    pub(super) ticket: Option<Ticket>,
    pub(super) claimed: Claimed,
    pub(super) message: Envelope,
    pub(super) body: Body,
    /// Its start is marked in Redis.
    pub(super) marked: bool,
}

impl Received {
    /// Decodes a message; an error returns it with the reason.
    pub(super) fn read(claimed: Claimed) -> Result<Self, (Claimed, String)> {
        let message = match Envelope::parse(&claimed.raw) {
            Ok(message) => message,
            Err(reason) => return Err((claimed, reason.to_string())),
        };
        match message.body() {
            Ok(body) => Ok(Self {
                ticket: None,
                claimed,
                message,
                body,
                marked: false,
            }),
            Err(reason) => Err((claimed, reason.to_string())),
        }
    }
}
