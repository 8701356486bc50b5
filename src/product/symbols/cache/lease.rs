//! Refresh leases: one process refreshes at a time.
//!
//! Each lease has a fencing number higher than all before. A write under an older lease than the current list's is dropped,
//! so a process that stalls beyond its lease cannot overwrite a newer list.

use std::time::Duration;

use uuid::Uuid;

use super::{CacheError, CacheKeys, SymbolCache};
use tradebot_base::market::Market;

/// How long a lease lasts: longer than the longest fetch and the write after it.
pub(in crate::product::symbols) const LEASE: Duration = Duration::from_secs(15);
/// The longest time after a failure in which no reader tries again.
pub(in crate::product::symbols) const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The right to refresh a market's list, until it expires.
#[derive(Debug)]
pub(in crate::product::symbols) struct RefreshLease {
    pub(super) token: String,
    pub(super) number: u64,
}

/// The answer to a request for a lease.
#[derive(Debug)]
pub(in crate::product::symbols) enum LeaseReply {
    Granted(RefreshLease),
    /// Another process is refreshing; its lease expires after this time.
    Busy(Duration),
    /// There is a newer list than the requester knows.
    Newer,
    /// Another process has failed: how long to wait before trying, and why it failed.
    Failing(Duration, String),
}

/// Who requests a lease.
pub(in crate::product::symbols) enum LeaseRequest<'a> {
    /// A warm-up, which always refreshes.
    Warmup,
    /// A reader; with the time of the last refresh that it knows.
    Reader(&'a [u8]),
    /// A reader that already has a list, so failures of other processes do not stop it.
    Fetched(&'a [u8]),
    /// A reader that keeps its list, because another program wrote one to Redis that was refused.
    Kept,
}

impl SymbolCache {
    /// Requests the lease to refresh a market's list.
    ///
    /// # Errors
    /// [`CacheError::Redis`]. The lease may have been granted; it then expires.
    pub(in crate::product::symbols) async fn acquire_lease(
        &self,
        market: Market,
        request: LeaseRequest<'_>,
    ) -> Result<LeaseReply, CacheError> {
        let keys = CacheKeys(market);
        let token = Uuid::new_v4().to_string();
        let mut call = self.scripts.begin.prepare_invoke();
        call.key(keys.lock())
            .key(keys.fence())
            .key(keys.primary())
            .key(keys.last_refresh())
            .key(keys.failure());
        call.arg(&token).arg(LEASE.as_millis());
        match request {
            LeaseRequest::Warmup => call.arg("warmup").arg(""),
            LeaseRequest::Reader(known) => call.arg("reader").arg(known),
            LeaseRequest::Fetched(known) => call.arg("fetched").arg(known),
            LeaseRequest::Kept => call.arg("kept").arg(""),
        };
        call.arg(LONGEST_PAUSE.as_millis());
        let (word, number, reason, unusable): (String, i64, Vec<u8>, Vec<String>) = self
            .connection
            .script(None, &call)
            .await
            .map_err(|source| CacheError::Redis { market, source })?;
        self.name_unusable(unusable);
        let number = u64::try_from(number).unwrap_or(0);
        let left = Duration::from_millis(number);
        Ok(match word.as_str() {
            "granted" | "unlocked" => LeaseReply::Granted(RefreshLease { token, number }),
            "newer" => LeaseReply::Newer,
            "failing" => LeaseReply::Failing(left, String::from_utf8_lossy(&reason).into_owned()),
            _ => LeaseReply::Busy(left),
        })
    }

    /// Releases a lease without a list. With `failure`, no reader tries again until its pause is over.
    ///
    /// # Errors
    /// [`CacheError::Redis`]. The lease then expires.
    pub(in crate::product::symbols) async fn release_lease(
        &self,
        market: Market,
        lease: &RefreshLease,
        failure: Option<(Duration, &str)>,
    ) -> Result<(), CacheError> {
        let keys = CacheKeys(market);
        let (pause, reason) = failure.unwrap_or_default();
        let mut call = self.scripts.give_up.prepare_invoke();
        call.key(keys.lock()).key(keys.failure()).key(keys.refreshes());
        call.arg(&lease.token)
            .arg(pause.as_millis())
            .arg(reason)
            .arg(self.clock.now().timestamp());
        let ended: Result<i64, _> = self.connection.script(None, &call).await;
        ended
            .map(drop)
            .map_err(|source| CacheError::Redis { market, source })
    }
}
