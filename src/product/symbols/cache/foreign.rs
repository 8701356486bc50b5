//! Lists that other programs wrote in the places of ours: judges them, adopts good ones, and restores ours over bad ones.
//!
//! Python workers and routes write any answer of the exchange, empty and halved ones too, over the primary and the last-good
//! list. What was accepted last has a key of its own, and is known by its SHA-1.

use bytes::Bytes;

use super::{CacheError, CacheKeys, FetchedBy, ListNetwork, ListSource, StoredLists, SymbolCache, sha1};
use crate::config::SymbolsConfig;
use crate::product::symbols::guard::{self, ListConcern};
use crate::product::symbols::list::SymbolList;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::market::Market;

/// How long `doctor` and `/metrics` remember a refused list, in seconds.
const REMEMBERED_SECONDS: u32 = 86_400;
/// Python writes its list to one key after the other: within this many seconds it is the same list.
pub(in crate::product::symbols) const SAME_SECONDS: u64 = 10;

/// What other programs wrote in place of the list accepted last.
#[derive(Debug)]
pub(in crate::product::symbols) enum ForeignLists {
    /// Nothing, or nothing that can be compared with a list accepted before.
    None,
    /// One list in both places, which resembles the one accepted last.
    Good(GoodList),
    /// A list that must not be served.
    Refused(RefusedLists),
}

/// A list of another program to accept.
#[derive(Debug)]
pub(in crate::product::symbols) struct GoodList {
    source: ListSource,
    before: String,
}

/// Lists of another program that must not be served.
#[derive(Debug)]
pub(in crate::product::symbols) struct RefusedLists {
    /// SHA-1 of the refused list in each place.
    primary: Option<String>,
    last_good: Option<String>,
    accepted: ListSource,
    /// Seconds that the accepted list has left: 0 if it has expired, -1 if it never does.
    seconds_left: i64,
    now_unix: i64,
    /// What is wrong with them.
    pub(in crate::product::symbols) concerns: Vec<ListConcern>,
}

impl RefusedLists {
    /// SHA-1 of the refused list that readers would get.
    pub(in crate::product::symbols) fn sha1(&self) -> &str {
        let first = self.primary.as_ref().or(self.last_good.as_ref());
        first.map_or("", String::as_str)
    }
}

impl StoredLists {
    /// Judges lists of other programs, and puts the list accepted last in the place of those that must not be served. New
    /// lists live for `ttl_seconds`.
    pub(in crate::product::symbols) fn judge_foreign(
        &mut self,
        config: &SymbolsConfig,
        ttl_seconds: i64,
        now_unix: i64,
    ) -> ForeignLists {
        let Some((accepted, json)) = self.accepted_list() else {
            return ForeignLists::None;
        };
        let source = accepted.source().expect("an accepted list has a source").clone();
        let mut concerns = Vec::new();
        let mut refuse = |list: &Option<Bytes>| {
            let list = list.as_ref().filter(|list| !source.describes(list))?;
            let found = guard::foreign_concerns(list, &accepted, config);
            if found.is_empty() {
                return None;
            }
            concerns = found;
            Some(sha1(list))
        };
        let last_good = refuse(&self.last_good);
        let primary = refuse(&self.primary);
        if primary.is_none() && last_good.is_none() {
            return match &self.primary {
                Some(list) if self.last_good.as_ref() == Some(list) => ForeignLists::Good(GoodList {
                    before: source.sha1.clone(),
                    source: ListSource {
                        host: "another program".to_owned(),
                        fetched_at: self.last_refresh.unwrap_or(now_unix),
                        count: SymbolList::read(list.clone(), None, None).map_or(0, |list| list.count()),
                        server_time: None,
                        by: Some(FetchedBy::Other),
                        sha1: sha1(list),
                        ..source
                    },
                }),
                _ => ForeignLists::None,
            };
        }
        let ends_in = ttl_seconds
            .saturating_sub(now_unix.saturating_sub(source.fetched_at))
            .clamp(0, ttl_seconds.max(0));
        let seconds_left = if ttl_seconds > 0 { ends_in } else { -1 };
        if last_good.is_some() {
            self.last_good = Some(json.clone());
        }
        if primary.is_some() {
            self.primary = (seconds_left != 0).then_some(json);
            self.ttl_ms = (seconds_left > 0).then_some(seconds_left.saturating_mul(1000));
        }
        if primary.is_some() || self.primary.is_none() {
            self.last_refresh = Some(source.fetched_at);
            self.kept = true;
        }
        ForeignLists::Refused(RefusedLists {
            primary,
            last_good,
            accepted: source,
            seconds_left,
            now_unix,
            concerns,
        })
    }

    /// What is wrong with lists that other programs wrote, by key.
    ///
    /// # Errors
    /// When Redis fails.
    pub(crate) async fn bad(
        connection: &Connection,
        market: Market,
        config: &SymbolsConfig,
    ) -> Result<Vec<(String, Vec<ListConcern>)>, RedisTrouble> {
        let stored = match Self::read(connection, market).await {
            Ok(stored) => stored,
            Err(CacheError::Redis { source, .. }) => return Err(source),
            Err(_) => return Ok(Vec::new()),
        };
        let Some((accepted, _)) = stored.accepted_list() else {
            return Ok(Vec::new());
        };
        let keys = CacheKeys(market);
        let places = [
            (keys.primary(), &stored.primary),
            (keys.last_good(), &stored.last_good),
        ];
        let bad = places.into_iter().filter_map(|(key, list)| {
            let list = list.as_ref().filter(|list| stored.source_of(list).is_none())?;
            Some((key, guard::foreign_concerns(list, &accepted, config)))
        });
        Ok(bad.filter(|(_, concerns)| !concerns.is_empty()).collect())
    }

    /// The list accepted last with its bytes, if another is in one of its places. Sandbox data is no measure for real lists.
    pub(super) fn accepted_list(&self) -> Option<(SymbolList, Bytes)> {
        let json = self.accepted.clone()?;
        let source = self.source_of(&json)?;
        if source.network == ListNetwork::Sandbox {
            return None;
        }
        let at = Some(source.fetched_at);
        Some((SymbolList::read(json.clone(), at, Some(source))?, json))
    }
}

impl SymbolCache {
    /// Writes the list accepted last over refused ones that are still in place, and remembers the refusal.
    ///
    /// # Errors
    /// [`CacheError::Redis`]. The lists may have been restored.
    pub(in crate::product::symbols) async fn restore(
        &self,
        market: Market,
        refused: &RefusedLists,
    ) -> Result<(), CacheError> {
        let keys = CacheKeys(market);
        let mut call = self.scripts.restore.prepare_invoke();
        call.key(keys.primary())
            .key(keys.last_good())
            .key(keys.last_refresh())
            .key(keys.accepted())
            .key(keys.refused());
        call.arg(refused.primary.as_deref().unwrap_or_default())
            .arg(refused.last_good.as_deref().unwrap_or_default())
            .arg(&refused.accepted.sha1)
            .arg(refused.accepted.fetched_at)
            .arg(refused.seconds_left)
            .arg(guard::describe(&refused.concerns))
            .arg(refused.now_unix)
            .arg(REMEMBERED_SECONDS)
            .arg(SAME_SECONDS);
        let called: Result<(i64, Vec<String>), _> = self.connection.script(None, &call).await;
        let (_, unusable) = called.map_err(|source| CacheError::Redis { market, source })?;
        self.name_unusable(unusable);
        Ok(())
    }

    /// Makes a list of another program the one accepted last, if it is still in both places.
    ///
    /// # Errors
    /// [`CacheError::Redis`].
    pub(in crate::product::symbols) async fn adopt(
        &self,
        market: Market,
        good: &GoodList,
    ) -> Result<(), CacheError> {
        let keys = CacheKeys(market);
        let mut call = self.scripts.adopt.prepare_invoke();
        call.key(keys.primary())
            .key(keys.last_good())
            .key(keys.accepted())
            .key(keys.source());
        let source = tradebot_wire::python_json::to_string(&good.source).expect("a source is JSON");
        call.arg(&good.source.sha1).arg(&good.before).arg(source);
        let called: Result<Vec<String>, _> = self.connection.script(None, &call).await;
        self.name_unusable(called.map_err(|source| CacheError::Redis { market, source })?);
        Ok(())
    }
}
