//! Fetching `exchangeInfo` within one deadline, over several hosts and attempts.
//!
//! Follows no redirects, sends no credentials with public calls, and never buffers more than the body's cap. After a 429
//! or 418 no request goes to the market's hosts until the pause is over; processes that share a Redis share the pause.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, LOCATION};
use reqwest::{Response, StatusCode};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::bans::BanClock;
use super::body::{Body, ENCODINGS, error_text};
use super::error::{Reason, UpstreamError};
use super::exchange_info::{self, Listing, ListingError};
use super::headers::{self, text};
use super::skew;
#[cfg(feature = "credentials")]
use super::skew::ClockOffset;
use crate::config::BinanceConfig;
use tradebot_base::clock::{SharedClock, SystemClock};
use tradebot_base::connection::Connection;
use tradebot_base::market::{Market, Network, PerMarket};
use tradebot_base::random::SharedRandom;
use tradebot_base::{error_chain, trace};

/// Limit for all attempts of one fetch together.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after a 429 or 418 with `Retry-After: 0`.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// Delay before each request while the used weight is above the threshold.
const SLOW_DOWN: Duration = Duration::from_secs(1);

/// A fetched list and where it came from.
#[derive(Debug)]
pub struct Fetched {
    /// The list.
    pub listing: Listing,
    /// Scheme and host that served it.
    pub base_url: String,
    /// Size of the body, decompressed.
    pub body_bytes: usize,
}

/// A client of one network. Clones share their pauses.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    config: BinanceConfig,
    throttles: Arc<PerMarket<Mutex<Throttle>>>,
    clock: SharedClock,
    random: SharedRandom,
    #[cfg(feature = "credentials")]
    offset: Arc<Mutex<Option<ClockOffset>>>,
    bans: Arc<BanClock>,
}

/// The request weight last reported by the exchange, plus one; 0 means unknown. The exchange counts by address, so all
/// clients of a process share it.
static USED_WEIGHT: PerMarket<AtomicU64> = PerMarket {
    spot: AtomicU64::new(0),
    futures: AtomicU64::new(0),
};

/// The request weight used within a minute, as the market's hosts last reported it.
#[must_use]
pub(crate) fn used_weight(market: Market) -> Option<u64> {
    USED_WEIGHT.get(market).load(Ordering::Relaxed).checked_sub(1)
}

/// Whether requests to a market's hosts are slowed down.
#[derive(Debug, Default, Clone, Copy)]
struct Throttle {
    heavy_until: Option<Instant>,
}

impl Client {
    /// A client for the hosts of `config`.
    ///
    /// # Errors
    /// When the machine's TLS cannot be set up.
    pub fn new(config: BinanceConfig, random: SharedRandom) -> Result<Self, reqwest::Error> {
        let http = config
            .outgoing
            .client()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(1)
            .build()?;
        Ok(Self {
            http,
            bans: Arc::new(BanClock::new(config.network())),
            config,
            throttles: Arc::default(),
            clock: SystemClock::shared(),
            random,
            #[cfg(feature = "credentials")]
            offset: Arc::default(),
        })
    }

    /// Shares pauses with all processes that use the Redis behind `connection`.
    #[must_use]
    pub fn with_shared_bans(mut self, connection: Connection) -> Self {
        self.bans = Arc::new(BanClock::new(self.config.network()).shared(connection));
        self
    }

    /// The network whose hosts this client calls.
    #[must_use]
    pub fn network(&self) -> Network {
        self.config.network()
    }

    /// A client for `network`: a clone of this one if it is the same network, else a new one that shares pauses through
    /// the same Redis.
    ///
    /// # Errors
    /// When the machine's TLS cannot be set up.
    pub fn on(&self, network: Network) -> Result<Self, reqwest::Error> {
        if network == self.network() {
            return Ok(self.clone());
        }
        let other = Self::new(self.config.clone().on(network), Arc::clone(&self.random))?;
        Ok(match self.bans.connection() {
            Some(connection) => other.with_shared_bans(connection.clone()),
            None => other,
        })
    }

    /// Whether the lists come from the testnets.
    #[must_use]
    pub fn is_testnet(&self) -> bool {
        self.config.testnet
    }

    /// Fetches a market's list.
    ///
    /// # Errors
    /// The last attempt's error; [`Reason::Deadline`] when time ran out.
    pub async fn exchange_info(&self, market: Market) -> Result<Fetched, UpstreamError> {
        let deadline = Instant::now() + DEADLINE;
        let hosts = self.config.base_urls.get(market);
        let mut rng = self.random.fork();
        let mut attempt: u32 = 1;
        loop {
            let base_url = &hosts[(attempt as usize - 1) % hosts.len()];
            let url = format!("{base_url}{}", path(market));
            // A host that hangs must leave time for the hosts after it.
            let untried_hosts = u32::try_from(hosts.len())
                .unwrap_or(u32::MAX)
                .saturating_sub(attempt);
            let share = (deadline - Instant::now()) / (untried_hosts.saturating_add(1));
            // Boxed, so that the futures that await a list stay small.
            let attempt_made = Box::pin(self.attempt(market, base_url));
            let traced = trace::client_call(base_url, path(market), attempt_made);
            let attempted = timeout(share, traced).await;
            let reason = match attempted {
                Ok(Ok(fetched)) => return Ok(fetched),
                Ok(Err(reason)) => reason,
                Err(_) => Reason::Deadline(share),
            };
            let untried_host = untried_hosts > 0;
            let again = reason.is_transient() || (untried_host && reason.concerns_this_host_only());
            let wait = self
                .config
                .backoff_base
                .mul_f64(f64::from(attempt) * (0.8 + 0.4 * rng.f64()));
            if !again || attempt >= self.config.max_attempts || Instant::now() + wait >= deadline {
                return Err(UpstreamError { url, reason });
            }
            debug!(%market, url, attempt, error = %reason, wait_seconds = wait.as_secs_f64(), "attempt failed");
            sleep(wait).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, market: Market, base_url: &str) -> Result<Fetched, Reason> {
        self.obey_earlier_answers(market).await?;
        let url = format!("{base_url}{}{}", path(market), query(market));
        let answer = self
            .http
            .get(url)
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, ENCODINGS)
            .send()
            .await
            .map_err(send_reason)?;
        self.note_weight(market, answer.headers());
        skew::note(market, answer.headers(), self.clock.now().timestamp_millis());
        let answer = self.check_status(market, answer, true).await?;
        if answer.status() != StatusCode::OK {
            return Err(Reason::Status {
                status: answer.status().as_u16(),
                text: error_text(answer, true).await,
            });
        }
        // The sandbox marks a captured answer that it replays by a header, not in the body.
        let sandbox = answer.headers().contains_key("x-sandbox");
        let (read, body_bytes) = self.read_listing(market, answer).await?;
        let mut listing = match read {
            Err(ListingError::Api { code: 0, message }) => return Err(Reason::Restricted(message)),
            Err(ListingError::Api { code: -1003, .. }) => {
                self.pause(market, None).await;
                return Err(Reason::RateLimited {
                    status: 200,
                    retry_after: None,
                });
            }
            other => other?,
        };
        listing.sandbox |= sandbox;
        Ok(Fetched {
            listing,
            base_url: base_url.to_owned(),
            body_bytes,
        })
    }

    /// Reads and parses a body; with its size.
    async fn read_listing(
        &self,
        market: Market,
        answer: Response,
    ) -> Result<(Result<Listing, ListingError>, usize), Reason> {
        let body = Body::read(answer, body_cap(market)).await?;
        // Takes milliseconds, too long for a thread of the runtime. The plain body must be freed where it was allocated:
        // freed on another thread, mimalloc keeps its pages (30 bodies: 430 MB instead of 17).
        let parsing = spawn_blocking(move || {
            let plain = body.decoded()?;
            Ok((exchange_info::parse(&plain), plain.len()))
        });
        parsing.await.map_err(|error| Reason::Body(error_chain(&error)))?
    }

    /// Fails while paused, and waits a little while the used weight is above the threshold.
    pub(super) async fn obey_earlier_answers(&self, market: Market) -> Result<(), Reason> {
        if let Some(left) = Box::pin(self.bans.left(market)).await {
            return Err(Reason::Paused(left));
        }
        let (throttle, now) = (*self.throttle(market), Instant::now());
        if throttle.heavy_until.is_some_and(|until| until > now) {
            sleep(SLOW_DOWN).await;
        }
        Ok(())
    }

    /// Fails on a status that does not depend on the call's parameters, and starts a pause after a 429 or 418. Errors quote
    /// the answer only if `quote`.
    pub(super) async fn check_status(
        &self,
        market: Market,
        answer: Response,
        quote: bool,
    ) -> Result<Response, Reason> {
        let status = answer.status();
        let code = status.as_u16();
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::IM_A_TEAPOT => {
                let retry_after = headers::retry_after(answer.headers());
                self.pause(market, retry_after).await;
                Err(Reason::RateLimited {
                    status: code,
                    retry_after,
                })
            }
            StatusCode::UNAVAILABLE_FOR_LEGAL_REASONS => {
                Err(Reason::Restricted(error_text(answer, quote).await))
            }
            StatusCode::FORBIDDEN => Err(Reason::Firewall),
            _ if status.is_redirection() => {
                let target = text(answer.headers(), LOCATION.as_str()).filter(|_| quote);
                // The query may hold anything, so it is not logged.
                let target = target.map_or(Some("another address"), |target| target.split('?').next());
                Err(Reason::Redirect(
                    target.unwrap_or_default().chars().take(120).collect(),
                ))
            }
            _ if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                Err(Reason::Unavailable {
                    status: code,
                    text: error_text(answer, quote).await,
                })
            }
            _ => Ok(answer),
        }
    }

    pub(super) async fn pause(&self, market: Market, retry_after: Option<Duration>) {
        let wait = Reason::RateLimited {
            status: 0,
            retry_after,
        }
        .retry_after()
        .unwrap_or_default();
        warn!(%market, pause_seconds = wait.as_secs(), "the exchange asked for a pause, no requests until it is over");
        Box::pin(self.bans.set(market, wait.max(SHORTEST_PAUSE))).await;
    }

    pub(super) fn note_weight(&self, market: Market, headers: &HeaderMap) {
        let used = headers::used_weight(headers);
        if let Some(used) = used {
            let weight = USED_WEIGHT.get(market);
            weight.store(u64::from(used) + 1, Ordering::Relaxed);
        }
        let heavy = used.is_some_and(|used| used >= self.config.weight_threshold);
        if heavy {
            warn!(%market, used_weight = used, "the request weight is above the threshold, slowing down");
        }
        self.throttle(market).heavy_until = heavy.then(|| Instant::now() + Duration::from_secs(60));
    }

    fn throttle(&self, market: Market) -> MutexGuard<'_, Throttle> {
        locked(self.throttles.get(market))
    }
}

/// For signed calls.
#[cfg(feature = "credentials")]
impl Client {
    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(super) fn config(&self) -> &BinanceConfig {
        &self.config
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(super) fn offset(&self) -> &Mutex<Option<ClockOffset>> {
        &self.offset
    }
}

/// Locks for one copy or assignment, never across an await.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn path(market: Market) -> &'static str {
    match market {
        Market::Spot => "/api/v3/exchangeInfo",
        Market::Futures => "/fapi/v1/exchangeInfo",
    }
}

/// Parameters that leave most of a spot body out; futures has none like it.
fn query(market: Market) -> &'static str {
    match market {
        Market::Spot => "?symbolStatus=TRADING&showPermissionSets=false",
        Market::Futures => "",
    }
}

/// Several times the largest real body. Real bodies compress up to 60:1, so a ratio would not reveal an attack.
fn body_cap(market: Market) -> usize {
    match market {
        Market::Spot => 64 << 20,
        Market::Futures => 16 << 20,
    }
}

pub(super) fn send_reason(error: reqwest::Error) -> Reason {
    let error = error.without_url();
    if error.is_connect() {
        Reason::Connect(error_chain(&error))
    } else {
        Reason::Body(error_chain(&error))
    }
}
