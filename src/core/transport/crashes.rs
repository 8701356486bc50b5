//! Messages that kill their worker.
//!
//! When a worker dies, any of the messages it ran may be the cause. So all of them are counted, by the publisher's
//! delivery tag, and a message that ran during two deaths next runs *alone*. If that worker dies too, the message is the
//! cause: the next worker that takes it fails its task and parks it. A message that merely ran beside it succeeds alone, and settling it deletes its count.
//!
//! A claimed message starts at once, except two kinds, which wait without a slot: messages with an `eta`, and those that
//! must run alone. These are marked in a set of the worker when they start, and counted only if marked. All others need
//! no mark.

use std::time::Duration;

use redis::cmd;

use super::{DeliveryTag, Transport};
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::envelope::Envelope;

/// How often a message may be running when its worker dies.
pub const MAX_CRASHES: u64 = 3;
/// From how many crashes on a message is run alone.
pub const ALONE_FROM: u64 = MAX_CRASHES - 1;
/// How long crash counts and a dead worker's marks are kept.
pub(super) const MEMORY: Duration = Duration::from_secs(7 * 86_400);

impl Transport {
    /// How many workers died while they ran this message.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn crashes_of(&self, message: &Envelope) -> Result<u64, RedisTrouble> {
        let count: Option<u64> = self
            .connection
            .command(cmd("HGET").arg(self.keys.crashes()).arg(field(message)))
            .await?;
        Ok(count.unwrap_or_default())
    }

    /// Forgets the crashes of a message that is settled.
    ///
    /// # Errors
    /// [`RedisTrouble`]; a count that stays expires once no message has crashed a worker for a week.
    pub async fn forget_crashes(&self, message: &Envelope) -> Result<(), RedisTrouble> {
        self.connection
            .command::<i64>(cmd("HDEL").arg(self.keys.crashes()).arg(field(message)))
            .await
            .map(drop)
    }

    /// Notes that a delivery which waited is started now.
    ///
    /// # Errors
    /// [`RedisTrouble`]; calling it again is safe.
    pub async fn mark_started(&self, tag: &DeliveryTag) -> Result<(), RedisTrouble> {
        let key = self.keys.started(self.worker_id());
        let mut pipeline = redis::pipe();
        pipeline.sadd(&key, &tag.0).ignore();
        pipeline.cmd("EXPIRE").arg(&key).arg(MEMORY.as_secs()).ignore();
        self.connection.pipeline(&pipeline).await
    }

    /// Takes the mark off a delivery that has been settled.
    ///
    /// # Errors
    /// [`RedisTrouble`]; a mark that stays does no harm, because delivery tags are never used again.
    pub async fn unmark_started(&self, tag: &DeliveryTag) -> Result<(), RedisTrouble> {
        self.connection
            .command::<i64>(cmd("SREM").arg(self.keys.started(self.worker_id())).arg(&tag.0))
            .await
            .map(drop)
    }
}

/// What crashes are counted by: kept by a restored message, new in every retry.
pub(super) fn field(message: &Envelope) -> &str {
    message.publisher_tag().unwrap_or(message.id())
}
