//! The lists on the terminal: a block per refresh, on standard output.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::product::symbols::cache::{ListNetwork, StoredLists, SymbolCache};
use tradebot_base::clock::SharedClock;
use tradebot_base::market::{Market, PerMarket};

/// How many symbols of a list are shown.
const SHOWN: usize = 10;
const POLL: Duration = Duration::from_millis(200);

/// Watches the cache of one Redis.
pub(super) struct View {
    cache: SymbolCache,
    clock: SharedClock,
    /// The success counters when last looked at.
    counted: PerMarket<Option<u64>>,
    /// Refreshes seen.
    seen: PerMarket<u64>,
}

impl View {
    pub(super) fn new(cache: SymbolCache, clock: SharedClock) -> Self {
        Self {
            cache,
            clock,
            counted: PerMarket::default(),
            seen: PerMarket::default(),
        }
    }

    /// Shows every refresh; ends after `wanted` of each list, or never. With a wish it gives up when a list
    /// does not arrive for `patience`.
    pub(super) async fn run(&mut self, wanted: Option<u64>, patience: Duration) -> Result<()> {
        let mut last_news = Instant::now();
        loop {
            for market in Market::ALL {
                if self.look(market).await? {
                    last_news = Instant::now();
                }
            }
            if let Some(wanted) = wanted {
                if self.seen.spot >= wanted && self.seen.futures >= wanted {
                    return say(&format!("\n{wanted} refreshes of both lists arrived."));
                }
                if last_news.elapsed() > patience {
                    bail!(
                        "no list arrived for {} s; the log above says why",
                        patience.as_secs()
                    );
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Shows a market's list if it was refreshed since the last look.
    async fn look(&mut self, market: Market) -> Result<bool> {
        // Redis away for a moment is the worker's trouble; the view shows what comes after.
        let Ok(stored) = self.cache.read(market).await else {
            return Ok(false);
        };
        let counted = match market {
            Market::Spot => &mut self.counted.spot,
            Market::Futures => &mut self.counted.futures,
        };
        let before = counted.replace(stored.refreshes);
        // What was there before this run is not news, unless it was all that had ever been.
        let news = stored
            .refreshes
            .saturating_sub(before.unwrap_or(stored.refreshes));
        let first = before.is_none() && stored.refreshes > 0;
        if news == 0 && !first {
            return Ok(false);
        }
        match market {
            Market::Spot => self.seen.spot += news.max(u64::from(first)),
            Market::Futures => self.seen.futures += news.max(u64::from(first)),
        }
        self.show(market, &stored)?;
        Ok(true)
    }

    fn show(&self, market: Market, stored: &StoredLists) -> Result<()> {
        let text = stored
            .primary
            .as_deref()
            .or(stored.last_good.as_deref())
            .unwrap_or("[]");
        let list: Vec<Value> = serde_json::from_str(text).context("the stored list is not JSON")?;
        let names: Vec<&str> = list
            .iter()
            .filter_map(|symbol| symbol.get("symbol")?.as_str())
            .collect();
        let age = stored.last_refresh.map(|at| self.clock.now().timestamp() - at);
        let ttl = stored
            .ttl_seconds
            .map_or("no expiry".to_owned(), |ttl| format!("expires in {ttl} s"));
        let (mark, host) = match &stored.source {
            Some(source) if source.network == ListNetwork::Sandbox => {
                ("  SANDBOX DATA", source.host.as_str())
            }
            Some(source) if source.network == ListNetwork::Testnet => ("  TESTNET", source.host.as_str()),
            Some(source) => ("", source.host.as_str()),
            None => ("", "an unknown source"),
        };
        let more = names.len().saturating_sub(SHOWN);
        say(&format!(
            "\n{market:<8}{} symbols, {} s old, {ttl}, from {host}{mark}\n        {} … and {more} more",
            names.len(),
            age.unwrap_or(-1),
            names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(" "),
        ))
    }
}

/// One block on standard output. A closed pipe is an error like any other: nobody is watching.
fn say(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}").context("cannot write to standard output")
}
