//! The state of a deployment, read from Redis in one place for the doctor, `status`, the health checks and the HTTP
//! endpoint.
//!
//! A [`FleetReader`] holds the connections and the read limits; each type here reads itself through one. The endpoint
//! shows an `overview` of [`counters`], [`queues`] and [`liveness`]. The doctor also reads the `servers`, the `lists`, the
//! `backlog` and the `members`. `readiness` judges this process, `healthcheck` another one.

#[cfg(feature = "worker")]
pub(crate) mod backlog;
pub(crate) mod counters;
#[cfg(feature = "worker")]
pub(crate) mod healthcheck;
#[cfg(feature = "worker")]
pub(crate) mod lists;
pub(crate) mod liveness;
#[cfg(feature = "worker")]
pub(crate) mod members;
pub(crate) mod overview;
pub(crate) mod queues;
pub(crate) mod readiness;
#[cfg(feature = "worker")]
pub(crate) mod servers;
#[cfg(feature = "worker")]
mod trend;

use std::time::Duration;

use redis::{FromRedisValue, Pipeline};

use tradebot_base::config::RedisConfig;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_wire::keys::Keys;

/// Limits of one reading.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadLimits {
    /// Time limit for opening a connection and for each reply.
    pub patience: Duration,
    /// Maximum number of workers, and of beats.
    pub members: usize,
    /// Maximum number of steps, of 2,000 keys each, in the search for beats.
    pub scan_steps: usize,
}

impl ReadLimits {
    /// Limits only the time.
    #[cfg(feature = "worker")]
    #[must_use]
    pub(crate) const fn patience(patience: Duration) -> Self {
        Self {
            patience,
            members: usize::MAX,
            scan_steps: usize::MAX,
        }
    }
}

/// Reads the state of a deployment.
pub(crate) struct FleetReader {
    cache: Connection,
    broker: Connection,
    keys: Keys,
    limits: ReadLimits,
}

impl FleetReader {
    /// A reader whose connections are named `name`. It opens them on first use.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub(crate) fn new(redis: &RedisConfig, name: &str, limits: ReadLimits) -> Result<Self, RedisTrouble> {
        let connect = |url| Connection::impatient(url, name, limits.patience);
        let (cache, broker) = (connect(&redis.cache)?, connect(&redis.broker)?);
        Ok(Self {
            cache: if cache.same_database(&broker) {
                broker.clone()
            } else {
                cache
            },
            broker,
            keys: Keys::new(&redis.key_prefix, &redis.sep, &redis.priority_steps),
            limits,
        })
    }

    /// Runs a pipeline on the broker. The Redis client rejects an empty one, so that returns nothing.
    async fn broker_pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> Result<Vec<T>, RedisTrouble> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.broker.pipeline(commands).await
    }
}

/// A number of seconds in a readable unit.
#[must_use]
pub(crate) fn span(seconds: i64) -> String {
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
