//! A message on its way to its task.

use super::Ticket;
use crate::transport::Claimed;
use tradebot_wire::body::Body;
use tradebot_wire::body_error::BodyError;
use tradebot_wire::envelope::{Envelope, EnvelopeError};

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

/// A claimed message that cannot be run.
pub(super) enum Unusable {
    /// It is not a task with an id.
    NoTask(Claimed, EnvelopeError),
    /// Its body cannot be decoded.
    Body(Claimed, Box<Envelope>, BodyError),
}

impl Received {
    /// Decodes a message.
    pub(super) fn read(claimed: Claimed) -> Result<Self, Box<Unusable>> {
        let message = match Envelope::parse(&claimed.raw) {
            Ok(message) => message,
            Err(reason) => return Err(Box::new(Unusable::NoTask(claimed, reason))),
        };
        match message.body() {
            Ok(body) => Ok(Self {
                ticket: None,
                claimed,
                message,
                body,
                marked: false,
            }),
            Err(reason) => Err(Box::new(Unusable::Body(claimed, Box::new(message), reason))),
        }
    }
}
