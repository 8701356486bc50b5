//! Whether the exchange and our own HTTP endpoint answer.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{StatusCode, redirect};
use serde::Serialize;

use super::finding::{self, Finding};
use crate::product::binance::skew;
use tradebot_base::clock::SystemClock;
use tradebot_base::error_chain;
use tradebot_base::market::Market;

/// How long a host may take; below the time of the whole probe.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How much of an answer is read.
const TEXT_BYTES: usize = 400;

/// One host of the exchange.
#[derive(Debug, Clone, Serialize)]
pub struct Host {
    /// The market that is fetched from it.
    pub market: &'static str,
    /// Scheme and host.
    pub url: String,
    /// HTTP status of the answer, if one came.
    pub status: Option<u16>,
    /// Why there was none.
    pub trouble: Option<String>,
    /// Milliseconds from this machine's clock to the host's, if its answer told.
    pub clock_ahead_ms: Option<i64>,
    /// Nobody asks until then: Unix seconds.
    pub banned_until: Option<i64>,
}

/// Our own HTTP endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct Endpoint {
    /// What was asked for.
    pub url: String,
    /// HTTP status of the answer, if one came.
    pub status: Option<u16>,
    /// Why there was none, or what it said.
    pub text: String,
}

/// A client that follows no redirects.
///
/// # Errors
/// When the TLS set-up of the machine cannot be used.
pub(super) fn client(timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    // Fails only if a provider is installed already, and then that one serves.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("tradebot-symbols/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .timeout(timeout)
        .build()
}

/// Pings every host at once, those left out of markets whose ban is known.
pub(super) async fn look(
    hosts: &[(Market, Vec<String>)],
    bans: &BTreeMap<&'static str, i64>,
) -> Result<Vec<Host>, reqwest::Error> {
    let client = client(TIMEOUT)?;
    let probes = hosts
        .iter()
        .flat_map(|(market, urls)| urls.iter().map(move |url| (*market, url)));
    let probes = probes.map(|(market, url)| ping(&client, market, url, bans.get(market.name()).copied()));
    Ok(join_all(probes).await)
}

async fn ping(client: &reqwest::Client, market: Market, url: &str, banned_until: Option<i64>) -> Host {
    let mut host = Host {
        market: market.name(),
        url: url.to_owned(),
        status: None,
        trouble: None,
        clock_ahead_ms: None,
        banned_until,
    };
    if banned_until.is_some() {
        return host;
    }
    let path = match market {
        Market::Spot => "/api/v3/ping",
        Market::Futures => "/fapi/v1/ping",
    };
    match client.get(format!("{url}{path}")).send().await {
        Ok(answer) => {
            let now = SystemClock::shared().now().timestamp_millis();
            host.clock_ahead_ms = skew::offset_ms(answer.headers(), now);
            host.status = Some(answer.status().as_u16());
        }
        Err(error) => host.trouble = Some(error_chain(&error.without_url())),
    }
    host
}

impl Host {
    fn answers(&self) -> bool {
        self.status
            .is_some_and(|status| StatusCode::from_u16(status).is_ok_and(|status| status.is_success()))
    }

    fn is_banned(&self) -> bool {
        self.banned_until.is_some() || matches!(self.status, Some(418 | 429))
    }

    fn said(&self) -> String {
        match (self.status, &self.trouble) {
            (Some(status), _) => format!("{} answers {status}", self.url),
            (None, Some(trouble)) => format!("{}: {trouble}", self.url),
            (None, None) => format!("{} was not asked", self.url),
        }
    }
}

/// What is wrong with the exchange; `now` is a server's time in Unix seconds.
pub(super) fn judge(hosts: &[Host], now: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    for market in Market::ALL {
        let of: Vec<&Host> = hosts.iter().filter(|host| host.market == market.name()).collect();
        let subject = format!("exchange {market}");
        let (good, bad): (Vec<&Host>, Vec<&Host>) = of.iter().partition(|host| host.answers());
        let apart = |host: &&Host| Some((host.url.clone(), host.clock_ahead_ms?));
        let apart = of.iter().filter_map(apart);
        if let Some((url, by)) = apart
            .filter(|(_, by)| by.abs() > skew::FAR_MS)
            .max_by_key(|(_, by)| by.abs())
        {
            let way = if by > 0 { "ahead of" } else { "behind" };
            let what = format!("the clock of {url} is {} s {way} this machine's", by.abs() / 1000);
            found.push(finding::CLOCK_SKEW.found(&subject, what));
        }
        let said = || bad.iter().map(|host| host.said()).collect::<Vec<_>>().join("; ");
        if let Some(banned) = bad.iter().find(|host| host.is_banned()) {
            let what = match banned.banned_until {
                Some(until) => format!("the ban ends in {}", super::lists::span(until - now)),
                None => said(),
            };
            found.push(finding::EXCHANGE_BANNED.found(subject, what));
        } else if bad.is_empty() {
            continue;
        } else if !good.is_empty() {
            found.push(finding::EXCHANGE_HOST_UNREACHABLE.found(subject, said()));
        } else if bad.iter().any(|host| matches!(host.status, Some(403 | 451))) {
            found.push(finding::EXCHANGE_REFUSES.found(subject, said()));
        } else {
            found.push(finding::EXCHANGE_UNREACHABLE.found(subject, said()));
        }
    }
    found
}

impl Endpoint {
    /// Asks the endpoint at the address of `HTTP_LISTEN` whether it is ready.
    pub(super) async fn look(listen: &str, timeout: Duration) -> Self {
        let url = format!("http://{}/readyz", reachable(listen));
        let asked = async {
            let mut answer = client(timeout)?.get(&url).send().await?;
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

    /// Whether it said that it is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.status == Some(200)
    }

    pub(super) fn judge(&self) -> Option<Finding> {
        match self.status {
            Some(200) => None,
            Some(status) => {
                let what = format!("it answers {status}: {}", self.text);
                Some(finding::ENDPOINT_NOT_READY.found(&self.url, what))
            }
            None => Some(finding::ENDPOINT_UNREACHABLE.found(&self.url, &self.text)),
        }
    }
}

/// The address to ask for something that listens at `listen`, which may be all addresses.
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
