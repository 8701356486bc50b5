//! The right to refresh: one process at a time, for a while.
//!
//! A lease has a number that only grows. A list that is written under a lease older than that of the list in place is
//! dropped, so a process that was held up for longer than its lease puts nothing old over something new.

use std::time::Duration;

use uuid::Uuid;

use super::{CacheError, CacheKeys, SymbolCache};
use tradebot_base::connection::ScriptCall;
use tradebot_base::market::Market;

/// Longer than a fetch takes at most, and the writing after it.
pub(in crate::product::symbols) const LEASE: Duration = Duration::from_secs(15);

/// The right to refresh a market's list.
#[derive(Debug)]
pub(in crate::product::symbols) struct RefreshLease {
    pub(super) token: String,
    pub(super) number: u64,
}

/// What came of asking for the right to refresh.
#[derive(Debug)]
pub(in crate::product::symbols) enum LeaseReply {
    Granted(RefreshLease),
    /// Another process is at it, and has so long.
    Busy(Duration),
    /// There is a list already that the asker did not know.
    Newer,
    /// Another process has failed; nobody should try for so long.
    Failing(Duration, String),
}

/// Who asks.
pub(in crate::product::symbols) enum LeaseRequest<'a> {
    /// A warm-up, which refreshes in any case.
    Warmup,
    /// A reader who knows of the refresh at this time.
    Reader(&'a [u8]),
    /// As a reader, but with a list at hand: that others fail to fetch one is no hindrance.
    Fetched(&'a [u8]),
}

impl SymbolCache {
    /// Asks for the right to refresh a market's list.
    ///
    /// # Errors
    /// [`CacheError::Redis`]; the right was perhaps granted then, and lapses.
    pub(in crate::product::symbols) async fn acquire_lease(
        &self,
        market: Market,
        asker: LeaseRequest<'_>,
    ) -> Result<LeaseReply, CacheError> {
        let keys = CacheKeys(market);
        let token = Uuid::new_v4().to_string();
        let mut call = ScriptCall::default();
        call.key(keys.lock())
            .key(keys.fence())
            .key(keys.primary())
            .key(keys.last_refresh())
            .key(keys.failure());
        call.arg(&token).number(LEASE.as_millis());
        match asker {
            LeaseRequest::Warmup => call.arg("warmup").arg(""),
            LeaseRequest::Reader(known) => call.arg("reader").arg(known),
            LeaseRequest::Fetched(known) => call.arg("fetched").arg(known),
        };
        let answer: (String, i64, String) = self
            .connection
            .script(None, &self.scripts.begin, &call)
            .await
            .map_err(|source| CacheError::Redis { market, source })?;
        let number = u64::try_from(answer.1).unwrap_or(0);
        let left = Duration::from_millis(number);
        Ok(match answer.0.as_str() {
            "granted" | "unlocked" => LeaseReply::Granted(RefreshLease { token, number }),
            "newer" => LeaseReply::Newer,
            "failing" => LeaseReply::Failing(left, answer.2),
            _ => LeaseReply::Busy(left),
        })
    }

    /// Ends a lease that brought no list. With a pause, nobody who reads tries again before it is over.
    ///
    /// # Errors
    /// [`CacheError::Redis`]; the lease lapses then.
    pub(in crate::product::symbols) async fn release_lease(
        &self,
        market: Market,
        lease: &RefreshLease,
        failure: Option<(Duration, &str)>,
    ) -> Result<(), CacheError> {
        let keys = CacheKeys(market);
        let (pause, reason) = failure.unwrap_or_default();
        let mut call = ScriptCall::default();
        call.key(keys.lock()).key(keys.failure());
        call.arg(&lease.token).number(pause.as_millis()).arg(reason);
        let ended: Result<i64, _> = self.connection.script(None, &self.scripts.give_up, &call).await;
        ended
            .map(drop)
            .map_err(|source| CacheError::Redis { market, source })
    }
}
