//! Why a fetch failed, and whether to try again.

use std::time::Duration;

use thiserror::Error;

use super::exchange_info::ListingError;

/// A failed fetch: where and why.
#[derive(Debug, Error)]
#[error("{url}")]
pub struct UpstreamError {
    /// The URL that was requested, without its query.
    pub url: String,
    /// The cause.
    #[source]
    pub reason: Reason,
}

/// The cause of a failed request.
#[derive(Debug, Error)]
pub enum Reason {
    /// No connection: DNS, TLS, refused, unreachable.
    #[error("no connection: {0}")]
    Connect(String),
    /// The deadline passed.
    #[error("no complete answer within {} s", .0.as_secs_f64().round())]
    Deadline(Duration),
    /// The connection broke, the body was shorter than announced, or it could not be decompressed.
    #[error("the answer was cut off or damaged: {0}")]
    Body(String),
    /// Larger, once decompressed, than any real answer.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// 429 or 418: too many requests from this address.
    #[error("status {status}, {}", wait_text(*.retry_after))]
    RateLimited {
        /// 429, or 418 for a ban.
        status: u16,
        /// How long to pause, if `Retry-After` is usable.
        retry_after: Option<Duration>,
    },
    /// No request was made, because of a pause that an earlier answer demanded.
    #[error("no request made: the exchange asked for a pause, which lasts another {} s", .0.as_secs())]
    Paused(Duration),
    /// 451, or the equivalent error object: the exchange does not serve this location.
    #[error("the exchange does not serve this location (status 451): {0}")]
    Restricted(String),
    /// 403: the exchange's firewall.
    #[error("refused by the exchange's firewall (status 403)")]
    Firewall,
    /// 408 or 5xx.
    #[error("status {status}: {text}")]
    Unavailable {
        /// The status.
        status: u16,
        /// The start of the body.
        text: String,
    },
    /// A redirect. It could lead anywhere, so it is not followed.
    #[error("redirect to {0}, which is not followed")]
    Redirect(String),
    /// Any other status.
    #[error("unexpected status {status}: {text}")]
    Status {
        /// The status.
        status: u16,
        /// The start of the body.
        text: String,
    },
    /// Status 200, but not a symbol list.
    #[error(transparent)]
    Listing(#[from] ListingError),
}

impl Reason {
    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Body(_) | Self::Unavailable { .. } => true,
            Self::Listing(ListingError::Api { .. }) => false,
            Self::Listing(_) => true,
            Self::Deadline(_)
            | Self::TooLarge(_)
            | Self::RateLimited { .. }
            | Self::Paused(_)
            | Self::Restricted(_)
            | Self::Firewall
            | Self::Redirect(_)
            | Self::Status { .. } => false,
        }
    }

    /// Whether another host may succeed where this one failed.
    #[must_use]
    pub fn concerns_this_host_only(&self) -> bool {
        matches!(
            self,
            Self::Deadline(_)
                | Self::Restricted(_)
                | Self::Firewall
                | Self::Redirect(_)
                | Self::Status { .. }
        )
    }

    /// How long to wait before the next request.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(retry_after.unwrap_or(DEFAULT_PAUSE)),
            Self::Paused(left) => Some(*left),
            _ => None,
        }
    }
}

/// The pause after a 429 or 418 without a usable `Retry-After`: the window over which request weight is counted.
pub(crate) const DEFAULT_PAUSE: Duration = Duration::from_secs(60);
/// A little more than the longest ban that the exchange imposes.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(3 * 86_400 + 3_600);

/// Reads `Retry-After` in seconds; the exchange sends no dates. Anything else is unusable, and a value longer than any
/// ban is cut to [`LONGEST_PAUSE`].
#[must_use]
pub(crate) fn parse_retry_after(value: &str) -> Option<Duration> {
    let seconds: u64 = value.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

fn wait_text(retry_after: Option<Duration>) -> String {
    match retry_after {
        Some(wait) => format!("the exchange asked for a pause of {} s", wait.as_secs()),
        None => "too many requests".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_within_bounds() {
        let seconds = |text| parse_retry_after(text).map(|wait| wait.as_secs());
        assert_eq!(seconds("30"), Some(30));
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds("259200"), Some(259_200));
        assert_eq!(seconds("99999999999"), Some(LONGEST_PAUSE.as_secs()));
        for unusable in [
            "-5",
            "abc",
            "",
            "Wed, 21 Oct 2026 07:28:00 GMT",
            "99999999999999999999999",
        ] {
            assert_eq!(seconds(unusable), None, "{unusable}");
        }
        assert_eq!(
            Reason::RateLimited {
                status: 429,
                retry_after: None
            }
            .retry_after(),
            Some(DEFAULT_PAUSE)
        );
    }
}
