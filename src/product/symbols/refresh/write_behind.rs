//! The list that readers were given while Redis did not take it.

use std::sync::{Arc, MutexGuard, PoisonError};

use tracing::{debug, info, warn};

use super::{FetchedList, RefreshError, RefreshPurpose, Refresher};
use crate::product::symbols::cache::{
    CacheError, FetchedBy, LeaseReply, LeaseRequest, ListSource, WriteOutcome,
};
use tradebot_base::error_chain;
use tradebot_base::market::Market;

/// A list that is not in Redis.
pub(super) struct UnsavedList {
    pub(super) fresh: FetchedList,
    pub(super) source: ListSource,
}

impl Refresher {
    pub(super) fn unsaved(&self, market: Market) -> MutexGuard<'_, Option<Arc<UnsavedList>>> {
        // Held for assignments and copies, never across an await.
        let unsaved = self.unsaved.get(market).lock();
        unsaved.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a list that Redis did not take, and that has not had its time.
    pub(in crate::product::symbols) fn has_unsaved(&self, market: Market) -> bool {
        let mut unsaved = self.unsaved(market);
        let ended = |late: &Arc<UnsavedList>| self.cache.has_ended(market, self.age(&late.source));
        if unsaved.as_ref().is_some_and(ended) {
            *unsaved = None;
        }
        unsaved.is_some()
    }

    /// Seconds since a list was fetched.
    pub(super) fn age(&self, source: &ListSource) -> i64 {
        let now = self.cache.clock().now().timestamp();
        now.saturating_sub(source.fetched_at).max(0)
    }

    /// Writes the list that Redis did not take, for what is left of its lifetime. A list in place that is as new stays,
    /// and so does whatever another process is about to write. `known` is the time of the list in place as it was last
    /// seen. Returns whether the matter is settled, one way or the other.
    pub(in crate::product::symbols) async fn write_behind(&self, market: Market, known: &[u8]) -> bool {
        let Some(late) = self.unsaved(market).clone() else {
            return true;
        };
        let lease = match self
            .cache
            .acquire_lease(market, LeaseRequest::Fetched(known))
            .await
        {
            Ok(LeaseReply::Granted(lease)) => lease,
            Ok(LeaseReply::Newer | LeaseReply::Busy(_) | LeaseReply::Failing(..)) => return false,
            Err(error) => {
                debug!(%market, error = %error_chain(&error), "the list cannot be written to Redis yet");
                return false;
            }
        };
        let purpose = RefreshPurpose {
            by: FetchedBy::Reader,
            lease: Some(&lease),
            known: None,
            late: true,
        };
        let written = self
            .compare_and_write(market, &purpose, &late.fresh, &late.source)
            .await;
        if !matches!(written, Ok(WriteOutcome::Yes)) {
            self.release_lease(market, &lease, None).await;
        }
        match written {
            Ok(WriteOutcome::Yes) => info!(%market, "Redis has the list now that it did not take before"),
            Ok(_) => debug!(%market, "Redis has a newer list than the one that it did not take"),
            Err(RefreshError::Cache {
                source: trouble @ CacheError::Redis { .. },
                ..
            }) => {
                debug!(%market, error = %error_chain(&trouble), "the list cannot be written to Redis yet");
                return false;
            }
            Err(error) => {
                warn!(%market, error = %error_chain(&error), "the list that Redis did not take is not written any more");
            }
        }
        // A refresh may have brought another one meanwhile.
        let mut unsaved = self.unsaved(market);
        if unsaved.as_ref().is_some_and(|now| Arc::ptr_eq(now, &late)) {
            *unsaved = None;
        }
        true
    }
}
