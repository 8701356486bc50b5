//! All symbols of a market, of every quote asset and status: what the lists leave out.
//!
//! A refresh writes them beside the lists, in one key more. They are read when somebody asks for them, and kept until
//! the list they belong to is replaced.

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
/// After a look that found nothing new, the next is not made before.
const PAUSE: Duration = Duration::from_secs(1);

/// Reads the symbols of all quote assets.
pub struct AllSymbols {
    connection: Connection,
    held: PerMarket<Mutex<CachedSymbols>>,
}

#[derive(Default)]
struct CachedSymbols {
    list: Option<Arc<SymbolList>>,
    /// The time of the list that was in place when this was read.
    of: Option<i64>,
    looked: Option<Instant>,
}

impl AllSymbols {
    /// Nothing is opened yet.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub fn new(url: &RedisUrl, name: &str) -> Result<Self, RedisTrouble> {
        Ok(Self {
            connection: Connection::impatient(url, &format!("{name}-everything"), PATIENCE)?,
            held: PerMarket::default(),
        })
    }

    /// Returns all symbols of a market, for a list that was made at `fetched_at`. What was read before is returned
    /// where Redis does not answer; `None` if there is nothing.
    pub async fn read(&self, market: Market, fetched_at: Option<i64>) -> Option<Arc<SymbolList>> {
        let mut held = self.held.get(market).lock().await;
        let current = held.list.is_some() && held.of == fetched_at;
        if current || held.looked.is_some_and(|at| at.elapsed() < PAUSE) {
            return held.list.clone();
        }
        let ask = cmd("GET").arg(CacheKeys(market).everything()).to_owned();
        let asked = self.connection.command::<Option<Vec<u8>>>(&ask);
        let text = trace::redis_call("GET", asked).await;
        held.looked = Some(Instant::now());
        if let Ok(Some(text)) = text
            && let Some(list) = SymbolList::read(text, fetched_at, None)
        {
            held.list = Some(Arc::new(list));
            held.of = fetched_at;
        }
        held.list.clone()
    }
}
