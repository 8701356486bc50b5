//! Write-behind: keeps a list that Redis did not take, and writes it later.

use std::sync::{Arc, MutexGuard, PoisonError};

use tracing::{debug, info, warn};

use super::{FetchedList, RefreshError, RefreshPurpose, Refresher};
use crate::product::symbols::cache::{
    CacheError, FetchedBy, LeaseReply, LeaseRequest, ListSource, WriteOutcome,
};
use tradebot_base::error_chain;
use tradebot_base::market::Market;

/// A list that readers got but Redis does not have.
pub(super) struct UnsavedList {
    pub(super) fresh: FetchedList,
    pub(super) source: ListSource,
}

impl Refresher {
    pub(super) fn unsaved(&self, market: Market) -> MutexGuard<'_, Option<Arc<UnsavedList>>> {
        // Locked for assignments and copies, never across an await.
        let unsaved = self.unsaved.get(market).lock();
        unsaved.unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is an unsaved list that has not expired.
    pub(in crate::product::symbols) fn has_unsaved(&self, market: Market) -> bool {
        let mut unsaved = self.unsaved(market);
        let ended = |late: &Arc<UnsavedList>| self.cache.has_expired(market, self.age(&late.source));
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

    /// Writes the unsaved list for the rest of its lifetime, unless Redis has a list as new or another process is
    /// refreshing. `known` is the time of the last refresh that this process has read. Returns whether the list is done
    /// with, written or not.
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
                debug!(%market, error = %error_chain(&error), "cannot write the unsaved list to Redis yet");
                return false;
            }
        };
        let purpose = RefreshPurpose {
            by: FetchedBy::Reader,
            lease: Some(&lease),
            known: None,
            write_behind: true,
        };
        let written = self
            .compare_and_write(market, &purpose, &late.fresh, &late.source)
            .await;
        if !matches!(written, Ok(WriteOutcome::Yes)) {
            self.release_lease(market, &lease, None).await;
        }
        match written {
            Ok(WriteOutcome::Yes) => info!(%market, "wrote the unsaved list to Redis"),
            Ok(_) => debug!(%market, "Redis has a newer list, dropping the unsaved one"),
            Err(RefreshError::Cache {
                source: trouble @ CacheError::Redis { .. },
                ..
            }) => {
                debug!(%market, error = %error_chain(&trouble), "cannot write the unsaved list to Redis yet");
                return false;
            }
            Err(error) => {
                warn!(%market, error = %error_chain(&error), "dropping the unsaved list");
            }
        }
        // A refresh may have stored another one in the meantime.
        let mut unsaved = self.unsaved(market);
        if unsaved.as_ref().is_some_and(|now| Arc::ptr_eq(now, &late)) {
            *unsaved = None;
        }
        true
    }
}
