//! One refresh of one market: fetch, prepare, guard, write. Scheduled and manual runs share this path.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tracing::{info, warn};

use super::cache::{CacheError, Network, Source, SymbolCache};
use super::list::List;
use super::prepare::prepare;
use crate::config::SymbolsConfig;
use crate::core::error_chain;
use crate::market::Market;
use crate::product::binance::client::{Client, Fetched};
use crate::product::binance::error::UpstreamError;

/// Why a refresh left the lists as they were.
#[derive(Debug, Error)]
pub enum RefreshError {
    /// No list was fetched.
    #[error("no {market} list from the exchange")]
    Upstream {
        /// The market.
        market: Market,
        /// Where and why.
        #[source]
        source: UpstreamError,
    },
    /// The list was fetched, and nothing of it may be listed. That is what maintenance looks like, and a
    /// list that users trade by is not emptied for it.
    #[error(
        "{host} lists no trading {market} symbol quoted in {quote} ({symbols} symbols in all, {malformed} unreadable)"
    )]
    Empty {
        /// The market.
        market: Market,
        /// Who answered.
        host: String,
        /// The quote asset that was looked for.
        quote: String,
        /// Symbols of any status and quote asset.
        symbols: usize,
        /// Entries that could not be read.
        malformed: usize,
    },
    /// The list could not be written.
    #[error("cannot write the {market} list")]
    Cache {
        /// The market.
        market: Market,
        /// Why.
        #[source]
        source: CacheError,
    },
}

impl RefreshError {
    /// How long the exchange must not be asked again, if it said so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Upstream { source, .. } => source.reason.retry_after(),
            Self::Empty { .. } | Self::Cache { .. } => None,
        }
    }
}

/// A list for readers.
pub(super) struct Refreshed {
    pub(super) list: List,
    /// Whether it is in Redis, too.
    pub(super) saved: bool,
}

/// Refreshes the lists of one cache from one client.
pub struct Refresher {
    client: Client,
    cache: SymbolCache,
    config: SymbolsConfig,
}

impl Refresher {
    /// A refresher.
    #[must_use]
    pub fn new(client: Client, cache: SymbolCache, config: SymbolsConfig) -> Self {
        Self {
            client,
            cache,
            config,
        }
    }

    /// Refreshes a market's list, and counts one success or one error.
    ///
    /// # Errors
    /// [`RefreshError`]; the stored lists are untouched then.
    pub async fn refresh(&self, market: Market) -> Result<Source, RefreshError> {
        let refreshed = self.try_refresh(market).await;
        if refreshed.is_err()
            && let Err(error) = self.cache.count_error(market).await
        {
            warn!(%market, error = %error_chain(&error), "a failed refresh could not be counted");
        }
        refreshed.map(|(source, _)| source)
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &SymbolCache {
        &self.cache
    }

    pub(super) async fn refresh_for_readers(&self, market: Market) -> Result<Refreshed, RefreshError> {
        let (source, json) = self.try_refresh(market).await?;
        let fetched_at = Some(source.fetched_at);
        let list = List::read(json, fetched_at, Some(source)).expect("a list that is not empty");
        Ok(Refreshed { list, saved: true })
    }

    async fn try_refresh(&self, market: Market) -> Result<(Source, Bytes), RefreshError> {
        let fetched = self.client.exchange_info(market).await;
        let Fetched {
            listing,
            base_url,
            body_bytes,
        } = fetched.map_err(|source| RefreshError::Upstream { market, source })?;
        let (total, malformed, repeated) = (listing.symbols.len(), listing.malformed, listing.repeated);
        let network = match (listing.sandbox, self.client.is_testnet()) {
            (true, _) => Network::Sandbox,
            (false, true) => Network::Testnet,
            (false, false) => Network::Mainnet,
        };
        if malformed + repeated > 0 {
            warn!(%market, host = base_url, malformed, repeated, "some entries of the list were left out");
        }
        let symbols = prepare(listing.symbols, market, &self.config);
        if symbols.is_empty() {
            let quote = self.config.quote_asset.clone();
            return Err(RefreshError::Empty {
                market,
                host: base_url,
                quote,
                symbols: total,
                malformed,
            });
        }
        let written = self.cache.write(market, &symbols, network, &base_url).await;
        let (source, json) = written.map_err(|source| RefreshError::Cache { market, source })?;
        if network == Network::Sandbox {
            warn!(%market, host = source.host, "this is SANDBOX data: nothing in the list is real");
        }
        info!(%market, symbols = source.count, of = total, host = source.host, ?network, body_bytes, "list refreshed");
        Ok((source, json))
    }
}
