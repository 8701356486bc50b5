//! The health of one part, for container probes: fast, and based on what the part does.

use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

use super::liveness::{BeatFacts, RegisteredWorker};
use super::{FleetReader, ReadLimits};
use crate::config::outgoing::plain_client;
use tradebot_base::clock::SharedClock;
use tradebot_base::config::RedisConfig;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;

/// Time limit of a check.
const TIMEOUT: Duration = Duration::from_millis(900);
/// Time limit of the worker's answer.
const PATIENCE: Duration = Duration::from_millis(600);

/// How much of an answer is kept.
const TEXT_BYTES: usize = 400;

/// Why a part is not healthy.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Unhealthy(String);

/// Checks one part.
pub(crate) struct HealthCheck {
    reader: FleetReader,
    clock: SharedClock,
}

/// An endpoint's answer to `/readyz`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct EndpointProbe {
    /// The requested URL.
    pub url: String,
    /// HTTP status of the answer, if one came.
    pub status: Option<u16>,
    /// The answer, or why there is none.
    pub text: String,
}

impl HealthCheck {
    /// Checks against these servers.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub(crate) fn new(redis: &RedisConfig, clock: SharedClock) -> Result<Self, RedisTrouble> {
        let reader = FleetReader::new(redis, "healthcheck", ReadLimits::patience(TIMEOUT))?;
        Ok(Self { reader, clock })
    }

    /// Whether the worker `node` consumes: it answers over remote control, or renews its lease while its tasks block the
    /// answer. Returns which.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub(crate) async fn worker(&self, node: &str) -> Result<&'static str, Unhealthy> {
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
    pub(crate) async fn beat(&self, host: &str) -> Result<String, Unhealthy> {
        let beats = within(BeatFacts::read_all(&self.reader)).await?;
        beats
            .into_iter()
            .find(|beat| beat.host() == host)
            .map(|beat| beat.instance)
            .ok_or_else(|| Unhealthy(format!("no beat on {host} has a heartbeat")))
    }

    /// Whether the HTTP endpoint at `listen` is ready.
    ///
    /// # Errors
    /// [`Unhealthy`].
    pub(crate) async fn endpoint(listen: &str) -> Result<(), Unhealthy> {
        let probe = EndpointProbe::request(listen, TIMEOUT).await;
        if probe.is_ready() {
            return Ok(());
        }
        Err(Unhealthy(format!("{} is not ready: {}", probe.url, probe.text)))
    }
}

impl EndpointProbe {
    /// Requests `/readyz` of the endpoint at `listen`, the value of `HTTP_LISTEN` or `HTTP_ADMIN_LISTEN`. Uses no proxy.
    pub(crate) async fn request(listen: &str, timeout: Duration) -> Self {
        let url = format!("http://{}/readyz", reachable(listen));
        let answered = async {
            let mut answer = plain_client().timeout(timeout).build()?.get(&url).send().await?;
            let status = answer.status().as_u16();
            let mut text = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                text.extend_from_slice(&chunk);
                if text.len() > TEXT_BYTES {
                    break;
                }
            }
            let text: String = String::from_utf8_lossy(&text).chars().take(TEXT_BYTES).collect();
            Ok::<_, reqwest::Error>((status, text.trim().to_owned()))
        };
        let (status, text) = match answered.await {
            Ok((status, text)) => (Some(status), text),
            Err(error) => (None, error_chain(&error.without_url())),
        };
        Self { url, status, text }
    }

    /// Whether it is ready.
    pub(crate) fn is_ready(&self) -> bool {
        self.status == Some(200)
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

/// The address to connect to when an endpoint listens at `listen`, which may be a wildcard address.
fn reachable(listen: &str) -> String {
    match listen.parse::<std::net::SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => {
            let host = if address.is_ipv4() { "127.0.0.1" } else { "[::1]" };
            format!("{host}:{}", address.port())
        }
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_asked_over_loopback() {
        assert_eq!(reachable("0.0.0.0:8000"), "127.0.0.1:8000");
        assert_eq!(reachable("[::]:8000"), "[::1]:8000");
        assert_eq!(reachable("10.1.2.3:80"), "10.1.2.3:80");
    }
}
