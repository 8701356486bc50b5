//! Filtered lists and lists of other quote assets. Each is made on the first request for it and kept until the list it
//! was made from is replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::query::ListFilter;
use super::representation::{Packer, Representation};
use crate::product::binance::exchange_info::Symbol;
use crate::product::symbols::all_symbols::AllSymbols;
use crate::product::symbols::list::SymbolList;
use crate::product::symbols::reads::Reading;
use tradebot_base::market::Market;
use tradebot_wire::python_json;

/// How many filtered lists are kept. One more empties the cache.
const CAPACITY: usize = 64;

/// The filtered lists of both markets.
pub(crate) struct FilteredLists {
    everything: AllSymbols,
    packer: Packer,
    cache: Mutex<FilterCache>,
}

impl FilteredLists {
    pub(crate) fn new(everything: AllSymbols, packer: Packer) -> Self {
        Self {
            everything,
            packer,
            cache: Mutex::default(),
        }
    }

    /// The symbols a filter selects. `None` while the symbols of its quote assets are not known.
    pub(crate) async fn list(
        &self,
        market: Market,
        reading: &Reading,
        filter: ListFilter,
        listed_quote: &str,
    ) -> Option<Arc<Representation>> {
        let whole = if filter.is_within(listed_quote) {
            Arc::clone(&reading.list)
        } else {
            self.everything.read(market, &reading.list).await?
        };
        let key = (market, filter);
        if let Some(body) = self.cache().get(&key, &whole) {
            return Some(body);
        }
        let taken: Vec<&Symbol> = whole.symbols().iter().filter(|one| key.1.selects(one)).collect();
        let body = Arc::new(Representation::new(python_json::to_string(&taken).ok()?.into()));
        self.packer.pack_last(&body);
        self.cache().insert(key, whole, Arc::clone(&body));
        Some(body)
    }

    /// One symbol, from all known symbols or else from the list.
    pub(crate) async fn symbol(
        &self,
        market: Market,
        reading: &Reading,
        name: &str,
    ) -> Option<Arc<Representation>> {
        let whole = self.everything.read(market, &reading.list).await;
        let known = whole.as_ref().unwrap_or(&reading.list);
        let symbol = known.symbols().iter().find(|one| one.symbol == name)?;
        let text = python_json::to_string(symbol).ok()?;
        Some(Arc::new(Representation::new(text.into())))
    }

    /// Held for a look-up or an insertion, never across an await.
    fn cache(&self) -> MutexGuard<'_, FilterCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bodies by filter, each with the list it was made from.
#[derive(Default)]
struct FilterCache(HashMap<(Market, ListFilter), (Arc<SymbolList>, Arc<Representation>)>);

impl FilterCache {
    /// The body for a filter, if it was made from `list`.
    fn get(&self, key: &(Market, ListFilter), list: &Arc<SymbolList>) -> Option<Arc<Representation>> {
        let (made_from, body) = self.0.get(key)?;
        Arc::ptr_eq(made_from, list).then(|| Arc::clone(body))
    }

    fn insert(&mut self, key: (Market, ListFilter), list: Arc<SymbolList>, body: Arc<Representation>) {
        if self.0.len() >= CAPACITY {
            self.0.clear();
        }
        self.0.insert(key, (list, body));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str =
        r#"[{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}]"#;

    fn list() -> Arc<SymbolList> {
        Arc::new(SymbolList::read(LIST, Some(1), None).expect("a list"))
    }

    fn key(quote: usize) -> (Market, ListFilter) {
        let filter = ListFilter::read(&format!("quote=Q{quote}"), "USDT").expect("a query");
        (Market::Spot, filter.expect("a filter"))
    }

    #[test]
    fn the_cache_holds_64_bodies_at_most() {
        let (mut cache, list) = (FilterCache::default(), list());
        let body = Arc::new(Representation::new("[]".into()));
        for quote in 0..65 {
            cache.insert(key(quote), Arc::clone(&list), Arc::clone(&body));
            assert!(cache.0.len() <= 64, "{}", cache.0.len());
            assert!(cache.get(&key(quote), &list).is_some(), "the latest is kept");
        }
        assert!(cache.get(&key(0), &list).is_none());
    }

    #[test]
    fn a_body_made_from_another_list_is_not_used() {
        let (mut cache, before) = (FilterCache::default(), list());
        cache.insert(
            key(1),
            Arc::clone(&before),
            Arc::new(Representation::new("[]".into())),
        );
        assert!(cache.get(&key(1), &before).is_some());
        assert!(cache.get(&key(1), &list()).is_none());
    }
}
