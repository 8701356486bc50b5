//! Pauses that the exchange demands, shared by all processes.
//!
//! The exchange counts requests by address and bans an address that ignores a 429. A process that gets one therefore
//! stores the pause in Redis, where it expires by itself, and every process checks it before a request. Without Redis,
//! each process obeys the pauses that it received.
//!
//! So does one whose hosts all refuse it, with 403 or 451. Such a pause concerns those hosts: a process that is configured
//! with others does not obey it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Script;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::error::{LONGEST_PAUSE, Pause};
use crate::config::BinanceConfig;
use crate::product::symbols::cache::CacheKeys;
use tradebot_base::connection::Connection;
use tradebot_base::error_chain;
use tradebot_base::market::{Market, Network, PerMarket};

/// How long a request may wait for Redis to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pauses of one network, by market.
pub(super) struct BanClock {
    network: Network,
    hosts: PerMarket<Vec<String>>,
    shared: Option<(Connection, Script)>,
    local: PerMarket<Mutex<LocalBan>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct LocalBan {
    until: Option<Instant>,
    refusal: Option<u16>,
    /// Not yet stored in Redis.
    unshared: bool,
}

impl BanClock {
    pub(super) fn new(config: &BinanceConfig) -> Self {
        Self {
            network: config.network(),
            hosts: config.base_urls.clone(),
            shared: None,
            local: PerMarket::default(),
        }
    }

    /// The Redis that the pauses are shared through, if any.
    pub(super) fn connection(&self) -> Option<&Connection> {
        self.shared.as_ref().map(|(connection, _)| connection)
    }

    pub(super) fn shared(mut self, connection: Connection) -> Self {
        self.shared = Some((connection, Script::new(include_str!("scripts/ban.lua"))));
        self
    }

    /// The pause of a market's hosts.
    pub(super) async fn pause(&self, market: Market) -> Option<Pause> {
        let local = *self.local(market);
        let now = Instant::now();
        if let Some(until) = local.until.filter(|until| *until > now) {
            let pause = Pause {
                left: until - now,
                refusal: local.refusal,
            };
            if local.unshared {
                self.share(market, pause).await;
            }
            return Some(pause);
        }
        let (connection, _) = self.shared.as_ref()?;
        let mut ask = redis::pipe();
        ask.pttl(self.key(market)).get(self.key(market));
        let asked = connection.pipeline::<(i64, Option<Vec<u8>>)>(&ask);
        let (left, value) = match timeout(PATIENCE, asked).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => {
                debug!(%market, error = %error_chain(&error), "cannot read the shared pause from Redis");
                return None;
            }
            Err(_) => {
                debug!(%market, "timed out reading the shared pause from Redis");
                return None;
            }
        };
        let pause = stored_pause(left, &value?, self.hosts.get(market))?;
        if pause.left > LONGEST_PAUSE {
            warn!(
                key = self.key(market),
                "ignored a shared pause that lasts longer than any of the exchange"
            );
            return None;
        }
        // Keep a copy: Redis may be unreachable next time.
        *self.local(market) = LocalBan {
            until: Some(Instant::now() + pause.left),
            refusal: pause.refusal,
            unshared: false,
        };
        Some(pause)
    }

    /// Starts a pause.
    pub(super) async fn set(&self, market: Market, pause: Pause) {
        *self.local(market) = LocalBan {
            until: Some(Instant::now() + pause.left),
            refusal: pause.refusal,
            unshared: true,
        };
        self.share(market, pause).await;
    }

    async fn share(&self, market: Market, pause: Pause) {
        let Some((connection, script)) = &self.shared else {
            return;
        };
        let value = match pause.refusal {
            None => "1".to_owned(),
            Some(status) => refusal_value(status, self.hosts.get(market)),
        };
        let mut call = script.prepare_invoke();
        call.key(self.key(market))
            .arg(pause.left.as_millis())
            .arg(LONGEST_PAUSE.as_millis())
            .arg(value);
        match timeout(PATIENCE, connection.script::<i64>(None, &call)).await {
            Ok(Ok(_)) => self.local(market).unshared = false,
            Ok(Err(error)) => {
                warn!(%market, error = %error_chain(&error), "cannot write the shared pause to Redis yet");
            }
            Err(_) => warn!(%market, "timed out writing the shared pause to Redis"),
        }
    }

    fn key(&self, market: Market) -> String {
        CacheKeys(market).ban(self.network)
    }

    fn local(&self, market: Market) -> MutexGuard<'_, LocalBan> {
        // Held for one copy or assignment, never across an await.
        let local = self.local.get(market).lock();
        local.unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal_value(status: u16, hosts: &[String]) -> String {
    format!("{status} {}", hosts.join(","))
}

/// A pause as Redis has it: the milliseconds left, and `1` or a refusal. `None` if there is none for these hosts.
pub(crate) fn stored_pause(left_ms: i64, value: &[u8], hosts: &[String]) -> Option<Pause> {
    let left = Duration::from_millis(u64::try_from(left_ms).ok().filter(|left| *left > 0)?);
    let refusal = match value {
        [b'4', b'0', b'3', b' ', ..] => Some(403),
        [b'4', b'5', b'1', b' ', ..] => Some(451),
        _ => None,
    };
    let concerns_these = refusal.is_none_or(|status| value == refusal_value(status, hosts).as_bytes());
    concerns_these.then_some(Pause { left, refusal })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tradebot_base::config::Reader;
    use tradebot_base::secret::RedisUrl;

    /// The clock jumps to the next timer while Redis is silent.
    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_silent_redis_for_one_second() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = RedisUrl::new(format!("redis://{}", silent.local_addr().unwrap()));
        let config = BinanceConfig::read(&mut Reader::new(&BTreeMap::new()));
        let bans = BanClock::new(&config).shared(Connection::new(&url, "test").unwrap());
        let began = Instant::now();
        assert_eq!(bans.pause(Market::Spot).await, None);
        assert_eq!(began.elapsed().as_secs(), 1);
        let pause = Pause {
            left: Duration::from_secs(60),
            refusal: None,
        };
        bans.set(Market::Spot, pause).await;
        assert_eq!(began.elapsed().as_secs(), 2);
    }

    #[test]
    fn a_refusal_concerns_only_the_hosts_that_refused() {
        let [one, other] = ["https://one.example", "https://other.example"].map(|host| vec![host.to_owned()]);
        let value = refusal_value(451, &one);
        let refusal =
            |left, value: &str, hosts| stored_pause(left, value.as_bytes(), hosts).map(|it| it.refusal);
        assert_eq!(refusal(5, &value, &one), Some(Some(451)));
        assert_eq!(refusal(5, &value, &other), None);
        for hosts in [&one, &other] {
            assert_eq!(refusal(5, "1", hosts), Some(None), "a ban concerns the address");
            assert_eq!(refusal(-1, "1", hosts), None);
        }
    }
}
