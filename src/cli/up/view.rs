//! The lists on the terminal: a block per refresh, on standard output.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::cli::say;
use crate::product::symbols::cache::{CacheKeys, ListNetwork, StoredLists};
use crate::product::symbols::list::SymbolList;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::Connection;
use tradebot_base::market::Market;

/// How many symbols of a list are shown.
const SHOWN: usize = 10;
const POLL: Duration = Duration::from_millis(200);

/// Watches the lists of one Redis.
pub(super) struct View {
    connection: Connection,
    clock: SharedClock,
    /// By market, the success counter when last read and the refreshes seen since.
    progress: [(Option<u64>, u64); Market::ALL.len()],
}

impl View {
    pub(super) fn new(connection: Connection, clock: SharedClock) -> Self {
        Self {
            connection,
            clock,
            progress: Default::default(),
        }
    }

    /// Shows every refresh. With `wanted` it ends after that many of each list, or fails when no list arrives for
    /// `patience`.
    pub(super) async fn run(&mut self, wanted: Option<u64>, patience: Duration) -> Result<()> {
        let mut last_news = Instant::now();
        loop {
            for (place, market) in Market::ALL.into_iter().enumerate() {
                if self.look(place, market).await? {
                    last_news = Instant::now();
                }
            }
            if let Some(wanted) = wanted {
                if self.progress.iter().all(|(_, seen)| *seen >= wanted) {
                    return say(&format!("\n{wanted} refreshes of both lists arrived."));
                }
                if last_news.elapsed() > patience {
                    bail!("no list arrived for {} s; see the log above", patience.as_secs());
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Shows a market's list if it was refreshed since the last reading.
    async fn look(&mut self, place: usize, market: Market) -> Result<bool> {
        // The worker reports when Redis is away; the view goes on with the next refresh.
        let counter = redis::cmd("GET")
            .arg(CacheKeys(market).success_counter())
            .to_owned();
        let Ok(refreshes) = self.connection.command::<Option<u64>>(&counter).await else {
            return Ok(false);
        };
        let refreshes = refreshes.unwrap_or(0);
        let (counted, seen) = &mut self.progress[place];
        let news = match *counted {
            Some(before) => refreshes.saturating_sub(before),
            // All refreshes from before this run are shown as one list.
            None => refreshes.min(1),
        };
        if news == 0 {
            *counted = Some(refreshes);
            return Ok(false);
        }
        let Ok(stored) = StoredLists::read(&self.connection, market).await else {
            return Ok(false);
        };
        *counted = Some(refreshes);
        *seen += news;
        self.show(market, stored)?;
        Ok(true)
    }

    fn show(&self, market: Market, stored: StoredLists) -> Result<()> {
        let json = stored.primary.as_ref().or(stored.last_good.as_ref());
        let json = json.cloned().unwrap_or_default();
        let source = stored.source_of(&json);
        let list = SymbolList::read(json, None, None);
        let symbols = list.as_ref().map_or(&[][..], SymbolList::symbols);
        let names: Vec<&str> = symbols.iter().map(|symbol| &*symbol.symbol).collect();
        let age = stored.last_refresh.map(|at| self.clock.now().timestamp() - at);
        let ttl = stored.ttl_ms.map_or("no expiry".to_owned(), |ttl| {
            format!("expires in {} s", ttl / 1000)
        });
        let (mark, host) = match &source {
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
