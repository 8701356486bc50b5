//! A worker: any set of tasks on the engine, put together from the configuration.
//!
//! The product's worker and the test worker are both made here; see `tests/worker` for the smallest example
//! of a worker with tasks of one's own.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::sync::Notify;
use tracing::info;

use crate::bridge::{self, BridgeError, TaskSet};
use crate::config::WorkerConfig;
use tradebot_base::clock::{SharedClock, SystemClock};
use tradebot_base::config::{Reader, RedisConfig};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::lifecycle::Stop;
use tradebot_base::node;
use tradebot_base::random::Random;
use tradebot_core::control::{BrokerInfo, Control, ControlSettings};
use tradebot_core::engine::{Engine, EngineSettings, Limits, RateLimit};
use tradebot_core::events::EventSettings;
use tradebot_core::results::{ResultOptions, Results};
use tradebot_core::transport::Transport;
use tradebot_wire::keys::Keys;

/// Celery's `task_default_queue`. Whatever a worker consumes, what follows from its tasks goes here unless the
/// signature names a queue: a worker with a queue of its own still has its callbacks run by the others.
const DEFAULT_QUEUE: &str = "celery";

/// What a worker is told on its command line, spelled as Celery spells it.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Queues to consume, separated by commas
    #[arg(short = 'Q', long, value_delimiter = ',', default_value = "celery")]
    pub queues: Vec<String>,
    /// Tasks run at a time; the number of CPUs if absent
    #[arg(short, long)]
    pub concurrency: Option<usize>,
    /// What runs the tasks
    #[arg(short = 'P', long, value_enum, default_value_t)]
    pub pool: Pool,
    /// Node name; %h, %n and %d stand for the machine's name and its parts
    #[arg(short = 'n', long, default_value = "symbols@%h")]
    pub hostname: String,
    /// debug, info, warning or error; LOG_LEVEL if absent
    #[arg(short, long)]
    pub loglevel: Option<String>,
    /// Send task events from the start, for Flower and `celery events`
    #[arg(short = 'E', long)]
    pub task_events: bool,
    /// File in which revoked tasks outlive a restart; %h and %n stand for the node's host and name
    #[arg(short = 'S', long, value_name = "PATH")]
    pub statedb: Option<String>,
    /// Do not ask other workers at the start what was revoked
    #[arg(long)]
    pub without_mingle: bool,
}

/// What runs a worker's tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Pool {
    /// One thread, which all tasks share; they must not block it. Least overhead, like Celery's gevent pool
    #[default]
    Async,
    /// One thread per CPU: a task that computes for long holds up fewer others
    Threads,
}

impl Pool {
    /// The runtime for [`run`]. The heartbeat has a thread of its own in either.
    ///
    /// # Errors
    /// When the system gives no threads or no event queue.
    pub fn runtime(self) -> std::io::Result<tokio::runtime::Runtime> {
        match self {
            Self::Async => tokio::runtime::Builder::new_current_thread(),
            Self::Threads => tokio::runtime::Builder::new_multi_thread(),
        }
        .enable_all()
        .build()
    }
}

/// Everything a worker needs to know besides its tasks.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    redis: RedisConfig,
    worker: WorkerConfig,
    queues: Vec<String>,
    concurrency: usize,
    hostname: String,
    machine: String,
    events: EventSettings,
    state_file: Option<PathBuf>,
    mingle: bool,
    rate_limit: Option<RateLimit>,
}

impl WorkerSettings {
    /// Reads the environment variables and combines them with the command line.
    #[must_use]
    pub fn read(reader: &mut Reader<'_>, args: &WorkerArgs) -> Self {
        let redis = RedisConfig::read(reader);
        let worker = WorkerConfig::read(reader);
        let names = args.queues.iter().map(|queue| queue.trim().to_owned());
        let queues: Vec<String> = names.filter(|queue| !queue.is_empty()).collect();
        let rate_limit = rate_limit(reader);
        if queues.is_empty() {
            reader.complain("--queues", &args.queues.join(","), "at least one queue");
        }
        let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
        let concurrency = args.concurrency.unwrap_or_else(cpus);
        if !(1..=10_000).contains(&concurrency) {
            reader.complain(
                "--concurrency",
                &concurrency.to_string(),
                "a number from 1 to 10000",
            );
        }
        let machine = node::machine();
        let hostname = node::expand(&args.hostname, &machine);
        let state_file = args.statedb.as_ref();
        Self {
            state_file: state_file.map(|path| PathBuf::from(node::format(path, &hostname))),
            mingle: !args.without_mingle,
            rate_limit,
            redis,
            worker,
            queues,
            concurrency,
            hostname,
            machine,
            events: EventSettings {
                task_events: args.task_events || worker.send_task_events,
                sent_events: worker.send_sent_event,
            },
        }
    }

    /// The Redis servers.
    #[must_use]
    pub fn redis(&self) -> &RedisConfig {
        &self.redis
    }

    /// How long a warm stop may take.
    #[must_use]
    pub fn shutdown_timeout(&self) -> Duration {
        self.worker.shutdown_timeout
    }

    /// The node name.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.hostname
    }

    fn result_options(&self) -> ResultOptions {
        ResultOptions {
            key_prefix: self.redis.result_key_prefix.clone(),
            expires_seconds: self.redis.result_expires.as_secs(),
            track_started: self.worker.track_started,
            ignore: self.worker.ignore_result,
            store_errors: self.worker.store_errors,
            extended: self.worker.result_extended.then(|| self.hostname.clone()),
        }
    }

    /// The settings under Celery's names, for `inspect conf`.
    fn conf(&self) -> Map<String, Value> {
        let conf = json!({
            "broker_url": self.redis.broker.to_string(),
            "result_backend": self.redis.results.to_string(),
            "result_expires": self.redis.result_expires.as_secs(),
            "broker_transport_options": {
                "visibility_timeout": self.redis.visibility_timeout.as_secs(),
                "global_keyprefix": self.redis.key_prefix,
            },
            "result_backend_transport_options": {"global_keyprefix": self.redis.result_key_prefix},
            "task_time_limit": self.worker.time_limit.as_secs_f64(),
            "task_soft_time_limit": self.worker.soft_time_limit.as_secs_f64(),
            "task_default_queue": DEFAULT_QUEUE,
            "task_default_rate_limit": self.rate_limit.as_ref().map(|limit| &limit.given),
            "task_queues": self.queues,
            "task_acks_late": true,
            "task_reject_on_worker_lost": true,
            "task_serializer": "json",
            "result_serializer": "json",
            "accept_content": ["json", "msgpack"],
            "timezone": "UTC",
            "enable_utc": true,
            "worker_concurrency": self.concurrency,
            "worker_prefetch_multiplier": 1,
            "worker_send_task_events": self.events.task_events,
            "task_send_sent_event": self.events.sent_events,
            "task_track_started": self.worker.track_started,
            "task_ignore_result": self.worker.ignore_result,
            "task_store_errors_even_if_ignored": self.worker.store_errors,
            "result_extended": self.worker.result_extended,
            "worker_state_db": self.state_file,
        });
        conf.as_object().cloned().unwrap_or_default()
    }
}

/// Celery's `task_default_rate_limit`, which a rate limit set by remote control replaces.
fn rate_limit(reader: &mut Reader<'_>) -> Option<RateLimit> {
    let name = "CELERY_TASK_DEFAULT_RATE_LIMIT";
    let text = reader.optional(name)?;
    let limit = RateLimit::parse(&json!(text));
    if limit.is_err() {
        reader.complain(name, &text, "`100/m`, `2/h`, `0.5/s` or a number per second");
    }
    limit.ok()
}

/// Why a worker could not run.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// A Redis URL cannot be used.
    #[error(transparent)]
    Redis(#[from] RedisTrouble),
    /// The system refuses signal handlers or a thread.
    #[error("the worker cannot be set up")]
    System(#[from] std::io::Error),
    /// The task app ended.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
}

/// Runs a worker with `tasks` until it is told to stop; `state` is what they find through
/// [`bridge::state`].
///
/// # Errors
/// [`WorkerError`]. A Redis that is not there yet is no error: the worker waits for it.
pub async fn run(
    settings: WorkerSettings,
    tasks: TaskSet,
    state: Arc<dyn Any + Send + Sync>,
) -> Result<(), WorkerError> {
    run_beside(settings, tasks, state, |_| std::future::ready(())).await
}

/// Like [`run`], with something else that runs in the same process: `beside` gets the engine, and has to end once its
/// [`Engine::stop`] is warm. The worker goes on if it ends before.
///
/// # Errors
/// As [`run`].
pub async fn run_beside<F: Future<Output = ()>>(
    settings: WorkerSettings,
    tasks: TaskSet,
    state: Arc<dyn Any + Send + Sync>,
    beside: impl FnOnce(Arc<Engine>) -> F,
) -> Result<(), WorkerError> {
    let stop = Stop::new();
    stop.on_signals(settings.worker.shutdown_timeout)?;
    let clock = SystemClock::shared();
    info!(hostname = settings.hostname, tasks = %tasks.names().join(","), "worker starting");
    let engine = engine(&settings, &tasks, Arc::clone(&clock), stop)?;
    if let Some(limit) = &settings.rate_limit {
        for task in engine.task_types() {
            task.rate().set(limit.clone());
        }
    }
    let name = format!("{}-heartbeat", settings.hostname);
    engine.keep_lease(Connection::new(&settings.redis.broker, &name)?)?;
    let control = control(&settings, &engine, Arc::clone(&clock))?;
    control.synced().await;
    let beside = Box::pin(beside(Arc::clone(&engine)));
    let stop = engine.stop().clone();
    let working = async {
        let ended = bridge::run(engine, tasks, state, clock).await;
        // Whatever ended the worker ends what runs beside it.
        stop.stop_warm();
        ended
    };
    let (ended, ()) = tokio::join!(working, beside);
    control.ended().await;
    Ok(ended?)
}

/// Starts remote control, which has a connection of its own to the broker, and to the results once a task is revoked.
fn control(
    settings: &WorkerSettings,
    engine: &Arc<Engine>,
    clock: SharedClock,
) -> Result<Control, WorkerError> {
    let name = format!("{}-control-results", settings.hostname);
    let results = Results::new(
        Connection::new(&settings.redis.results, &name)?,
        settings.result_options(),
        clock,
    );
    let control = ControlSettings {
        conf: settings.conf(),
        broker: BrokerInfo::of(&settings.redis.broker),
        state_file: settings.state_file.clone(),
        mingle: settings.mingle,
    };
    let keys = engine.transport().keys().clone();
    let engine = Arc::clone(engine);
    Ok(Control::start(
        engine,
        control,
        &settings.redis.broker,
        &keys,
        results,
    )?)
}

/// Three connections per worker: the broker's, the heartbeat's and remote control's. Another, for results, is opened when first needed:
/// when results are not in the broker's database, or when a chain fails and its rest with it.
fn engine(
    settings: &WorkerSettings,
    tasks: &TaskSet,
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
    let keys = Keys::with_prefix(&settings.redis.key_prefix);
    let transport = Transport::new(broker, changed, keys, &settings.queues, Arc::clone(&clock));
    let results = Connection::new(&settings.redis.results, &format!("{name}-results"))?;
    let results = Results::new(results, settings.result_options(), Arc::clone(&clock));
    let limit = |limit: Duration| Some(limit).filter(|limit| !limit.is_zero());
    let engine_settings = EngineSettings {
        hostname: settings.hostname.clone(),
        machine: settings.machine.clone(),
        tasks: tasks.names(),
        policies: tasks.policies(),
        default_queue: DEFAULT_QUEUE.into(),
        concurrency: settings.concurrency,
        limits: Limits {
            hard: limit(settings.worker.time_limit),
            soft: limit(settings.worker.soft_time_limit),
        },
        eta_task_limit: settings.worker.eta_task_limit,
        visibility_timeout: settings.redis.visibility_timeout,
        events: settings.events,
    };
    Ok(Engine::new(
        engine_settings,
        transport,
        results,
        (clock, Random::system()),
        stop,
    ))
}
