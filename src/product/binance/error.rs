//! Why a fetch failed, and whether to try again.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::exchange_info::ListingError;
use tradebot_base::market::Market;

/// A failed fetch: where and why.
#[derive(Debug, Error)]
#[error("{url}")]
pub struct UpstreamError {
    /// The market.
    pub market: Market,
    /// The URL that was requested, without its query.
    pub url: String,
    /// The cause.
    #[source]
    pub reason: Reason,
}

/// A pause in which no requests are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// How long it still lasts.
    pub left: Duration,
    /// The status of a refusal, 403 or 451; `None` if the exchange asked for the pause.
    pub refusal: Option<u16>,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.left.as_secs();
        match self.refusal {
            None => write!(
                f,
                "the exchange asked for a pause, which lasts another {seconds} s"
            ),
            Some(status) => write!(
                f,
                "every host refused with status {status}, and is asked again in {seconds} s"
            ),
        }
    }
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
        /// How long to pause, if the answer says so in a usable way.
        retry_after: Option<Duration>,
    },
    /// No request was made, because of a pause that an earlier answer demanded.
    #[error("no request made: {0}")]
    Paused(Pause),
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
                | Self::TooLarge(_)
                | Self::Restricted(_)
                | Self::Firewall
                | Self::Redirect(_)
                | Self::Status { .. }
                | Self::Listing(ListingError::Api { .. })
        )
    }

    /// The status of a refusal that lasts: a host that sends it need not be asked again soon.
    pub(super) fn refusal(&self) -> Option<u16> {
        match self {
            Self::Firewall => Some(403),
            Self::Restricted(_) => Some(451),
            _ => None,
        }
    }

    /// How long to wait before the next request.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } => Some(retry_after.unwrap_or(DEFAULT_PAUSE)),
            Self::Paused(pause) => Some(pause.left),
            Self::Firewall | Self::Restricted(_) => Some(REFUSAL_PAUSE),
            _ => None,
        }
    }
}

/// The pause after a 429 or 418 that does not say how long: the window over which request weight is counted.
pub(crate) const DEFAULT_PAUSE: Duration = Duration::from_secs(60);
/// The pause after every host has refused with 403 or 451.
pub(crate) const REFUSAL_PAUSE: Duration = Duration::from_secs(600);
/// A little more than the longest ban that the exchange imposes.
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(3 * 86_400 + 3_600);

/// Reads `Retry-After`: seconds, or a date after `now`. Anything else is unusable, and a value longer than any ban is cut
/// to [`LONGEST_PAUSE`].
#[must_use]
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).ok()?,
    };
    Some(wait.min(LONGEST_PAUSE))
}

/// The time from `now` until the end of the ban in a message such as `IP banned until 1796027000000`, at most
/// [`LONGEST_PAUSE`].
#[must_use]
pub(crate) fn parse_ban_end(message: &str, now: SystemTime) -> Option<Duration> {
    let (_, rest) = message.split_once("banned until ")?;
    let digits = rest.trim_start().split(|c: char| !c.is_ascii_digit()).next()?;
    let end = UNIX_EPOCH.checked_add(Duration::from_millis(digits.parse().ok()?))?;
    Some(end.duration_since(now).ok()?.min(LONGEST_PAUSE))
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

    /// Wed, 21 Oct 2026 07:28:00 GMT.
    const NOW: u64 = 1_792_567_680;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    #[test]
    fn retry_after_is_read_within_bounds() {
        let seconds = |text| parse_retry_after(text, now()).map(|wait| wait.as_secs());
        assert_eq!(seconds("30"), Some(30));
        assert_eq!(seconds("0"), Some(0));
        assert_eq!(seconds("259200"), Some(259_200));
        assert_eq!(seconds("99999999999"), Some(LONGEST_PAUSE.as_secs()));
        assert_eq!(seconds("Wed, 21 Oct 2026 07:30:00 GMT"), Some(120));
        assert_eq!(
            seconds("Wed, 21 Oct 2099 07:30:00 GMT"),
            Some(LONGEST_PAUSE.as_secs())
        );
        for unusable in [
            "-5",
            "abc",
            "",
            "Wed, 21 Oct 2026 07:27:00 GMT",
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

    #[test]
    fn the_end_of_a_ban_is_read_within_bounds() {
        let seconds = |until: &str| {
            let message =
                format!("Way too much request weight used; IP banned until {until}. Please use WebSocket.");
            parse_ban_end(&message, now()).map(|wait| wait.as_secs())
        };
        assert_eq!(seconds(&format!("{}", (NOW + 90) * 1000)), Some(90));
        assert_eq!(seconds("9999999999999"), Some(LONGEST_PAUSE.as_secs()));
        for unusable in ["", "soon", "-1", "1664376368817", "99999999999999999999999"] {
            assert_eq!(seconds(unusable), None, "{unusable}");
        }
        assert_eq!(parse_ban_end("banned", now()), None);
    }
}
