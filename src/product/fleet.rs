//! The state of a deployment, read from Redis in one place for the doctor, `status`, the health checks and the HTTP
//! endpoint.
//!
//! A [`FleetReader`] holds the connections and the limits that its user sets; each type here reads itself over one. The
//! endpoint shows an `overview` of [`counters`], [`queues`] and [`liveness`]. The doctor looks closer: at the `servers`,
//! the `lists`, the `backlog` and the `members`. Two verdicts stand beside them: `readiness` of this process and
//! `healthcheck` of another one. Findings and advice are the `doctor`'s.

#[cfg(feature = "worker")]
pub mod backlog;
pub mod counters;
#[cfg(feature = "worker")]
pub mod healthcheck;
#[cfg(feature = "worker")]
pub mod lists;
pub mod liveness;
#[cfg(feature = "worker")]
pub mod members;
pub(crate) mod overview;
pub mod queues;
pub(crate) mod readiness;
#[cfg(feature = "worker")]
pub mod servers;
#[cfg(feature = "worker")]
mod trend;

use std::time::Duration;

use redis::{FromRedisValue, Pipeline};

use tradebot_base::config::RedisConfig;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_wire::keys::Keys;

/// What reading may cost.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimits {
    /// How long opening a connection and each reply may take.
    pub patience: Duration,
    /// How many workers, and how many beats, are looked at.
    pub members: usize,
    /// How many steps of 2,000 keys the search for beats may take.
    pub scan_steps: usize,
}

impl ReadLimits {
    /// Limits time alone.
    #[cfg(feature = "worker")]
    #[must_use]
    pub const fn patience(patience: Duration) -> Self {
        Self {
            patience,
            members: usize::MAX,
            scan_steps: usize::MAX,
        }
    }
}

/// Reads the state of a deployment.
pub struct FleetReader {
    cache: Connection,
    broker: Connection,
    keys: Keys,
    limits: ReadLimits,
}

impl FleetReader {
    /// A reader whose connections introduce themselves as `name`. It opens them when it first needs them.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub fn new(redis: &RedisConfig, name: &str, limits: ReadLimits) -> Result<Self, RedisTrouble> {
        let connect = |url| Connection::impatient(url, name, limits.patience);
        let (cache, broker) = (connect(&redis.cache)?, connect(&redis.broker)?);
        Ok(Self {
            cache: if cache.same_database(&broker) {
                broker.clone()
            } else {
                cache
            },
            broker,
            keys: Keys::with_prefix(&redis.key_prefix),
            limits,
        })
    }

    /// Asks the broker several questions of one kind. Without any, the Redis client would report an error.
    async fn ask_broker<T: FromRedisValue>(&self, questions: &Pipeline) -> Result<Vec<T>, RedisTrouble> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        self.broker.pipeline(questions).await
    }
}

/// A number of seconds in the unit that a person would use.
#[must_use]
pub fn span(seconds: i64) -> String {
    match seconds {
        ..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        assert_eq!(
            [span(-5), span(119), span(120), span(7200), span(172_800)],
            ["-5 s", "119 s", "2 min", "2 h", "2 days"]
        );
    }
}
