//! Refreshes a market's list: fetch, prepare, guard, write. Scheduled and manual runs share this path.

mod error;
mod write_behind;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::{debug, info, warn};

pub(crate) use self::error::RefreshError;
use self::write_behind::UnsavedList;
use super::cache::{
    CacheError, FetchedBy, ForeignLists, LeaseReply, LeaseRequest, ListNetwork, ListSource, ListWrite,
    RefreshLease, RefusedLists, StoredLists, SymbolCache, WriteOutcome, sha1,
};
use super::changes::{Diff, NotTrading};
use super::guard::{self, GuardVerdict, HeldBackList, ProposedList};
use super::list::SymbolList;
use super::prepare::{is_listed, order};
use crate::config::{BinanceConfig, SymbolsConfig};
use crate::product::binance::client::{Client, Fetched};
use crate::product::binance::exchange_info::Symbol;
use crate::product::work_durations::REFRESHES;
use tradebot_base::clock::SystemClock;
use tradebot_base::connection::Connection;
use tradebot_base::market::{Market, PerMarket};
use tradebot_base::random::Random;
use tradebot_base::{error_chain, trace};
use tradebot_wire::python_json;

/// A refreshed list, for readers.
pub(super) struct Refreshed {
    pub(super) list: SymbolList,
    /// The outcome of writing it to Redis; `None` if that failed.
    pub(super) written: Option<WriteOutcome>,
}

/// Refreshes the lists of one cache from one client.
pub(crate) struct Refresher {
    client: Client,
    cache: SymbolCache,
    config: SymbolsConfig,
    /// The list that this process holds back, for when Redis does not answer.
    held_back: PerMarket<Mutex<Option<HeldBackList>>>,
    /// The list that readers got but Redis did not take.
    unsaved: PerMarket<Mutex<Option<Arc<UnsavedList>>>>,
}

/// A fetched and prepared list.
struct FetchedList {
    symbols: Vec<Symbol>,
    json: Bytes,
    /// The symbols of all quote assets and statuses.
    everything: Bytes,
    not_trading: NotTrading,
    network: ListNetwork,
    host: String,
    server_time: Option<i64>,
    /// Number of symbols in the answer.
    total: usize,
    body_bytes: usize,
}

/// Why a list is fetched.
struct RefreshPurpose<'a> {
    by: FetchedBy,
    lease: Option<&'a RefreshLease>,
    /// The list in this process's memory, for when Redis has none.
    known: Option<&'a SymbolList>,
    /// Write only if Redis has no list or an older one.
    write_behind: bool,
}

/// How many times to compare a list because another process keeps writing.
const COMPARISONS: usize = 4;
/// How many seconds the clocks of two machines may differ.
const CLOCKS_DIFFER: i64 = 60;

/// Logs that a list of another program is refused.
pub(super) fn log_refused(market: Market, refused: &RefusedLists) {
    warn!(
        %market, concerns = guard::describe(&refused.concerns),
        "another program wrote a bad list over the one accepted last, which is served and restored"
    );
}

impl Refresher {
    /// A refresher of the lists behind `connection`, through which its client shares pauses. Does not connect yet.
    ///
    /// # Errors
    /// When the machine's TLS cannot be set up.
    pub(crate) fn new(
        connection: Connection,
        binance: BinanceConfig,
        config: SymbolsConfig,
    ) -> Result<Self, reqwest::Error> {
        let client = Client::new(binance, Random::system())?.with_shared_bans(connection.clone());
        Ok(Self {
            client,
            cache: SymbolCache::new(connection, config.ttl_seconds, SystemClock::shared()),
            config,
            held_back: PerMarket::default(),
            unsaved: PerMarket::default(),
        })
    }

    /// The client of the exchange.
    #[must_use]
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The cache.
    #[must_use]
    pub(crate) fn cache(&self) -> &SymbolCache {
        &self.cache
    }

    /// Refreshes a market's list for a warm-up, and counts a success or an error.
    ///
    /// # Errors
    /// [`RefreshError`]. The stored lists are unchanged.
    pub(crate) async fn refresh(&self, market: Market) -> Result<ListSource, RefreshError> {
        // While this process holds the lease, readers wait for its list instead of fetching one.
        let lease = match self.cache.acquire_lease(market, LeaseRequest::Warmup).await {
            Ok(LeaseReply::Granted(lease)) => Some(lease),
            Ok(_) => None,
            Err(error) => {
                debug!(%market, error = %error_chain(&error), "refreshing without a lease, so readers may fetch the list as well");
                None
            }
        };
        self.refuse_foreign(market).await;
        let purpose = RefreshPurpose {
            by: FetchedBy::Warmup,
            lease: lease.as_ref(),
            known: None,
            write_behind: false,
        };
        let refreshed = self.run(market, &purpose).await;
        if let Err(failure) = &refreshed {
            if let Some(lease) = &lease {
                self.release_lease(market, lease, None).await;
            }
            if let Err(error) = self.cache.count_error(market, &error_chain(failure)).await {
                warn!(%market, error = %error_chain(&error), "cannot count the failed refresh in Redis");
            }
        }
        refreshed.map(|(source, _, _)| source)
    }

    /// Restores the list accepted last if another program wrote a bad one over it, even if no new list can be fetched.
    async fn refuse_foreign(&self, market: Market) {
        let restored = async {
            let mut stored = StoredLists::read(&self.cache.connection, market).await?;
            if let ForeignLists::Refused(refused) = self.judge_foreign(market, &mut stored) {
                log_refused(market, &refused);
                self.cache.restore(market, &refused).await?;
            }
            Ok::<_, CacheError>(())
        };
        if let Err(error) = restored.await {
            debug!(%market, error = %error_chain(&error), "cannot compare the list in Redis with the one accepted last");
        }
    }

    /// Judges lists of other programs, and puts the list accepted last in the place of those that must not be served.
    pub(super) fn judge_foreign(&self, market: Market, stored: &mut StoredLists) -> ForeignLists {
        let ttl = *self.config.ttl_seconds.get(market);
        stored.judge_foreign(&self.config, ttl, self.cache.clock().now().timestamp())
    }

    /// Refreshes a market's list for readers, who get it even if it cannot be written to Redis.
    pub(super) async fn refresh_for_readers(
        &self,
        market: Market,
        lease: Option<&RefreshLease>,
        known: Option<&SymbolList>,
    ) -> Result<Refreshed, RefreshError> {
        let purpose = RefreshPurpose {
            by: FetchedBy::Reader,
            lease,
            known,
            write_behind: false,
        };
        let (source, json, written) = self.run(market, &purpose).await?;
        let fetched_at = Some(source.fetched_at);
        let list = SymbolList::read(json, fetched_at, Some(source)).expect("an array that is not empty");
        Ok(Refreshed { list, written })
    }

    /// Releases a lease without a list.
    pub(super) async fn release_lease(
        &self,
        market: Market,
        lease: &RefreshLease,
        failure: Option<(Duration, &str)>,
    ) {
        if let Err(error) = self.cache.release_lease(market, lease, failure).await {
            debug!(%market, error = %error_chain(&error), "cannot release the refresh lease, it will expire");
        }
    }

    async fn run(
        &self,
        market: Market,
        purpose: &RefreshPurpose<'_>,
    ) -> Result<(ListSource, Bytes, Option<WriteOutcome>), RefreshError> {
        let began = Instant::now();
        let refreshed = self.fetch_and_write(market, purpose).await;
        if !matches!(&refreshed, Err(error) if error.is_pause()) {
            REFRESHES.add(market, refreshed.is_ok(), began.elapsed());
        }
        refreshed
    }

    async fn fetch_and_write(
        &self,
        market: Market,
        purpose: &RefreshPurpose<'_>,
    ) -> Result<(ListSource, Bytes, Option<WriteOutcome>), RefreshError> {
        let fresh = self.fetch(market).await?;
        let source = ListSource {
            network: fresh.network,
            host: fresh.host.clone(),
            fetched_at: self.cache.clock().now().timestamp(),
            count: fresh.symbols.len(),
            server_time: fresh.server_time,
            by: Some(purpose.by),
            sha1: sha1(&fresh.json),
            everything_sha1: Some(sha1(&fresh.everything)),
        };
        let writing = self.compare_and_write(market, purpose, &fresh, &source);
        let written = match trace::redis_call("compare and write the list", writing).await {
            Ok(written) => Some(written),
            Err(RefreshError::Cache {
                market,
                source: trouble @ CacheError::Redis { .. },
            }) if purpose.by == FetchedBy::Reader => {
                warn!(%market, error = %error_chain(&trouble), "cannot write the list to Redis, readers get it from memory");
                None
            }
            Err(error) => return Err(error),
        };
        if fresh.network == ListNetwork::Sandbox {
            warn!(%market, host = source.host, "this is SANDBOX data: nothing in the list is real");
        }
        info!(
            %market, symbols = source.count, of = fresh.total, host = source.host, network = ?fresh.network,
            body_bytes = fresh.body_bytes, saved = written == Some(WriteOutcome::Yes), "list refreshed"
        );
        let json = fresh.json.clone();
        let late = written.is_none().then(|| {
            let source = source.clone();
            Arc::new(UnsavedList { fresh, source })
        });
        *self.unsaved(market) = late;
        Ok((source, json, written))
    }

    async fn fetch(&self, market: Market) -> Result<FetchedList, RefreshError> {
        let accept = |fetched| self.accept(market, fetched);
        Box::pin(self.client.acceptable_list(market, accept)).await
    }

    /// Prepares a list, unless it is empty or of another market or network.
    fn accept(&self, market: Market, fetched: Fetched) -> Result<FetchedList, RefreshError> {
        let Fetched {
            listing,
            base_url,
            body_bytes,
        } = fetched;
        let (total, malformed, repeated) = (listing.symbols.len(), listing.malformed, listing.repeated);
        let network = match (listing.sandbox, self.client.is_testnet()) {
            (true, _) => ListNetwork::Sandbox,
            (false, true) => ListNetwork::Testnet,
            (false, false) => ListNetwork::Mainnet,
        };
        if let Some(what) = guard::contradiction(&listing, market, network) {
            return Err(RefreshError::Contradiction {
                market,
                host: base_url,
                what,
            });
        }
        if malformed + repeated > 0 {
            warn!(%market, host = base_url, malformed, repeated, "left out entries of the list that are malformed or repeated");
        }
        let not_trading = listing
            .symbols
            .iter()
            .filter(|symbol| symbol.quote_asset == self.config.quote_asset && symbol.status != "TRADING")
            .map(|symbol| (symbol.symbol.clone(), symbol.status.clone()))
            .collect();
        let server_time = listing.server_time;
        let everything = order(listing.symbols, market, &self.config);
        let listed = everything.iter().filter(|symbol| is_listed(symbol, &self.config));
        let symbols: Vec<Symbol> = listed.cloned().collect();
        if symbols.is_empty() {
            return Err(RefreshError::Empty {
                market,
                host: base_url,
                quote: self.config.quote_asset.clone(),
                symbols: total,
                malformed,
            });
        }
        let json = python_json::to_string(&symbols).expect("symbols are JSON");
        Ok(FetchedList {
            symbols,
            json: Bytes::from(json),
            everything: Bytes::from(python_json::to_string(&everything).expect("symbols are JSON")),
            not_trading,
            network,
            host: base_url,
            server_time,
            total,
            body_bytes,
        })
    }

    /// Compares a list with the current one, and writes it unless it is held back.
    async fn compare_and_write(
        &self,
        market: Market,
        purpose: &RefreshPurpose<'_>,
        fresh: &FetchedList,
        source: &ListSource,
    ) -> Result<WriteOutcome, RefreshError> {
        let cache_error = |source| RefreshError::Cache { market, source };
        for _ in 0..COMPARISONS {
            let accepted = match self.cache.list_in_place(market).await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Without Redis, compare with the list in memory.
                    self.check(market, fresh, purpose.known, None).await?;
                    return Err(cache_error(error));
                }
            };
            // A time far ahead of the clock is that of no refresh.
            let credible = source.fetched_at..=self.cache.clock().now().timestamp() + CLOCKS_DIFFER;
            if purpose.write_behind && accepted.last_refresh.is_some_and(|at| credible.contains(&at)) {
                return Ok(WriteOutcome::Superseded);
            }
            let in_place = accepted.accepted;
            let compared = in_place.as_ref().or(purpose.known);
            self.check(market, fresh, compared, Some(accepted.held_back))
                .await?;
            let change = in_place.as_ref().and_then(|before| {
                Diff::between(before, &accepted.not_trading, &fresh.symbols, &fresh.not_trading)
            });
            let writing = ListWrite {
                everything: &fresh.everything,
                list: &fresh.json,
                source,
                age: if purpose.write_behind { self.age(source) } else { 0 },
                lease: purpose.lease,
                counted: purpose.by == FetchedBy::Warmup,
                before: accepted.last_good.as_ref(),
                change: change.as_ref(),
                not_trading: &fresh.not_trading,
            };
            match self.cache.write(market, writing).await.map_err(cache_error)? {
                WriteOutcome::Changed => {
                    debug!(%market, "another process has written the list, comparing again");
                }
                written => {
                    self.remember(market, None);
                    return Ok(written);
                }
            }
        }
        Err(cache_error(CacheError::Contended { market }))
    }

    /// Accepts a list or holds it back. `held_back` is the held-back list in Redis, if Redis could be read.
    async fn check(
        &self,
        market: Market,
        fresh: &FetchedList,
        in_place: Option<&SymbolList>,
        held_back: Option<Option<HeldBackList>>,
    ) -> Result<(), RefreshError> {
        let reachable = held_back.is_some();
        let held_back = held_back.unwrap_or_else(|| self.remembered(market));
        let proposed = ProposedList {
            symbols: &fresh.symbols,
            network: fresh.network,
            server_time: fresh.server_time,
        };
        let now_ms = self.cache.clock().now().timestamp_millis();
        match guard::judge(&proposed, in_place, held_back, &self.config, now_ms) {
            GuardVerdict::Accept => Ok(()),
            GuardVerdict::Confirmed(concerns) => {
                warn!(%market, host = fresh.host, concerns = guard::describe(&concerns), "a second fetch confirmed the held-back list");
                Ok(())
            }
            GuardVerdict::HoldBack {
                candidate,
                confirm_in,
            } => {
                let concerns = candidate.concerns().to_vec();
                warn!(%market, host = fresh.host, concerns = guard::describe(&concerns), "held the list back until a second fetch confirms it");
                if reachable
                    && let Err(error) = self
                        .cache
                        .hold_back(market, &candidate, HeldBackList::seconds(&self.config))
                        .await
                {
                    warn!(%market, error = %error_chain(&error), "cannot share the held-back list with other processes");
                }
                self.remember(market, Some(candidate));
                Err(RefreshError::HeldBack {
                    market,
                    host: fresh.host.clone(),
                    concerns,
                    confirm_in,
                })
            }
        }
    }

    fn remembered(&self, market: Market) -> Option<HeldBackList> {
        let held_back = self.held_back.get(market).lock();
        held_back.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, market: Market, candidate: Option<HeldBackList>) {
        let held_back = self.held_back.get(market).lock();
        *held_back.unwrap_or_else(PoisonError::into_inner) = candidate;
    }
}
