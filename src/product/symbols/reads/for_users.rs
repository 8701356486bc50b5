//! Reads for requests that may get a user's private list instead of the public one.

use tokio::time::Instant;

use super::{LOOK_PATIENCE, Level, Reading, SymbolReads};
use crate::product::binance::client::Client;
use tradebot_base::market::Market;
use tradebot_base::trace;

impl SymbolReads {
    /// Returns a market's list from memory, or from Redis if this process has not read it yet; `None` if
    /// [`read`](Self::read) would go to the exchange. Counts a hit or a miss if it returns a list.
    pub async fn look(&self, market: Market) -> Option<Reading> {
        if let Some(reading) = self.inner.take(market, Level::Memory) {
            return Some(reading);
        }
        if self.inner.link.has_looked() {
            return None;
        }
        let look = self.inner.link.first_look(Instant::now() + LOOK_PATIENCE);
        trace::redis_call("look for the lists", look).await;
        self.inner.take(market, Level::Redis)
    }

    /// Counts a miss for a request that got a private list.
    pub fn count_miss(&self, market: Market) {
        self.inner.markets.get(market).counts.miss();
    }

    /// The client of the exchange, whose pauses other calls to the same hosts must share.
    #[must_use]
    pub fn client(&self) -> &Client {
        self.inner.refresher.client()
    }
}
