//! Fetching `exchangeInfo` within one deadline, over several hosts and attempts.
//!
//! Follows no redirects, sends no credentials with public calls, and never buffers more than the body's cap. After a 429
//! or 418, or when every host refuses with 403 or 451, no request goes to the market's hosts until the pause is over;
//! processes that share a Redis share the pause.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap, LOCATION};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::bans::BanClock;
use super::body::{Body, ENCODINGS, error_body, error_text, one_line};
use super::error::{DEFAULT_PAUSE, Pause, REFUSAL_PAUSE, Reason, UpstreamError, parse_ban_end};
use super::exchange_info::{self, Listing, ListingError};
use super::headers::{self, text};
use super::skew;
#[cfg(feature = "credentials")]
use super::skew::ClockOffset;
use crate::config::BinanceConfig;
use crate::product::work_durations::UPSTREAM_REQUESTS;
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
/// How long to wait for the text of a 429 or 418.
const BAN_TEXT_PATIENCE: Duration = Duration::from_secs(1);
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
    /// Hosts that refuse our parameters; they are few, as they come from the configuration.
    without_parameters: Arc<Mutex<HashSet<String>>>,
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
            bans: Arc::new(BanClock::new(&config)),
            config,
            throttles: Arc::default(),
            without_parameters: Arc::default(),
            clock: SystemClock::shared(),
            random,
            #[cfg(feature = "credentials")]
            offset: Arc::default(),
        })
    }

    /// Shares pauses with all processes that use the Redis behind `connection`.
    #[must_use]
    pub fn with_shared_bans(mut self, connection: Connection) -> Self {
        self.bans = Arc::new(BanClock::new(&self.config).shared(connection));
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
        self.acceptable_list(market, Ok).await
    }

    /// Fetches a market's list that `accept` accepts. An answer that it refuses is like a host that does not answer: the
    /// next host is asked, within the same deadline.
    ///
    /// # Errors
    /// The last attempt's error, or the last refusal.
    pub(crate) async fn acceptable_list<T, E: From<UpstreamError>>(
        &self,
        market: Market,
        accept: impl Fn(Fetched) -> Result<T, E>,
    ) -> Result<T, E> {
        let deadline = Instant::now() + DEADLINE;
        let mut hosts: VecDeque<&String> = self.config.base_urls.get(market).iter().collect();
        let mut untried = u32::try_from(hosts.len()).unwrap_or(u32::MAX);
        let max_attempts = self.config.max_attempts.max(untried);
        let mut rng = self.random.fork();
        let mut attempt: u32 = 1;
        loop {
            let base_url = hosts.pop_front().expect("a host that has not refused");
            let url = format!("{base_url}{}", path(market));
            untried = untried.saturating_sub(1);
            // A host that hangs must leave time for the hosts after it.
            let share = (deadline - Instant::now()) / (untried + 1);
            // Boxed, so that the futures that await a list stay small.
            let attempt_made = Box::pin(self.attempt(market, base_url));
            let traced = trace::client_call(base_url, path(market), attempt_made);
            let began = Instant::now();
            let attempted = timeout(share, traced).await;
            if !matches!(attempted, Ok(Err(Reason::Paused(_)))) {
                UPSTREAM_REQUESTS.add(market, matches!(attempted, Ok(Ok(_))), began.elapsed());
            }
            let reason = match attempted {
                Ok(Ok(fetched)) => match accept(fetched) {
                    Err(_) if untried > 0 => {
                        debug!(%market, url, attempt, "the answer is not acceptable, asking the next host");
                        attempt += 1;
                        continue;
                    }
                    judged => return judged,
                },
                Ok(Err(reason)) => reason,
                Err(_) => Reason::Deadline(share),
            };
            match reason.refusal() {
                None => hosts.push_back(base_url),
                Some(status) if hosts.is_empty() => {
                    warn!(%market, status, pause_seconds = REFUSAL_PAUSE.as_secs(), "every host refuses, no requests until the pause is over");
                    let pause = Pause {
                        left: REFUSAL_PAUSE,
                        refusal: Some(status),
                    };
                    Box::pin(self.bans.set(market, pause)).await;
                    return Err(UpstreamError { market, url, reason }.into());
                }
                Some(_) => {}
            }
            let again = reason.is_transient() || (untried > 0 && reason.concerns_this_host_only());
            let wait = if untried > 0 {
                Duration::ZERO
            } else {
                let spread = f64::from(attempt) * (0.8 + 0.4 * rng.f64());
                self.config.backoff_base.mul_f64(spread)
            };
            if !again || attempt >= max_attempts || Instant::now() + wait >= deadline {
                return Err(UpstreamError { market, url, reason }.into());
            }
            debug!(%market, url, attempt, error = %reason, wait_seconds = wait.as_secs_f64(), "attempt failed");
            sleep(wait).await;
            attempt += 1;
        }
    }

    async fn attempt(&self, market: Market, base_url: &str) -> Result<Fetched, Reason> {
        self.obey_earlier_answers(market).await?;
        let answer = self.ask_for_list(market, base_url).await?;
        if answer.status() != StatusCode::OK {
            return Err(Reason::Status {
                status: answer.status().as_u16(),
                text: error_text(answer, true).await,
            });
        }
        // The sandbox marks a captured answer that it replays by a header, not in the body.
        let sandbox = answer.headers().contains_key("x-sandbox");
        let now = self.exchange_time(answer.headers());
        let (read, body_bytes) = self.read_listing(market, answer).await?;
        let mut listing = match read {
            Err(ListingError::Api { code: 0, message }) => return Err(Reason::Restricted(message)),
            Err(ListingError::Api { code: -1003, message }) => {
                return Err(self.rate_limited(market, 200, parse_ban_end(&message, now)).await);
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

    /// Asks once more without parameters if the host does not know ours, and from then on at once.
    async fn ask_for_list(&self, market: Market, base_url: &str) -> Result<Response, Reason> {
        let query = query(market);
        if query.is_empty() || locked(&self.without_parameters).contains(base_url) {
            return self.ask_with(market, base_url, "").await;
        }
        let answer = self.ask_with(market, base_url, query).await?;
        if answer.status() != StatusCode::BAD_REQUEST {
            return Ok(answer);
        }
        let body = error_body(answer).await;
        if !refuses_parameters(&body) {
            return Err(Reason::Status {
                status: 400,
                text: one_line(&body),
            });
        }
        info!(%market, host = base_url, answer = one_line(&body), "the host does not know our parameters, asking without");
        let answer = self.ask_with(market, base_url, "").await?;
        if answer.status() == StatusCode::OK {
            locked(&self.without_parameters).insert(base_url.to_owned());
        }
        Ok(answer)
    }

    async fn ask_with(&self, market: Market, base_url: &str, query: &str) -> Result<Response, Reason> {
        let url = format!("{base_url}{}{query}", path(market));
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
        self.check_status(market, answer, true).await
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

    /// The pause of a market's hosts, if there is one.
    pub(crate) async fn pause(&self, market: Market) -> Option<Pause> {
        Box::pin(self.bans.pause(market)).await
    }

    /// Fails while paused, and waits a little while the used weight is above the threshold.
    pub(super) async fn obey_earlier_answers(&self, market: Market) -> Result<(), Reason> {
        if let Some(pause) = self.pause(market).await {
            return Err(Reason::Paused(pause));
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
                let now = self.exchange_time(answer.headers());
                let in_header = headers::retry_after(answer.headers(), now);
                // The body tells the end of a ban. It is no reason to wait long for it.
                let body = timeout(BAN_TEXT_PATIENCE, error_body(answer)).await;
                let in_body = body.ok().and_then(|body| parse_ban_end(&body, now));
                Err(self.rate_limited(market, code, in_header.max(in_body)).await)
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

    /// Starts a pause after a 429, a 418 or their equivalent in a body.
    async fn rate_limited(&self, market: Market, status: u16, retry_after: Option<Duration>) -> Reason {
        let left = retry_after.unwrap_or(DEFAULT_PAUSE).max(SHORTEST_PAUSE);
        warn!(%market, pause_seconds = left.as_secs(), "the exchange asked for a pause, no requests until it is over");
        let pause = Pause { left, refusal: None };
        Box::pin(self.bans.set(market, pause)).await;
        Reason::RateLimited { status, retry_after }
    }

    /// The time by the exchange's clock, as far as its answer tells it.
    fn exchange_time(&self, headers: &HeaderMap) -> SystemTime {
        let now_ms = self.clock.now().timestamp_millis();
        let now_ms = now_ms.saturating_add(skew::offset_ms(headers, now_ms).unwrap_or(0));
        UNIX_EPOCH + Duration::from_millis(u64::try_from(now_ms).unwrap_or(0))
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

/// Parameters that leave most of a spot body out; futures has none like it. Symbols of every status are asked for, because
/// readers ask for single ones, and a pause must not look like the end of a symbol.
fn query(market: Market) -> &'static str {
    match market {
        Market::Spot => "?showPermissionSets=false",
        Market::Futures => "",
    }
}

/// Whether an error is about a request's parameters, such as -1101 (too many) or -1104 (unknown).
fn refuses_parameters(body: &str) -> bool {
    #[derive(Deserialize)]
    struct ApiError {
        code: i64,
    }
    let error: Result<ApiError, _> = serde_json::from_str(body);
    error.is_ok_and(|error| (-1199..=-1100).contains(&error.code))
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
