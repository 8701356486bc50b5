//! The settings of worker, lists, exchange and HTTP endpoint, from environment variables.
//!
//! [`tradebot_base::config`] has the list of all variables and the reader.

pub(crate) mod outgoing;

use std::time::Duration;

use tradebot_base::config::Reader;
use tradebot_base::market::{Network, PerMarket};

pub(crate) use outgoing::OutgoingConfig;

/// The worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkerConfig {
    /// Hard limit of a task.
    pub time_limit: Duration,
    /// Soft limit of a task.
    pub soft_time_limit: Duration,
    /// How many messages a worker holds until their `eta`.
    pub eta_task_limit: usize,
    /// The time limit of a warm stop.
    pub shutdown_timeout: Duration,
    /// Whether to send task events from the start, as with `-E`.
    pub send_task_events: bool,
    /// Whether the worker sends `task-sent` for each task that it publishes.
    pub send_sent_event: bool,
    /// Whether to store the state `STARTED`.
    pub track_started: bool,
    /// Whether to store no result unless the message asks for one.
    pub ignore_result: bool,
    /// Whether to store failures even then.
    pub store_errors: bool,
    /// Whether results include name, arguments, worker, retries and queue.
    pub result_extended: bool,
}

impl WorkerConfig {
    /// Reads the section.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            time_limit: reader.seconds("CELERY_TASK_TIME_LIMIT"),
            soft_time_limit: reader.seconds("CELERY_TASK_SOFT_TIME_LIMIT"),
            eta_task_limit: usize::try_from(reader.number("CELERY_WORKER_ETA_TASK_LIMIT", 0..=1_000_000))
                .unwrap_or(usize::MAX),
            shutdown_timeout: reader.seconds("WORKER_SHUTDOWN_TIMEOUT_SECONDS"),
            send_task_events: reader.flag("CELERY_WORKER_SEND_TASK_EVENTS"),
            send_sent_event: reader.flag("CELERY_TASK_SEND_SENT_EVENT"),
            track_started: reader.flag("CELERY_TASK_TRACK_STARTED"),
            ignore_result: reader.flag("CELERY_TASK_IGNORE_RESULT"),
            store_errors: reader.flag("CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED"),
            result_extended: reader.flag("CELERY_RESULT_EXTENDED"),
        }
    }
}

/// The contents, order and lifetime of the lists.
#[derive(Debug, Clone)]
pub struct SymbolsConfig {
    /// Lifetime of the primary keys in seconds; zero or less keeps them for ever.
    pub ttl_seconds: PerMarket<i64>,
    /// The quote asset of all listed symbols.
    pub quote_asset: String,
    /// Base assets that come first, in this order.
    pub popular_bases: PerMarket<Vec<String>>,
    /// Base assets that every list must contain; without the quote asset.
    pub anchor_bases: Vec<String>,
    /// The share of its symbols, in percent, that a list may lose without being held back.
    pub max_shrink_percent: u32,
    /// The minimum time before a second fetch may confirm a held-back list.
    pub confirm_after: Duration,
}

impl SymbolsConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let quote_asset = reader.text("SYMBOLS_QUOTE_ASSET");
        let mut anchor_bases = reader.list("SYMBOLS_ANCHOR_BASES");
        // An asset is not traded for itself.
        anchor_bases.retain(|base| *base != quote_asset);
        Self {
            ttl_seconds: PerMarket {
                spot: reader.integer("SPOT_SYMBOLS_CACHE_TTL_SECONDS"),
                futures: reader.integer("FUTURES_SYMBOLS_CACHE_TTL_SECONDS"),
            },
            quote_asset,
            popular_bases: PerMarket {
                spot: reader.list("SPOT_POPULAR_BASES"),
                futures: reader.list("FUTURES_POPULAR_BASES"),
            },
            anchor_bases,
            max_shrink_percent: reader.number("SYMBOLS_MAX_SHRINK_PERCENT", 0..=100),
            confirm_after: reader.seconds("SYMBOLS_CONFIRM_AFTER_SECONDS"),
        }
    }
}

/// How readers get the lists.
#[derive(Debug, Clone, Copy)]
pub struct ReadsConfig {
    /// The age up to which an expired list is served; zero: never.
    pub max_stale: Duration,
    /// The longest time a reader waits for a refresh.
    pub timeout: Duration,
    /// The share of its lifetime, in percent, after which a list is refreshed early; `None`: never.
    pub refresh_ahead_percent: Option<u32>,
    /// Whether to fetch a missing list at the start.
    pub warmup_on_startup: PerMarket<bool>,
}

impl ReadsConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            max_stale: reader.seconds("SYMBOLS_MAX_STALE_SECONDS"),
            timeout: reader.seconds("SYMBOLS_READ_TIMEOUT_SECONDS"),
            refresh_ahead_percent: Some(reader.number("SYMBOLS_REFRESH_AHEAD_PERCENT", 0..=99))
                .filter(|percent| *percent > 0),
            warmup_on_startup: PerMarket {
                spot: reader.flag("ENABLE_SPOT_WARMUP_ON_STARTUP"),
                futures: reader.flag("ENABLE_FUTURES_WARMUP_ON_STARTUP"),
            },
        }
    }
}

#[cfg(feature = "worker")]
impl ReadsConfig {
    /// For a process that reads no list itself, and only keeps bad ones of other programs away.
    pub(crate) fn for_guard() -> Self {
        Self {
            max_stale: Duration::ZERO,
            timeout: Duration::ZERO,
            refresh_ahead_percent: None,
            warmup_on_startup: PerMarket {
                spot: false,
                futures: false,
            },
        }
    }
}

/// The exchange.
#[derive(Debug, Clone)]
pub struct BinanceConfig {
    /// Whether the public lists come from the testnets.
    pub testnet: bool,
    /// The hosts of the chosen network, with their scheme, in the order in which they are tried.
    pub base_urls: PerMarket<Vec<String>>,
    /// The hosts of the other network.
    pub other_base_urls: PerMarket<Vec<String>>,
    /// Attempts per fetch.
    pub max_attempts: u32,
    /// The wait after the first failed attempt; after the n-th it is n times as long, ±20 %.
    pub backoff_base: Duration,
    /// The used request weight above which requests slow down.
    pub weight_threshold: u32,
    /// Proxies and trusted certificates.
    pub outgoing: OutgoingConfig,
}

impl BinanceConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let testnet = reader.flag("TESTNET_URL");
        let mainnet = PerMarket {
            spot: reader.base_urls("BINANCE_SPOT_BASE_URL"),
            futures: reader.base_urls("BINANCE_FUTURES_BASE_URL"),
        };
        let test = PerMarket {
            spot: reader.base_urls("BINANCE_SPOT_TESTNET_BASE_URL"),
            futures: reader.base_urls("BINANCE_FUTURES_TESTNET_BASE_URL"),
        };
        let (base_urls, other_base_urls) = if testnet { (test, mainnet) } else { (mainnet, test) };
        Self {
            testnet,
            base_urls,
            other_base_urls,
            max_attempts: reader.number("BINANCE_RETRY_MAX_ATTEMPTS", 1..=10),
            backoff_base: reader.seconds("BINANCE_RETRY_BACKOFF_BASE"),
            weight_threshold: reader.number("BINANCE_WEIGHT_THRESHOLD", 1..=1_000_000),
            outgoing: OutgoingConfig::read(reader),
        }
    }

    /// The same settings with the other network chosen.
    #[cfg(feature = "worker")]
    pub(crate) fn of_the_other_network(&self) -> Self {
        Self {
            testnet: !self.testnet,
            base_urls: self.other_base_urls.clone(),
            other_base_urls: self.base_urls.clone(),
            ..self.clone()
        }
    }

    /// The chosen network, which the public lists come from.
    #[must_use]
    pub fn network(&self) -> Network {
        if self.testnet {
            Network::Testnet
        } else {
            Network::Mainnet
        }
    }

    /// The same configuration with the hosts of `network`.
    #[must_use]
    pub fn on(mut self, network: Network) -> Self {
        if network != self.network() {
            self.testnet = !self.testnet;
            std::mem::swap(&mut self.base_urls, &mut self.other_base_urls);
        }
        self
    }
}

/// Whether `ENVIRONMENT` is production. Another word than these is a mistake: `prod` would turn the checks off.
pub(crate) fn is_production(reader: &mut Reader<'_>) -> bool {
    let environment = reader.text("ENVIRONMENT").to_ascii_lowercase();
    if !["development", "test", "staging", "production"].contains(&environment.as_str()) {
        let expected = "`development`, `test`, `staging` or `production`";
        reader.complain("ENVIRONMENT", &environment, expected);
    }
    environment == "production"
}

/// The HTTP endpoint.
#[derive(Debug, Clone)]
pub(crate) struct HttpConfig {
    /// The address to listen on, if one is set.
    pub listen: Option<String>,
    /// The address for operators, if one is set.
    pub admin_listen: Option<String>,
    /// The status when no list is available: 503, or 500 as in the Python system.
    pub error_status: u16,
    /// The only origin whose scripts may read answers; `None`: any.
    pub only_origin: Option<String>,
    /// Maximum number of connections.
    pub max_connections: usize,
    /// Maximum size of a request's header.
    pub max_header_bytes: usize,
    /// Maximum size of a request's body.
    pub max_body_bytes: usize,
    /// Time limit for receiving a request's header.
    pub header_timeout: Duration,
    /// Time limit between two requests of a connection.
    pub idle_timeout: Duration,
    /// Time limit for a client to receive an answer.
    pub send_timeout: Duration,
    /// Time limit for answering a request.
    pub request_timeout: Duration,
    /// How long caches may serve an old list while no new one is available.
    pub stale_if_error: Duration,
}

impl HttpConfig {
    /// Reads the section.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Self {
        let production = is_production(reader);
        let frontend = reader.text("FRONTEND_URL");
        let error_status = reader.text("SYMBOLS_ERROR_STATUS");
        if !["500", "503"].contains(&error_status.as_str()) {
            reader.complain("SYMBOLS_ERROR_STATUS", &error_status, "`503` or `500`");
        }
        let mut bytes = |name, range| usize::try_from(reader.number(name, range)).unwrap_or(usize::MAX);
        Self {
            max_connections: bytes("HTTP_MAX_CONNECTIONS", 1..=1_000_000),
            max_header_bytes: bytes("HTTP_MAX_HEADER_BYTES", 8192..=1_048_576),
            max_body_bytes: bytes("HTTP_MAX_BODY_BYTES", 0..=1_048_576),
            listen: reader.optional("HTTP_LISTEN"),
            admin_listen: reader.optional("HTTP_ADMIN_LISTEN"),
            error_status: if error_status == "500" { 500 } else { 503 },
            only_origin: production.then(|| frontend.trim_end_matches('/').to_owned()),
            header_timeout: reader.seconds("HTTP_HEADER_TIMEOUT_SECONDS"),
            idle_timeout: reader.seconds("HTTP_IDLE_TIMEOUT_SECONDS"),
            send_timeout: reader.seconds("HTTP_SEND_TIMEOUT_SECONDS"),
            request_timeout: reader.seconds("HTTP_REQUEST_TIMEOUT_SECONDS"),
            stale_if_error: reader.seconds("HTTP_STALE_IF_ERROR_SECONDS"),
        }
    }
}

#[cfg(test)]
#[path = "config/tests.rs"]
mod tests;
