//! Signed calls: whether the exchange accepts a user's key.
//!
//! Parameters are percent-encoded, then signed with HMAC-SHA256. The key goes into a header marked sensitive, and only to
//! https hosts or this machine, never to the target of a redirect. Only the status and the code of an answer are kept: a
//! body could echo the request, and the account's balances are not needed. Signed and public calls to a host share one
//! rate limit, so a 429 or 418 to either pauses both.

use std::fmt::Write as _;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use serde::Deserialize;
use sha2::Sha256;
use thiserror::Error;
use tokio::time::{Instant, timeout};
use tracing::debug;
use zeroize::Zeroizing;

use super::body::Body;
use super::client::{Client, send_reason};
use super::error::{Reason, UpstreamError};
use super::skew::ClockOffset;
use tradebot_base::loopback::is_loopback;
use tradebot_base::market::Market;
use tradebot_base::secret::Secret;

const ACCOUNT: &str = "/api/v3/account";
const TIME: &str = "/api/v3/time";
const KEY_HEADER: HeaderName = HeaderName::from_static("x-mbx-apikey");
/// How long after its timestamp the exchange accepts a request, in ms: the exchange's default, sent explicitly.
const RECV_WINDOW_MS: u32 = 5_000;
/// Several times the size of an account with every asset of the exchange.
const BODY_CAP: usize = 4 << 20;
/// Hosts without account endpoints.
const PUBLIC_ONLY: &[&str] = &["data-api.binance.vision"];
/// All but the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An API key of the exchange and its secret.
#[derive(Debug, Clone)]
pub struct ApiKey {
    /// Sent with each request.
    pub key: Secret,
    /// Never sent.
    pub secret: Secret,
}

/// Why a signed call failed.
#[derive(Debug, Error)]
pub enum SignedError {
    /// -2014, or the key cannot be sent in a header. A retry would fail the same way.
    #[error("the API key is malformed (-2014)")]
    KeyFormat,
    /// -2015 or -2008: unknown on this network, not allowed from this address, or lacking the permission.
    #[error(
        "the API key is unknown on this network, or not allowed from this address or for this call ({0})"
    )]
    KeyRefused(i64),
    /// -1022: the secret does not belong to the key.
    #[error("the signature is invalid: the stored secret does not belong to the API key (-1022)")]
    WrongSecret,
    /// -1021, even with a freshly measured clock offset.
    #[error(
        "the exchange rejects the request's timestamp (-1021), even with a freshly measured clock offset"
    )]
    Clock,
    /// Another error object.
    #[error("status {status}, code {code}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// The exchange's error code.
        code: i64,
    },
    /// Keys go only to https hosts that have account endpoints.
    #[error(
        "no configured host of this network may receive an API key: use an https host with account endpoints"
    )]
    NoHost,
    /// The call failed for a reason that does not concern the key.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

impl SignedError {
    /// Whether another host of the network may answer differently.
    fn concerns_this_host_only(&self) -> bool {
        match self {
            Self::Upstream(error) => error.reason.is_transient() || error.reason.concerns_this_host_only(),
            _ => false,
        }
    }
}

/// The members of a body that are used: an error's code, or the time.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApiBody {
    code: Option<i64>,
    server_time: Option<i64>,
}

impl Client {
    /// Requests the account of a key, to see whether the exchange accepts the key.
    ///
    /// # Errors
    /// [`SignedError`]; it never takes longer than `within`.
    pub async fn check_account(&self, key: &ApiKey, within: Duration) -> Result<(), SignedError> {
        let deadline = Instant::now() + within;
        let hosts: Vec<&String> = self.hosts_for_keys().collect();
        let mut left = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let mut last = SignedError::NoHost;
        for host in hosts {
            // A host that hangs must leave time for the hosts after it.
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            left -= 1;
            match timeout(share, self.account_at(host, key)).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => last = error,
                Err(_) => last = failed(host, ACCOUNT, Reason::Deadline(share)),
            }
            if !last.concerns_this_host_only() {
                break;
            }
        }
        Err(last)
    }

    /// How far the exchange's clock was ahead of ours when last measured, in milliseconds. May explain a refusal.
    #[must_use]
    pub fn clock_offset_ms(&self) -> Option<i64> {
        self.offset_state().map(|offset| offset.ms)
    }

    fn hosts_for_keys(&self) -> impl Iterator<Item = &String> {
        self.config()
            .base_urls
            .spot
            .iter()
            .filter(|host| may_be_sent_a_key(host))
    }

    async fn account_at(&self, host: &str, key: &ApiKey) -> Result<(), SignedError> {
        let known = *self.offset_state();
        let mut offset = match known.filter(ClockOffset::is_current) {
            Some(offset) => offset,
            None => match self.measure_offset(host).await {
                // A host without a time endpoint may still accept our clock.
                Err(SignedError::Upstream(UpstreamError {
                    reason: Reason::Status { .. },
                    ..
                })) => ClockOffset {
                    ms: 0,
                    measured: Instant::now(),
                },
                measured => measured?,
            },
        };
        for attempt in [1, 2] {
            match self.account_once(host, key, offset.ms).await {
                Err(SignedError::Clock) if attempt == 1 => offset = self.measure_offset(host).await?,
                other => return other,
            }
        }
        Err(SignedError::Clock)
    }

    async fn account_once(&self, host: &str, key: &ApiKey, offset_ms: i64) -> Result<(), SignedError> {
        let timestamp = self.clock().now().timestamp_millis() + offset_ms;
        let query = query(&[
            ("omitZeroBalances", "true"),
            ("recvWindow", &RECV_WINDOW_MS.to_string()),
            ("timestamp", &timestamp.to_string()),
        ]);
        let signature = sign(&key.secret, &query);
        let mut header =
            HeaderValue::from_str(key.key.expose().trim()).map_err(|_| SignedError::KeyFormat)?;
        header.set_sensitive(true);
        let url = Zeroizing::new(format!("{host}{ACCOUNT}?{query}&signature={}", *signature));
        let (status, answer) = self.ask(host, ACCOUNT, &url, Some(header)).await?;
        match (status, answer.and_then(|answer| answer.code)) {
            (200, None | Some(0)) => Ok(()),
            (_, Some(-2014)) => Err(SignedError::KeyFormat),
            (_, Some(code @ (-2015 | -2008))) => Err(SignedError::KeyRefused(code)),
            (_, Some(-1022)) => Err(SignedError::WrongSecret),
            (_, Some(-1021)) => Err(SignedError::Clock),
            (status, Some(code)) => Err(SignedError::Api { status, code }),
            (status, None) => Err(failed(host, ACCOUNT, unexplained(status))),
        }
    }

    async fn measure_offset(&self, host: &str) -> Result<ClockOffset, SignedError> {
        let before = self.clock().now().timestamp_millis();
        let (status, answer) = self.ask(host, TIME, &format!("{host}{TIME}"), None).await?;
        let after = self.clock().now().timestamp_millis();
        let Some(server) = answer.and_then(|answer| answer.server_time) else {
            return Err(failed(host, TIME, unexplained(status)));
        };
        let offset = ClockOffset {
            ms: server.saturating_sub(before + (after - before) / 2),
            measured: Instant::now(),
        };
        debug!(
            host,
            offset_ms = offset.ms,
            "measured the clock offset of the exchange"
        );
        *self.offset_state() = Some(offset);
        Ok(offset)
    }

    /// Makes one request. Returns no body if it is not a JSON object.
    async fn ask(
        &self,
        host: &str,
        path: &str,
        url: &str,
        key: Option<HeaderValue>,
    ) -> Result<(u16, Option<ApiBody>), SignedError> {
        self.obey_earlier_answers(Market::Spot)
            .await
            .map_err(|reason| failed(host, path, reason))?;
        let mut request = self.http().get(url).header(ACCEPT, "application/json");
        if let Some(key) = key {
            request = request.header(KEY_HEADER, key);
        }
        let answer = request.send().await;
        let answer = answer.map_err(|error| failed(host, path, send_reason(error)))?;
        self.note_weight(Market::Spot, answer.headers());
        let answer = self.check_status(Market::Spot, answer, false).await;
        let answer = answer.map_err(|reason| failed(host, path, reason))?;
        let status = answer.status().as_u16();
        // It may echo the request, so it is zeroed when dropped.
        let body = Body::read(answer, BODY_CAP).await.and_then(Body::decoded);
        let body = Zeroizing::new(body.map_err(|reason| failed(host, path, reason))?);
        Ok((status, serde_json::from_slice(&body).ok()))
    }

    fn offset_state(&self) -> MutexGuard<'_, Option<ClockOffset>> {
        // Locked for one copy or assignment, never across an await.
        self.offset().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A query as it is sent and signed: names and values percent-encoded.
#[must_use]
pub(crate) fn query(parameters: &[(&str, &str)]) -> String {
    let mut query = String::new();
    for (name, value) in parameters {
        let separator = if query.is_empty() { "" } else { "&" };
        let (name, value) = (
            utf8_percent_encode(name, ENCODED),
            utf8_percent_encode(value, ENCODED),
        );
        // Writing to a String cannot fail.
        let _ = write!(query, "{separator}{name}={value}");
    }
    query
}

/// The signature of an encoded query: HMAC-SHA256 in hexadecimal.
#[must_use]
pub(crate) fn sign(secret: &Secret, query: &str) -> Zeroizing<String> {
    let key = secret.expose().trim().as_bytes();
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(query.as_bytes());
    let mut digits = Zeroizing::new(String::with_capacity(64));
    for byte in mac.finalize().into_bytes() {
        // Writing to a String cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// Whether keys may be sent there: by https or to this machine, and not to a host without account endpoints.
fn may_be_sent_a_key(base_url: &str) -> bool {
    let Ok(url) = url::Url::parse(base_url) else {
        return false;
    };
    let name = url.host_str().unwrap_or_default();
    (url.scheme() == "https" || is_loopback(&url)) && !PUBLIC_ONLY.contains(&name)
}

fn unexplained(status: u16) -> Reason {
    Reason::Status {
        status,
        text: "no error code".into(),
    }
}

fn failed(host: &str, path: &str, reason: Reason) -> SignedError {
    let url = format!("{host}{path}");
    SignedError::Upstream(UpstreamError {
        market: Market::Spot,
        url,
        reason,
    })
}

#[cfg(test)]
#[path = "signed/tests.rs"]
mod tests;
