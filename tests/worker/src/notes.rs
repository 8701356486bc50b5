//! What `tests.record` leaves behind: how often each task was started, and when.
//!
//! It is the state of this worker, which its tasks find through `bridge::state`. The notes are kept in the
//! Redis of `REDIS_URL`, so that a test can break the broker and still count.

use std::time::{SystemTime, UNIX_EPOCH};

use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::secret::RedisUrl;

/// See the module.
pub(crate) struct Notes(Connection);

impl Notes {
    /// Notes in the Redis at `url`; the connection is opened with the first of them.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub(crate) fn new(url: &RedisUrl, hostname: &str) -> Result<Self, RedisTrouble> {
        Ok(Self(Connection::new(url, &format!("{hostname}-tests"))?))
    }

    /// Runs a command.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub(crate) async fn command<T: redis::FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, RedisTrouble> {
        self.0.command(command).await
    }

    /// Counts one start of task `id` in the hash `key`, and appends `id milliseconds` to the list `key:log`.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub(crate) async fn add(&self, key: &str, id: &str) -> Result<i64, RedisTrouble> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("HINCRBY").arg(key).arg(id).arg(1);
        pipeline
            .cmd("RPUSH")
            .arg(format!("{key}:log"))
            .arg(format!("{id} {}", now.as_millis()))
            .ignore();
        let (starts,): (i64,) = self.0.pipeline(&pipeline).await?;
        Ok(starts)
    }
}
