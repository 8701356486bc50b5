//! One part's health, for container probes: quick, and by what the part does rather than by its being there.

use std::time::Duration;

use thiserror::Error;

use super::exchange::Endpoint;
use super::fleet;
use super::{Trouble, connect};
use tradebot_base::clock::SharedClock;
use tradebot_base::config::RedisConfig;
use tradebot_wire::keys::Keys;

/// How long a check may take.
const TIMEOUT: Duration = Duration::from_millis(900);
/// How long an answer of the worker is waited for.
const PATIENCE: Duration = Duration::from_millis(600);

/// Why a part is not healthy.
#[derive(Debug, Error)]
pub enum Unhealthy {
    /// The broker could not be asked.
    #[error("the broker cannot be asked: {0}")]
    Broker(String),
    /// The check took too long.
    #[error("no answer within {} ms", TIMEOUT.as_millis())]
    Timeout,
    /// The worker neither answers nor has a lease.
    #[error("the worker {0} does not answer, and has no lease: it does not consume")]
    Worker(String),
    /// No beat of this machine has a heartbeat.
    #[error("no beat on {0} has a heartbeat")]
    Beat(String),
    /// The endpoint is not ready.
    #[error("{url} is not ready: {text}")]
    Endpoint {
        /// What was asked for.
        url: String,
        /// The answer, or why there was none.
        text: String,
    },
}

/// Checks one part.
pub struct Health {
    redis: RedisConfig,
    keys: Keys,
    clock: SharedClock,
}

impl Health {
    /// Checks against these servers.
    #[must_use]
    pub fn new(redis: RedisConfig, clock: SharedClock) -> Self {
        let keys = Keys::with_prefix(&redis.key_prefix);
        Self { redis, keys, clock }
    }

    /// Whether the worker `node` consumes: it answers over remote control, or renews its lease while its tasks keep it
    /// from answering. Returns which.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub async fn worker(&self, node: &str) -> Result<&'static str, Unhealthy> {
        within(async {
            let connection = connect(&self.redis.broker)?;
            let leased = async {
                Ok::<_, Trouble>(
                    fleet::leases(&connection, &self.keys)
                        .await?
                        .iter()
                        .any(|one| one == node),
                )
            };
            let asked = fleet::inquire_for(
                &connection,
                &self.keys,
                &*self.clock,
                "ping",
                PATIENCE,
                Some(node),
            );
            let (leased, asked) = tokio::join!(leased, asked);
            Ok(if asked.is_ok_and(|(answers, _)| answers.contains_key(node)) {
                Some("it answers")
            } else if leased? {
                Some("it does not answer now, and its lease is renewed")
            } else {
                None
            })
        })
        .await?
        .ok_or_else(|| Unhealthy::Worker(node.to_owned()))
    }

    /// Whether a beat on the machine `host` has a heartbeat. Returns its id.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub async fn beat(&self, host: &str) -> Result<String, Unhealthy> {
        let beats = within(async {
            let connection = connect(&self.redis.broker)?;
            fleet::beats(&connection, &self.redis.key_prefix).await
        })
        .await?;
        let own = beats.into_iter().find(|beat| beat.heartbeat["host"] == host);
        own.map(|beat| beat.instance)
            .ok_or_else(|| Unhealthy::Beat(host.to_owned()))
    }

    /// Whether the HTTP endpoint at `listen` says that it is ready.
    ///
    /// # Errors
    /// [`Unhealthy::Endpoint`].
    pub async fn endpoint(listen: &str) -> Result<(), Unhealthy> {
        let Endpoint { url, text, .. } = match Endpoint::look(listen, TIMEOUT).await {
            ready if ready.is_ready() => return Ok(()),
            other => other,
        };
        Err(Unhealthy::Endpoint { url, text })
    }
}

async fn within<T>(check: impl Future<Output = Result<T, Trouble>>) -> Result<T, Unhealthy> {
    match tokio::time::timeout(TIMEOUT, Box::pin(check)).await {
        Ok(answer) => answer.map_err(|trouble| Unhealthy::Broker(trouble.text)),
        Err(_) => Err(Unhealthy::Timeout),
    }
}
