//! Pings the exchange's hosts, and the findings about them.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde::Serialize;

use super::finding::{self, Finding, Problem};
use crate::config::BinanceConfig;
use crate::product::binance::error::Pause;
use crate::product::binance::skew;
use crate::product::fleet::span;
use tradebot_base::clock::Clock;
use tradebot_base::error_chain;
use tradebot_base::market::Market;

/// Time limit of one host, below that of the whole probe.
const TIMEOUT: Duration = Duration::from_secs(4);

/// One host of the exchange.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ExchangeHost {
    /// The market whose list it serves.
    pub market: &'static str,
    /// Scheme and host.
    pub url: String,
    /// HTTP status of the answer, if one came.
    pub status: Option<u16>,
    /// Why there is no answer.
    pub trouble: Option<String>,
    /// Milliseconds by which the host's clock is ahead of this machine's, if the answer has a date.
    pub clock_ahead_ms: Option<i64>,
    /// End of the pause because of which the host was not pinged: Unix seconds. With a status: a refusal that the
    /// workers got.
    pub banned_until: Option<i64>,
}

/// Pings every host at once, except those of a market with a pause, which requests would prolong.
pub(super) async fn ping_all(
    binance: &BinanceConfig,
    pauses: &BTreeMap<&'static str, Pause>,
    clock: &dyn Clock,
) -> Result<Vec<ExchangeHost>, reqwest::Error> {
    let client = &binance.outgoing.client().timeout(TIMEOUT).build()?;
    let pings = Market::ALL.into_iter().flat_map(|market| {
        let pause = pauses.get(market.name());
        let banned_until =
            pause.map(|pause| clock.unix_time() + i64::try_from(pause.left.as_secs()).unwrap_or(i64::MAX));
        binance.base_urls.get(market).iter().map(move |url| {
            let mut host = ExchangeHost {
                market: market.name(),
                url: url.clone(),
                status: pause.and_then(|pause| pause.refusal),
                trouble: None,
                clock_ahead_ms: None,
                banned_until,
            };
            async move {
                if banned_until.is_none() {
                    host.ping(market, client, clock).await;
                }
                host
            }
        })
    });
    Ok(join_all(pings).await)
}

impl ExchangeHost {
    async fn ping(&mut self, market: Market, client: &reqwest::Client, clock: &dyn Clock) {
        let path = match market {
            Market::Spot => "/api/v3/ping",
            Market::Futures => "/fapi/v1/ping",
        };
        match client.get(format!("{}{path}", self.url)).send().await {
            Ok(answer) => {
                self.clock_ahead_ms = skew::offset_ms(answer.headers(), clock.now().timestamp_millis());
                self.status = Some(answer.status().as_u16());
            }
            Err(error) => self.trouble = Some(error_chain(&error.without_url())),
        }
    }

    fn answers(&self) -> bool {
        self.status
            .is_some_and(|status| StatusCode::from_u16(status).is_ok_and(|status| status.is_success()))
    }

    fn is_banned(&self) -> bool {
        match self.status {
            None => self.banned_until.is_some(),
            Some(status) => matches!(status, 418 | 429),
        }
    }

    /// `now` in Unix seconds.
    fn outcome(&self, now: i64) -> String {
        match (self.status, &self.trouble) {
            (Some(status), _) if let Some(until) = self.banned_until => format!(
                "{} returned {status}, and is asked again in {}",
                self.url,
                span(until - now),
            ),
            (Some(status), _) => format!("{} returns {status}", self.url),
            (None, Some(trouble)) => format!("{}: {trouble}", self.url),
            (None, None) => format!("{} was not pinged", self.url),
        }
    }
}

/// `now` is this machine's time in Unix seconds.
pub(super) fn judge(hosts: &[ExchangeHost], now: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    for market in Market::ALL {
        let subject = format!("exchange {market}");
        let hosts: Vec<&ExchangeHost> = hosts.iter().filter(|host| host.market == market.name()).collect();
        let problems = judge_clocks(&hosts).into_iter().chain(judge_answers(&hosts, now));
        found.extend(problems.map(|(kind, what)| kind.found(&subject, what)));
    }
    found
}

fn judge_clocks(hosts: &[&ExchangeHost]) -> Option<Problem> {
    let clocks = hosts
        .iter()
        .filter_map(|host| Some((&host.url, host.clock_ahead_ms?)));
    let (url, ahead) = clocks.max_by_key(|(_, ahead)| ahead.abs())?;
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let what = || {
        format!(
            "the clock of {url} is {} s {way} this machine's",
            ahead.abs() / 1000
        )
    };
    (ahead.abs() > skew::FAR_MS).then(|| (&finding::CLOCK_SKEW, what()))
}

fn judge_answers(hosts: &[&ExchangeHost], now: i64) -> Option<Problem> {
    let (good, bad): (Vec<&ExchangeHost>, Vec<&ExchangeHost>) = hosts.iter().partition(|host| host.answers());
    let outcomes: Vec<String> = bad.iter().map(|host| host.outcome(now)).collect();
    let outcomes = outcomes.join("; ");
    if let Some(banned) = bad.iter().find(|host| host.is_banned()) {
        let what = match banned.banned_until {
            Some(until) => format!("the ban ends in {}", span(until - now)),
            None => outcomes,
        };
        return Some((&finding::EXCHANGE_BANNED, what));
    }
    let refuses = |host: &&ExchangeHost| matches!(host.status, Some(403 | 451));
    let kind = if bad.is_empty() {
        return None;
    } else if !good.is_empty() {
        &finding::EXCHANGE_HOST_UNREACHABLE
    } else if bad.iter().any(refuses) {
        &finding::EXCHANGE_REFUSES
    } else {
        &finding::EXCHANGE_UNREACHABLE
    };
    Some((kind, outcomes))
}
