//! Configuration from the environment: the variables of the existing deployment, and a few new ones.
//!
//! [`VARIABLES`] is the one list of them, with defaults; the README's table is compared with it by a test.
//! All variables are read before any mistake is reported, so that an operator sees every mistake at once.

use std::time::Duration;

use tradebot_base::config::Reader;
use tradebot_base::market::{Network, PerMarket};

/// The worker.
#[derive(Debug, Clone, Copy)]
pub struct WorkerConfig {
    /// Hard limit of a task.
    pub time_limit: Duration,
    /// Soft limit of a task.
    pub soft_time_limit: Duration,
    /// How many messages are held until their `eta`.
    pub eta_task_limit: usize,
    /// How long a warm stop may take.
    pub shutdown_timeout: Duration,
    /// Whether task events are sent from the start, as with `-E`.
    pub send_task_events: bool,
    /// Whether the tasks that the worker publishes are told of by `task-sent`.
    pub send_sent_event: bool,
    /// Whether `STARTED` is stored.
    pub track_started: bool,
    /// Whether results are ignored of messages that do not say.
    pub ignore_result: bool,
    /// Whether errors are stored even so.
    pub store_errors: bool,
    /// Whether results tell of the message, too.
    pub result_extended: bool,
}

impl WorkerConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
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

/// Which symbols are kept, in which order, for how long.
#[derive(Debug, Clone)]
pub struct SymbolsConfig {
    /// Lifetime of the primary keys in seconds; zero or less keeps them for ever.
    pub ttl_seconds: PerMarket<i64>,
    /// Only symbols quoted in this asset are listed.
    pub quote_asset: String,
    /// Base assets that come first, in this order.
    pub popular_bases: PerMarket<Vec<String>>,
    /// Base assets that a list must have.
    pub anchor_bases: Vec<String>,
    /// A list that lost more than this share of its symbols, in percent, is held back.
    pub max_shrink_percent: u32,
    /// How long a list is held back at least before a second fetch confirms it.
    pub confirm_after: Duration,
}

impl SymbolsConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            ttl_seconds: PerMarket {
                spot: reader.integer("SPOT_SYMBOLS_CACHE_TTL_SECONDS"),
                futures: reader.integer("FUTURES_SYMBOLS_CACHE_TTL_SECONDS"),
            },
            quote_asset: reader.text("SYMBOLS_QUOTE_ASSET"),
            popular_bases: PerMarket {
                spot: reader.list("SPOT_POPULAR_BASES"),
                futures: reader.list("FUTURES_POPULAR_BASES"),
            },
            anchor_bases: reader.list("SYMBOLS_ANCHOR_BASES"),
            max_shrink_percent: reader.number("SYMBOLS_MAX_SHRINK_PERCENT", 0..=100),
            confirm_after: reader.seconds("SYMBOLS_CONFIRM_AFTER_SECONDS"),
        }
    }
}

/// Reading the lists: what a reader waits for, and what is done ahead of one.
#[derive(Debug, Clone, Copy)]
pub struct ReadsConfig {
    /// Up to which age a list past its lifetime is served at once; zero: never.
    pub max_stale: Duration,
    /// The longest that a reader waits.
    pub timeout: Duration,
    /// Share of its lifetime after which a list is refreshed ahead, in percent; `None`: never ahead.
    pub refresh_ahead_percent: Option<u32>,
    /// Whether a list that is not there is fetched at the start.
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

/// The exchange.
#[derive(Debug, Clone)]
pub struct BinanceConfig {
    /// Whether the public lists come from the testnets.
    pub testnet: bool,
    /// Scheme and host of each upstream of the chosen network, in the order in which they are tried.
    pub base_urls: PerMarket<Vec<String>>,
    /// The same of the network that was not chosen.
    pub other_base_urls: PerMarket<Vec<String>>,
    /// Attempts per fetch.
    pub max_attempts: u32,
    /// Wait after the first failed attempt; the n-th waits n times as long, ±20 %.
    pub backoff_base: Duration,
    /// Used request weight from which requests are slowed down.
    pub weight_threshold: u32,
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

/// The HTTP endpoint.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// The address to listen on, if one is set.
    pub listen: Option<String>,
    /// Status of an answer to a request for a list that cannot be had: 503, or 500 as the existing system has it.
    pub error_status: u16,
    /// The only origin whose scripts may read answers; `None` lets all.
    pub only_origin: Option<String>,
    /// Connections at a time.
    pub max_connections: usize,
    /// Bytes of a request's header.
    pub max_header_bytes: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// For the header of a request to arrive.
    pub header_timeout: Duration,
    /// Between two requests of a connection.
    pub idle_timeout: Duration,
    /// For a client to take an answer.
    pub send_timeout: Duration,
    /// For a request to be answered.
    pub request_timeout: Duration,
    /// How long other caches may go on with an old list while no new one can be had.
    pub stale_if_error: Duration,
}

impl HttpConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let environment = reader.text("ENVIRONMENT").to_ascii_lowercase();
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
            error_status: if error_status == "500" { 500 } else { 503 },
            only_origin: (environment == "production").then(|| frontend.trim_end_matches('/').to_owned()),
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
