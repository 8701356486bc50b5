//! What a reader does about lists of other programs: it accepts good ones, and has bad ones replaced.
//!
//! Two writers do not overwrite each other for ever: ours restores its list once for each bad list of the other, without the
//! exchange, and asks the exchange at most once in [`REFRESH_PAUSE`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::SharedReads;
use crate::product::symbols::cache::{ForeignLists, SAME_SECONDS};
use crate::product::symbols::refresh::log_refused;
use tradebot_base::error_chain;
use tradebot_base::market::Market;

/// The shortest time between two refreshes that refused lists cause.
const REFRESH_PAUSE: Duration = Duration::from_secs(30);

/// The refused lists of one market.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    count: AtomicU64,
    /// The last one, and when it was last found in Redis.
    last: Mutex<Option<(String, Instant)>>,
    /// When the last refresh because of a refusal began.
    refreshed: Mutex<Option<Instant>>,
    found: Notify,
}

impl Refusals {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether this list is another one than that of a moment ago.
    fn is_new(&self, sha1: &str) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(known, at): &(String, Instant)| known == sha1 && at.elapsed().as_secs() < SAME_SECONDS;
        let is_new = !last.as_ref().is_some_and(same);
        *last = Some((sha1.to_owned(), Instant::now()));
        is_new
    }

    /// Waits for a refused list that calls for a refresh.
    pub(super) async fn wants_refresh(&self) {
        loop {
            self.found.notified().await;
            let mut refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
            if refreshed.is_none_or(|at| at.elapsed() >= REFRESH_PAUSE) {
                *refreshed = Some(Instant::now());
                return;
            }
        }
    }
}

impl SharedReads {
    pub(super) async fn answer_foreign(&self, market: Market, foreign: ForeignLists) {
        let (cache, refusals) = (self.refresher.cache(), &self.markets.get(market).foreign);
        match foreign {
            ForeignLists::None => {}
            ForeignLists::Good(good) => {
                if let Err(error) = cache.adopt(market, &good).await {
                    debug!(%market, error = %error_chain(&error), "cannot mark another program's list as accepted");
                }
            }
            ForeignLists::Refused(refused) => {
                let is_new = refusals.is_new(refused.sha1());
                if is_new {
                    refusals.count.fetch_add(1, Ordering::Relaxed);
                    log_refused(market, &refused);
                }
                match cache.restore(market, &refused).await {
                    Err(error) if is_new => {
                        warn!(%market, error = %error_chain(&error), "cannot restore the list accepted last in Redis, serving it from memory");
                    }
                    _ => {}
                }
                refusals.found.notify_one();
            }
        }
    }
}
