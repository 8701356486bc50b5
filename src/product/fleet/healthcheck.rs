//! The health of one part, for container probes: judged quickly, and by what the part does rather than by its process.

use std::time::Duration;

use thiserror::Error;

use super::endpoint::EndpointProbe;
use super::liveness::{BeatFacts, RegisteredWorker};
use super::{FleetReader, ReadLimits};
use tradebot_base::clock::SharedClock;
use tradebot_base::config::RedisConfig;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;

/// How long a check may take.
const TIMEOUT: Duration = Duration::from_millis(900);
/// How long to wait for the worker's answer.
const PATIENCE: Duration = Duration::from_millis(600);

/// Why a part is not healthy.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Unhealthy(String);

/// Checks one part.
pub struct HealthCheck {
    reader: FleetReader,
    clock: SharedClock,
}

impl HealthCheck {
    /// Checks against these servers.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub fn new(redis: &RedisConfig, clock: SharedClock) -> Result<Self, RedisTrouble> {
        let reader = FleetReader::new(redis, "healthcheck", ReadLimits::patience(TIMEOUT))?;
        Ok(Self { reader, clock })
    }

    /// Whether the worker `node` consumes: it answers over remote control, or renews its lease while its tasks keep it
    /// from answering. Returns which.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub async fn worker(&self, node: &str) -> Result<&'static str, Unhealthy> {
        within(async {
            let (workers, answers) = tokio::join!(
                RegisteredWorker::read_all(&self.reader),
                self.reader.ask_all(&*self.clock, "ping", (PATIENCE, Some(node)))
            );
            if answers.is_ok_and(|answers| answers.by_node.contains_key(node)) {
                return Ok(Some("it answers"));
            }
            let leased = workers?.iter().any(|one| one.leased && one.node == node);
            Ok(leased.then_some("it does not answer now, but renews its lease"))
        })
        .await?
        .ok_or_else(|| {
            Unhealthy(format!(
                "the worker {node} does not answer and has no lease: it consumes nothing"
            ))
        })
    }

    /// Whether a beat on the machine `host` has a heartbeat. Returns its id.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub async fn beat(&self, host: &str) -> Result<String, Unhealthy> {
        let beats = within(BeatFacts::read_all(&self.reader)).await?;
        beats
            .into_iter()
            .find(|beat| beat.host() == host)
            .map(|beat| beat.instance)
            .ok_or_else(|| Unhealthy(format!("no beat on {host} has a heartbeat")))
    }

    /// Whether the HTTP endpoint at `listen` says that it is ready.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub async fn endpoint(listen: &str) -> Result<(), Unhealthy> {
        let probe = EndpointProbe::ask(listen, TIMEOUT).await;
        if probe.is_ready() {
            return Ok(());
        }
        Err(Unhealthy(format!("{} is not ready: {}", probe.url, probe.text)))
    }
}

async fn within<T>(check: impl Future<Output = Result<T, RedisTrouble>>) -> Result<T, Unhealthy> {
    match tokio::time::timeout(TIMEOUT, Box::pin(check)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(trouble)) => Err(Unhealthy(format!(
            "cannot read the broker: {}",
            error_chain(&trouble)
        ))),
        Err(_) => Err(Unhealthy(format!(
            "the broker did not answer within {} ms",
            TIMEOUT.as_millis()
        ))),
    }
}
