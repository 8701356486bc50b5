//! Writes lists, and reads the list in place for the comparison before.

use bytes::Bytes;

use super::{CacheError, CacheKeys, ListNetwork, ListSource, RefreshLease, StoredLists, SymbolCache, sha1};
use crate::product::symbols::changes::{Diff, KEPT, NotTrading, STREAM};
use crate::product::symbols::guard::HeldBackList;
use crate::product::symbols::list::SymbolList;
use tradebot_base::market::Market;
use tradebot_wire::python_json;

/// The current list and the keys that accompany it.
#[derive(Debug, Default)]
pub(in crate::product::symbols) struct ListInPlace {
    /// What the last-good key holds, whoever wrote it.
    pub(in crate::product::symbols) last_good: Option<Bytes>,
    /// The list accepted last, or else the one in the last-good key.
    pub(in crate::product::symbols) accepted: Option<SymbolList>,
    pub(in crate::product::symbols) last_refresh: Option<i64>,
    pub(in crate::product::symbols) held_back: Option<HeldBackList>,
    pub(in crate::product::symbols) not_trading: NotTrading,
}

/// A list to write, with the keys that accompany it.
pub(in crate::product::symbols) struct ListWrite<'a> {
    pub(in crate::product::symbols) list: &'a Bytes,
    /// The symbols of all quote assets and statuses.
    pub(in crate::product::symbols) everything: &'a Bytes,
    pub(in crate::product::symbols) source: &'a ListSource,
    /// Seconds since the list was fetched, which shorten its lifetime.
    pub(in crate::product::symbols) age: i64,
    pub(in crate::product::symbols) lease: Option<&'a RefreshLease>,
    /// Whether to count a successful warm-up.
    pub(in crate::product::symbols) counted: bool,
    /// The last-good list that `change` was computed from.
    pub(in crate::product::symbols) before: Option<&'a Bytes>,
    pub(in crate::product::symbols) change: Option<&'a Diff>,
    pub(in crate::product::symbols) not_trading: &'a NotTrading,
}

/// The outcome of writing a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::product::symbols) enum WriteOutcome {
    Yes,
    /// Redis already has a list written under a later lease.
    Superseded,
    /// Another process has written since the change was computed.
    Changed,
}

impl SymbolCache {
    /// Reads the list in place, for comparison with a new one.
    ///
    /// # Errors
    /// [`CacheError::Redis`].
    pub(in crate::product::symbols) async fn list_in_place(
        &self,
        market: Market,
    ) -> Result<ListInPlace, CacheError> {
        let keys = CacheKeys(market);
        let stored = StoredLists::read(&self.connection, market).await?;
        let names = [keys.held_back(), keys.not_trading()];
        let read: Result<[Option<Vec<u8>>; 2], _> =
            self.connection.command(redis::cmd("MGET").arg(&names)).await;
        let [held_back, not_trading] = read.map_err(|source| CacheError::Redis { market, source })?;
        let accepted = stored.accepted_list().map(|(list, _)| list);
        let in_place = || {
            let json = stored.last_good.clone()?;
            let source = stored.source_of(&json);
            SymbolList::read(json, stored.last_refresh, source)
        };
        Ok(ListInPlace {
            accepted: accepted.or_else(in_place),
            last_good: stored.last_good,
            last_refresh: stored.last_refresh,
            held_back: parsed(held_back),
            not_trading: parsed(not_trading).unwrap_or_default(),
        })
    }

    /// Writes a list and the keys that accompany it, in one script.
    ///
    /// # Errors
    /// [`CacheError`]. Nothing was written, unless only the answer of Redis was lost.
    pub(in crate::product::symbols) async fn write(
        &self,
        market: Market,
        writing: ListWrite<'_>,
    ) -> Result<WriteOutcome, CacheError> {
        let json = "sources and changes are JSON";
        let keys = CacheKeys(market);
        let mut call = self.scripts.refresh.prepare_invoke();
        call.key(keys.primary())
            .key(keys.last_good())
            .key(keys.last_refresh())
            .key(keys.source())
            .key(keys.success_counter())
            .key(keys.fence())
            .key(keys.lock())
            .key(keys.held_back())
            .key(STREAM)
            .key(keys.not_trading())
            .key(keys.failure())
            .key(keys.everything())
            .key(keys.accepted())
            .key(keys.refreshes());
        call.arg(&writing.list[..])
            .arg(self.life_left(market, writing.age))
            .arg(writing.source.fetched_at)
            .arg(python_json::to_string(writing.source).expect(json))
            .arg(u8::from(writing.source.network == ListNetwork::Sandbox))
            .arg(u8::from(writing.counted))
            .arg(writing.lease.map_or(0, |lease| lease.number))
            .arg(writing.lease.map_or("", |lease| &lease.token))
            .arg(writing.before.map(|list| sha1(list)).unwrap_or_default());
        let change = writing
            .change
            .map(|change| serde_json::to_string(change).expect(json));
        call.arg(change.unwrap_or_default())
            .arg(market.name())
            .arg(serde_json::to_string(writing.not_trading).expect(json))
            .arg(KEPT)
            .arg(&writing.everything[..]);
        let (written, unusable): (String, Vec<String>) = self
            .connection
            .script(None, &call)
            .await
            .map_err(|source| CacheError::Redis { market, source })?;
        self.name_unusable(unusable);
        match written.as_str() {
            "sandbox" => Err(CacheError::SandboxOverReal {
                market,
                place: self.connection.place().to_owned(),
            }),
            "superseded" => Ok(WriteOutcome::Superseded),
            "changed" => Ok(WriteOutcome::Changed),
            _ => Ok(WriteOutcome::Yes),
        }
    }

    /// Seconds until a list of this age expires, at least 1. 0 or less means never.
    fn life_left(&self, market: Market, age: i64) -> i64 {
        match *self.ttl_seconds.get(market) {
            ttl if ttl > 0 => ttl.saturating_sub(age.max(0)).max(1),
            forever => forever,
        }
    }

    /// Whether a list of this age has expired.
    pub(in crate::product::symbols) fn has_expired(&self, market: Market, age: i64) -> bool {
        let ttl = *self.ttl_seconds.get(market);
        ttl > 0 && age >= ttl
    }

    /// Stores the facts about a held-back list, for the fetch that may confirm it.
    ///
    /// # Errors
    /// [`CacheError::Redis`].
    pub(in crate::product::symbols) async fn hold_back(
        &self,
        market: Market,
        candidate: &HeldBackList,
        seconds: u64,
    ) -> Result<(), CacheError> {
        let text = serde_json::to_string(candidate).expect("a candidate is JSON");
        let set = redis::cmd("SET")
            .arg(CacheKeys(market).held_back())
            .arg(text)
            .arg("EX")
            .arg(seconds.max(1))
            .to_owned();
        let set: Result<(), _> = self.connection.command(&set).await;
        set.map_err(|source| CacheError::Redis { market, source })
    }
}

fn parsed<T: serde::de::DeserializeOwned>(text: Option<Vec<u8>>) -> Option<T> {
    text.and_then(|text| serde_json::from_slice(&text).ok())
}
