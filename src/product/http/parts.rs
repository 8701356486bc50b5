//! Parts of a list, and lists of other quote assets: made for the first who asks, kept for the next until the list
//! they were made from is replaced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;

use super::query::Filter;
use super::representation::Representation;
use crate::product::binance::exchange_info::Symbol;
use crate::product::symbols::all_symbols::AllSymbols;
use crate::product::symbols::list::SymbolList;
use crate::product::symbols::reads::Reading;
use tradebot_base::market::Market;
use tradebot_wire::python_json;

/// So many parts are kept.
const KEPT: usize = 64;

/// Parts by what asks for them, each with the list that it was made from.
type Kept = HashMap<(Market, Filter), (Arc<SymbolList>, Arc<Representation>)>;

/// The parts that were asked for.
pub(super) struct Parts {
    everything: AllSymbols,
    runtime: Handle,
    kept: Mutex<Kept>,
}

impl Parts {
    pub(super) fn new(everything: AllSymbols, runtime: Handle) -> Self {
        Self {
            everything,
            runtime,
            kept: Mutex::default(),
        }
    }

    /// The part of a list that a filter takes; `None` when the symbols it is about are not known.
    pub(super) async fn list(
        &self,
        market: Market,
        reading: &Reading,
        filter: Filter,
        listed_quote: &str,
    ) -> Option<Arc<Representation>> {
        let whole = if filter.is_within(listed_quote) {
            Arc::clone(&reading.list)
        } else {
            self.everything.read(market, reading.list.fetched_at()).await?
        };
        let key = (market, filter);
        if let Some((of, body)) = self.kept().get(&key)
            && Arc::ptr_eq(of, &whole)
        {
            return Some(Arc::clone(body));
        }
        let taken: Vec<&Symbol> = whole.symbols().iter().filter(|one| key.1.takes(one)).collect();
        let body = Arc::new(Representation::new(python_json::to_string(&taken).ok()?.into()));
        body.pack_on(&self.runtime);
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.clear();
        }
        kept.insert(key, (whole, Arc::clone(&body)));
        Some(body)
    }

    /// One symbol: of all, or where they are not known, of the list.
    pub(super) async fn symbol(
        &self,
        market: Market,
        reading: &Reading,
        name: &str,
    ) -> Option<Arc<Representation>> {
        let whole = self.everything.read(market, reading.list.fetched_at()).await;
        let known = whole.as_ref().unwrap_or(&reading.list);
        let symbol = known.symbols().iter().find(|one| one.symbol == name)?;
        let text = python_json::to_string(symbol).ok()?;
        Some(Arc::new(Representation::new(text.into())))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Held for a look-up or an insertion, never across an await.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
