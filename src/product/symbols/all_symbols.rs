//! All symbols of a market, of every quote asset and status, including those that the list leaves out.
//!
//! A refresh writes them together with the list, under one more key. They are read on demand and cached until the list is
//! replaced.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::cache::CacheKeys;
use super::list::SymbolList;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::market::{Market, PerMarket};
use tradebot_base::secret::RedisUrl;
use tradebot_base::trace;

/// How long a reader waits for Redis.
const PATIENCE: Duration = Duration::from_secs(1);
/// Minimum time between two reads from Redis.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads and caches the symbols of all quote assets.
pub(crate) struct AllSymbols {
    connection: Connection,
    held: PerMarket<Mutex<CachedSymbols>>,
}

#[derive(Default)]
struct CachedSymbols {
    list: Option<Arc<SymbolList>>,
    /// When the list that these symbols belong to was fetched.
    fetched_at: Option<i64>,
    read_at: Option<Instant>,
}

impl AllSymbols {
    /// Does not connect yet.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub(crate) fn new(url: &RedisUrl, name: &str) -> Result<Self, RedisTrouble> {
        Ok(Self {
            connection: Connection::impatient(url, &format!("{name}-everything"), PATIENCE)?,
            held: PerMarket::default(),
        })
    }

    /// Returns all symbols of a market that belong to the list fetched at `fetched_at`. If Redis does not answer, returns
    /// those read before; `None` if there are none.
    pub(crate) async fn read(&self, market: Market, fetched_at: Option<i64>) -> Option<Arc<SymbolList>> {
        let mut held = self.held.get(market).lock().await;
        let current = held.list.is_some() && held.fetched_at == fetched_at;
        if current || held.read_at.is_some_and(|at| at.elapsed() < PAUSE) {
            return held.list.clone();
        }
        let ask = cmd("GET").arg(CacheKeys(market).everything()).to_owned();
        let asked = self.connection.command::<Option<Vec<u8>>>(&ask);
        let text = trace::redis_call("GET", asked).await;
        held.read_at = Some(Instant::now());
        if let Ok(Some(text)) = text
            && let Some(list) = SymbolList::read(text, fetched_at, None)
        {
            held.list = Some(Arc::new(list));
            held.fetched_at = fetched_at;
        }
        held.list.clone()
    }
}
