//! The worker: the product's tasks on the engine, put together from the configuration.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::Notify;
use tracing::info;

use crate::bridge::{self, BridgeError};
use crate::config::{BinanceConfig, ConfigError, Reader, RedisConfig, SymbolsConfig, Vars, WorkerConfig};
use crate::core::clock::{SharedClock, SystemClock};
use crate::core::engine::{Engine, EngineSettings, Limits};
use crate::core::lifecycle::Stop;
use crate::core::results::{ResultOptions, Results};
use crate::core::transport::{Connection, RedisTrouble, Transport};
use crate::core::wire::keys::Keys;
use crate::product::binance::client::Client;
use crate::product::symbols::cache::SymbolCache;
use crate::product::symbols::refresh::Refresher;
use crate::product::tasks::{self, Context};

/// What a worker needs to know, from the environment and the command line.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// The Redis servers.
    pub redis: RedisConfig,
    /// Limits and stop.
    pub worker: WorkerConfig,
    /// The lists.
    pub symbols: SymbolsConfig,
    /// The exchange.
    pub binance: BinanceConfig,
    /// Queues to consume, in order.
    pub queues: Vec<String>,
    /// Tasks at a time.
    pub concurrency: usize,
    /// Node name.
    pub hostname: String,
    /// Name of the machine.
    pub machine: String,
}

impl WorkerSettings {
    /// Reads the environment; the command line's part is given.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake found.
    pub fn read(
        vars: &dyn Vars,
        queues: Vec<String>,
        concurrency: usize,
        hostname: String,
        machine: String,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(vars);
        let settings = Self {
            redis: RedisConfig::read(&mut reader),
            worker: WorkerConfig::read(&mut reader),
            symbols: SymbolsConfig::read(&mut reader),
            binance: BinanceConfig::read(&mut reader),
            queues,
            concurrency,
            hostname,
            machine,
        };
        reader.finish()?;
        Ok(settings)
    }
}

/// Why a worker could not run.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// A Redis URL cannot be used.
    #[error(transparent)]
    Redis(#[from] RedisTrouble),
    /// The HTTP client could not be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] reqwest::Error),
    /// Signals cannot be received.
    #[error("signal handlers cannot be installed")]
    Signals(#[from] std::io::Error),
    /// The task app ended.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
}

/// Runs a worker until it is told to stop.
///
/// # Errors
/// [`WorkerError`]. A Redis that is not there yet is no error: the worker waits for it.
pub async fn run(settings: WorkerSettings) -> Result<(), WorkerError> {
    let stop = Stop::new();
    stop.on_signals(settings.worker.shutdown_timeout)?;
    let clock = SystemClock::shared();
    let task_set = tasks::task_set();
    let context = context(&settings, &clock)?;
    info!(
        hostname = settings.hostname,
        tasks = %task_set.names().join(","),
        spot = %settings.binance.base_urls.spot.join(","),
        futures = %settings.binance.base_urls.futures.join(","),
        testnet = settings.binance.testnet,
        "worker starting"
    );
    let engine = engine(&settings, task_set.names(), Arc::clone(&clock), stop)?;
    bridge::run(engine, task_set, Arc::new(context), clock).await?;
    Ok(())
}

fn context(settings: &WorkerSettings, clock: &SharedClock) -> Result<Context, WorkerError> {
    let cache = Connection::new(&settings.redis.cache, &format!("{}-cache", settings.hostname))?;
    let cache = SymbolCache::new(cache, settings.symbols.ttl_seconds, Arc::clone(clock));
    let client = Client::new(settings.binance.clone())?;
    Ok(Context {
        refresher: Refresher::new(client, cache, settings.symbols.clone()),
    })
}

/// Three connections per worker in all: broker, results, cache.
fn engine(
    settings: &WorkerSettings,
    tasks: Vec<String>,
    clock: SharedClock,
    stop: Stop,
) -> Result<Arc<Engine>, WorkerError> {
    let changed = Arc::new(Notify::new());
    let name = &settings.hostname;
    let broker = Connection::with_tracking(
        &settings.redis.broker,
        &format!("{name}-broker"),
        Arc::clone(&changed),
    )?;
    let transport = Transport::new(
        broker,
        changed,
        Keys::default(),
        &settings.queues,
        Arc::clone(&clock),
    );
    let results = Connection::new(&settings.redis.results, &format!("{name}-results"))?;
    let options = ResultOptions {
        key_prefix: String::new(),
        expires_seconds: settings.redis.result_expires.as_secs(),
    };
    let results = Results::new(results, options, Arc::clone(&clock));
    let limit = |limit: Duration| Some(limit).filter(|limit| !limit.is_zero());
    let engine_settings = EngineSettings {
        hostname: settings.hostname.clone(),
        machine: settings.machine.clone(),
        tasks,
        default_queue: settings
            .queues
            .first()
            .cloned()
            .unwrap_or_else(|| "celery".into()),
        concurrency: settings.concurrency,
        limits: Limits {
            hard: limit(settings.worker.time_limit),
            soft: limit(settings.worker.soft_time_limit),
        },
    };
    Ok(Engine::new(engine_settings, transport, results, clock, stop))
}
