//! The list of one market in process memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Level, Reading};
use crate::product::symbols::cache::StoredLists;
use crate::product::symbols::list::SymbolList;

/// A market's list in process memory.
pub(super) struct MemoryCache {
    held: ArcSwapOption<HeldList>,
    began: Instant,
    /// Locked while `held` is changed.
    version: Mutex<MemoryVersion>,
}

#[derive(Debug, Default)]
struct MemoryVersion {
    /// Number of changes made by this process.
    changes: u64,
    /// The time of the last refresh as Redis had it when it was last read.
    refresh: Vec<u8>,
}

/// A list in memory, and its state in Redis.
#[derive(Debug, Clone)]
pub(super) struct HeldList {
    pub(super) list: Arc<SymbolList>,
    /// When it expires, in milliseconds since the start of this process; `None` if never.
    pub(super) expires_ms: Option<i64>,
    /// Only the last-good key had it.
    pub(super) last_good: bool,
    /// It could not be written to Redis, which has an older list or none.
    pub(super) unsaved: bool,
    /// Another program replaced it in Redis with a list that was refused, and no refresh has ended since.
    pub(super) kept: bool,
}

impl MemoryCache {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            held: ArcSwapOption::empty(),
            began,
            version: Mutex::default(),
        }
    }

    fn version(&self) -> MutexGuard<'_, MemoryVersion> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of changes made by this process. Get it before reading Redis, for [`apply`](Self::apply).
    pub(super) fn changes(&self) -> u64 {
        self.version().changes
    }

    /// The time of the last refresh as Redis had it when it was last read.
    pub(super) fn seen_refresh(&self) -> Vec<u8> {
        self.version().refresh.clone()
    }

    /// The list in memory. Takes no lock.
    pub(super) fn get(&self) -> Option<Arc<HeldList>> {
        self.held.load_full()
    }

    pub(super) fn now_ms(&self) -> i64 {
        i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// Stores a list that was just fetched. It expires after `ttl`, or never.
    pub(super) fn put(&self, list: SymbolList, ttl: Option<Duration>, unsaved: bool) -> Arc<HeldList> {
        let expires_ms =
            ttl.map(|ttl| self.now_ms() + i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX / 2));
        let mut version = self.version();
        version.changes += 1;
        let held = Arc::new(HeldList {
            list: Arc::new(list),
            expires_ms,
            last_good: false,
            unsaved,
            kept: false,
        });
        self.held.store(Some(Arc::clone(&held)));
        held
    }

    /// Takes over what was read from Redis; `ttl_seconds` is the lifetime of new lists. Returns `false` if this process has
    /// stored a list since `changes` was read, as `stored` may be older than that list; read Redis again then.
    #[must_use]
    pub(super) fn apply(&self, stored: StoredLists, changes: u64, now_unix: i64, ttl_seconds: i64) -> bool {
        let mut version = self.version();
        if version.changes != changes {
            return false;
        }
        version.refresh.clone_from(&stored.last_refresh_text);
        let now_ms = self.now_ms();
        let before = self.held.load_full();
        let newer_here = |fetched_at: Option<i64>| {
            before.as_ref().is_some_and(|held| {
                held.unsaved && held.is_fresh(now_ms) && held.list.fetched_at() > fetched_at
            })
        };
        if newer_here(stored.last_refresh) {
            return true;
        }
        let share = |list: SymbolList| match &before {
            Some(held) if held.list.is_same(&list) => Arc::clone(&held.list),
            _ => Arc::new(list),
        };
        let kept = |list: &SymbolList| {
            let was_kept = |held: &Arc<HeldList>| held.kept && held.list.is_same(list);
            stored.kept || before.as_ref().is_some_and(was_kept)
        };
        let read = |json: &Option<Bytes>| {
            let json = json.clone()?;
            let source = stored.source_of(&json);
            SymbolList::read(json, stored.last_refresh, source)
        };
        if let Some(list) = read(&stored.primary) {
            self.held.store(Some(Arc::new(HeldList {
                kept: kept(&list),
                list: share(list),
                expires_ms: stored.ttl_ms.map(|ttl| now_ms + ttl),
                last_good: false,
                unsaved: false,
            })));
            return true;
        }
        // The primary key is gone, so the list in memory has expired, whatever its time was.
        let last_good = read(&stored.last_good);
        let ended = before.as_ref().map(|held| HeldList {
            expires_ms: Some(held.expires_ms.unwrap_or(now_ms).min(now_ms)),
            ..HeldList::clone(held)
        });
        let held = match (last_good, ended) {
            (Some(list), Some(held)) if list.fetched_at() <= held.list.fetched_at() => Some(held),
            (Some(list), _) => {
                let age = list
                    .fetched_at()
                    .map_or(i64::MAX / 4000, |at| now_unix.saturating_sub(at).max(0));
                let over = age.saturating_sub(ttl_seconds.max(0)).max(0);
                Some(HeldList {
                    kept: kept(&list),
                    list: share(list),
                    expires_ms: Some(now_ms.saturating_sub(over.saturating_mul(1000))),
                    last_good: true,
                    unsaved: false,
                })
            }
            (None, held) => held,
        };
        self.held.store(held.map(Arc::new));
        true
    }
}

impl HeldList {
    /// Whether it has not expired.
    pub(super) fn is_fresh(&self, now_ms: i64) -> bool {
        self.expires_ms.is_none_or(|end| now_ms < end)
    }

    /// The age of the list, if known.
    pub(super) fn age(&self, now_unix: i64) -> Option<Duration> {
        let at = self.list.fetched_at()?;
        Some(Duration::from_secs(
            u64::try_from(now_unix.saturating_sub(at)).unwrap_or(0),
        ))
    }

    pub(super) fn reading(&self, level: Level, now_ms: i64, now_unix: i64) -> Reading {
        let ttl = self.expires_ms.map(|end| (end - now_ms).div_euclid(1000));
        Reading {
            list: Arc::clone(&self.list),
            level: if self.kept { Level::Kept } else { level },
            age: self.age(now_unix),
            ttl,
            stale: !self.is_fresh(now_ms),
            at: now_unix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str =
        r#"[{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}]"#;

    #[tokio::test]
    async fn what_was_read_before_a_list_was_made_here_is_read_again() {
        let memory = MemoryCache::new(Instant::now());
        let before = memory.changes();
        let list = SymbolList::read(LIST, Some(100), None).expect("a list");
        memory.put(list, Some(Duration::from_secs(60)), false);
        assert!(!memory.apply(StoredLists::default(), before, 100, 60));
        let held = memory.get().expect("the list");
        assert!(held.is_fresh(memory.now_ms()), "{held:?}");
        // This time Redis was read after the change, and the list is gone from it.
        assert!(memory.apply(StoredLists::default(), memory.changes(), 100, 60));
        let held = memory.get().expect("the list, whatever its age");
        assert!(!held.is_fresh(memory.now_ms()), "{held:?}");
    }
}
