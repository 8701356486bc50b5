//! All symbols of a market, of every quote asset and status, including those that the list leaves out.
//!
//! A refresh writes them together with the list, under one more key. They are read on demand and cached until the list is
//! replaced.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::cache::{CacheKeys, sha1, too_large};
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
    symbols: Option<Arc<SymbolList>>,
    /// The list that the symbols belong to.
    list: Option<Arc<SymbolList>>,
    /// When Redis was last read, and for which list.
    read: Option<(Instant, Arc<SymbolList>)>,
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

    /// Returns all symbols of a market that belong to `list`. If Redis does not answer, or has those of another list, returns
    /// the last ones read; `None` if there are none.
    pub(crate) async fn read(&self, market: Market, list: &Arc<SymbolList>) -> Option<Arc<SymbolList>> {
        let mut held = self.held.get(market).lock().await;
        let current = held.list.as_ref().is_some_and(|known| Arc::ptr_eq(known, list));
        let just_read =
            |(at, asked): &(Instant, Arc<SymbolList>)| at.elapsed() < PAUSE && Arc::ptr_eq(asked, list);
        if current || held.read.as_ref().is_some_and(just_read) {
            return held.symbols.clone();
        }
        let key = CacheKeys(market).everything();
        held.read = Some((Instant::now(), Arc::clone(list)));
        if !matches!(too_large(&self.connection, &key).await, Ok(None)) {
            return held.symbols.clone();
        }
        let ask = cmd("GET").arg(key).to_owned();
        let asked = self.connection.command::<Option<Vec<u8>>>(&ask);
        let text = trace::redis_call("GET", asked).await;
        if let Ok(Some(text)) = text {
            let wanted = list.source().and_then(|source| source.everything_sha1.as_ref());
            let belong = wanted.is_none_or(|wanted| *wanted == sha1(&text));
            if let Some(symbols) = SymbolList::read(text, list.fetched_at(), None) {
                held.symbols = Some(Arc::new(symbols));
                held.list = belong.then(|| Arc::clone(list));
            }
        }
        held.symbols.clone()
    }
}
