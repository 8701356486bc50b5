//! The readiness of an HTTP endpoint, asked over HTTP.

use std::time::Duration;

use reqwest::redirect;
use serde::Serialize;

use tradebot_base::error_chain;

/// How much of an answer is kept.
const TEXT_BYTES: usize = 400;

/// What an endpoint answered when asked whether it is ready.
#[derive(Debug, Clone, Serialize)]
pub struct EndpointProbe {
    /// The URL that was asked.
    pub url: String,
    /// HTTP status of the answer, if one came.
    pub status: Option<u16>,
    /// The answer, or why there was none.
    pub text: String,
}

impl EndpointProbe {
    /// Asks the endpoint that listens at `listen`, the value of `HTTP_LISTEN`.
    pub(crate) async fn ask(listen: &str, timeout: Duration) -> Self {
        let url = format!("http://{}/readyz", reachable(listen));
        let asked = async {
            let mut answer = http_client(timeout)?.get(&url).send().await?;
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
        let (status, text) = match asked.await {
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

/// A client that follows no redirects.
///
/// # Errors
/// When the machine's TLS set-up cannot be used.
pub(crate) fn http_client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    // Fails only if a provider is installed already, and then that one serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("tradebot-symbols/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .timeout(timeout)
        .build()
}

/// The address to ask when something listens at `listen`, which may mean all addresses.
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
