//! Pauses that the exchange demands, shared by all processes.
//!
//! The exchange counts requests by address and bans an address that ignores a 429. A process that gets one therefore
//! stores the pause in Redis, where it expires by itself, and every process checks it before a request. Without Redis,
//! each process obeys the pauses that it received.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::Script;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::error::LONGEST_PAUSE;
use crate::product::symbols::cache::CacheKeys;
use tradebot_base::connection::Connection;
use tradebot_base::error_chain;
use tradebot_base::market::{Market, Network, PerMarket};

/// How long a request may wait for Redis to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The pauses of one network, by market.
pub(super) struct BanClock {
    network: Network,
    shared: Option<(Connection, Script)>,
    local: PerMarket<Mutex<LocalBan>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct LocalBan {
    until: Option<Instant>,
    /// Not yet stored in Redis.
    unshared: bool,
}

impl BanClock {
    pub(super) fn new(network: Network) -> Self {
        Self {
            network,
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

    /// How long the pause of a market's hosts still lasts.
    pub(super) async fn left(&self, market: Market) -> Option<Duration> {
        let local = *self.local(market);
        let now = Instant::now();
        if let Some(until) = local.until.filter(|until| *until > now) {
            if local.unshared {
                self.share(market, until - now).await;
            }
            return Some(until - now);
        }
        let (connection, _) = self.shared.as_ref()?;
        let ask = redis::cmd("PTTL").arg(self.key(market)).to_owned();
        let left = match timeout(PATIENCE, connection.command::<i64>(&ask)).await {
            Ok(Ok(left)) => left,
            Ok(Err(error)) => {
                debug!(%market, error = %error_chain(&error), "cannot read the shared pause from Redis");
                return None;
            }
            Err(_) => {
                debug!(%market, "timed out reading the shared pause from Redis");
                return None;
            }
        };
        let left = Duration::from_millis(u64::try_from(left).ok().filter(|left| *left > 0)?);
        if left > LONGEST_PAUSE {
            warn!(
                key = self.key(market),
                "ignored a shared pause that lasts longer than any of the exchange"
            );
            return None;
        }
        // Keep a copy: Redis may be unreachable next time.
        *self.local(market) = LocalBan {
            until: Some(Instant::now() + left),
            unshared: false,
        };
        Some(left)
    }

    /// Starts a pause.
    pub(super) async fn set(&self, market: Market, wait: Duration) {
        *self.local(market) = LocalBan {
            until: Some(Instant::now() + wait),
            unshared: true,
        };
        self.share(market, wait).await;
    }

    async fn share(&self, market: Market, wait: Duration) {
        let Some((connection, script)) = &self.shared else {
            return;
        };
        let mut call = script.prepare_invoke();
        call.key(self.key(market))
            .arg(wait.as_millis())
            .arg(LONGEST_PAUSE.as_millis());
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

#[cfg(test)]
mod tests {
    use super::*;
    use tradebot_base::secret::RedisUrl;

    /// The clock jumps to the next timer while Redis is silent.
    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_silent_redis_for_one_second() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = RedisUrl::new(format!("redis://{}", silent.local_addr().unwrap()));
        let bans = BanClock::new(Network::Mainnet).shared(Connection::new(&url, "test").unwrap());
        let began = Instant::now();
        assert_eq!(bans.left(Market::Spot).await, None);
        assert_eq!(began.elapsed().as_secs(), 1);
        bans.set(Market::Spot, Duration::from_secs(60)).await;
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
