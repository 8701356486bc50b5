//! Clock skew: how far the exchange's clock is from ours.
//!
//! `Date` has whole seconds, and a cache on the way adds `Age`. That is precise enough to notice a wrong clock, which
//! would break lists, schedules and signed requests.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use reqwest::header::{AGE, DATE, HeaderMap};
#[cfg(feature = "credentials")]
use tokio::time::Instant;
use tracing::{info, warn};

use super::headers::text;
use tradebot_base::market::{Market, PerMarket};

/// Skew in milliseconds from which to warn. Below half of it the clocks count as in step again.
pub(crate) const FAR_MS: i64 = 10_000;
/// How long to trust a measured clock offset.
#[cfg(feature = "credentials")]
const OFFSET_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// How far the exchange's clock is ahead of ours, measured at its time endpoint. Signed calls add it to their timestamp.
#[cfg(feature = "credentials")]
#[derive(Debug, Clone, Copy)]
pub(super) struct ClockOffset {
    pub(super) ms: i64,
    pub(super) measured: Instant,
}

#[cfg(feature = "credentials")]
impl ClockOffset {
    /// Whether it can still be trusted, since clocks drift.
    pub(super) fn is_current(&self) -> bool {
        self.measured.elapsed() < OFFSET_LIFETIME
    }
}

/// The skew of a market's hosts in their last answer.
struct MarketSkew {
    offset_ms: AtomicI64,
    far: AtomicBool,
}

impl MarketSkew {
    const UNKNOWN: i64 = i64::MIN;

    const fn never() -> Self {
        Self {
            offset_ms: AtomicI64::new(Self::UNKNOWN),
            far: AtomicBool::new(false),
        }
    }
}

/// All clients of a process share the machine's clock.
static SKEWS: PerMarket<MarketSkew> = PerMarket {
    spot: MarketSkew::never(),
    futures: MarketSkew::never(),
};

/// How far the clock of a market's hosts was ahead of ours in their last answer, in seconds.
#[must_use]
pub(crate) fn clock_offset(market: Market) -> Option<f64> {
    let offset = SKEWS.get(market).offset_ms.load(Ordering::Relaxed);
    (offset != MarketSkew::UNKNOWN)
        .then(|| Duration::from_millis(offset.unsigned_abs()).as_secs_f64())
        .map(|seconds| if offset < 0 { -seconds } else { seconds })
}

/// How far the sender's clock is ahead of ours in milliseconds, if it sends `Date`. A skew that the whole seconds of
/// `Date` can explain counts as 0.
pub(in crate::product) fn offset_ms(headers: &HeaderMap, now_ms: i64) -> Option<i64> {
    let date = httpdate::parse_http_date(text(headers, DATE.as_str())?).ok()?;
    let date = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
    let age = text(headers, AGE.as_str()).and_then(|age| age.trim().parse::<u32>().ok());
    let theirs = i64::try_from(date).ok()? + i64::from(age.unwrap_or(0)) * 1000;
    let offset = theirs - now_ms;
    Some(if (-1000..=0).contains(&offset) { 0 } else { offset })
}

/// Records the clock of an answer, and logs when it drifts too far from ours and when it is back.
pub(super) fn note(market: Market, headers: &HeaderMap, now_ms: i64) {
    let Some(offset_ms) = offset_ms(headers, now_ms) else {
        return;
    };
    let seen = SKEWS.get(market);
    seen.offset_ms.store(offset_ms, Ordering::Relaxed);
    let far = match offset_ms.abs() {
        apart if apart > FAR_MS => true,
        apart if apart < FAR_MS / 2 => false,
        _ => return,
    };
    match (seen.far.swap(far, Ordering::Relaxed), far) {
        (false, true) => warn!(
            %market, offset_ms,
            "the exchange's clock and this machine's are far apart; if ours is wrong, schedules and signed requests fail"
        ),
        (true, false) => info!(%market, offset_ms, "the exchange's clock and this machine's agree again"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_an_answer_and_the_second_of_its_date_are_allowed_for() {
        let at = |date: &str, age: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, date.parse().unwrap());
            if let Some(age) = age {
                headers.insert(AGE, age.parse().unwrap());
            }
            offset_ms(&headers, 1_000_000_000_900)
        };
        // 2001-09-09 01:46:40 UTC is second 1,000,000,000.
        let date = "Sun, 09 Sep 2001 01:46:40 GMT";
        assert_eq!(at(date, None), Some(0));
        assert_eq!(at("Sun, 09 Sep 2001 01:46:00 GMT", Some("40")), Some(0));
        assert_eq!(at("Sun, 09 Sep 2001 01:46:00 GMT", None), Some(-40_900));
        assert_eq!(at("Sun, 09 Sep 2001 02:46:40 GMT", Some("soon")), Some(3_599_100));
        assert_eq!(at("yesterday", None), None);
        assert_eq!(offset_ms(&HeaderMap::new(), 0), None);
    }
}
