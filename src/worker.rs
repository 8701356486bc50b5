//! A worker with your tasks: functions marked with [`task`](macro@task), put into a [`TaskSet`] and run by a [`Worker`].
//!
//! The example `worker` is a whole one. The task macro is that of the crate `celery`: a program needs the dependencies
//! `celery = { version = "0.5.5", default-features = false, features = ["codegen"] }` and `serde` beside this crate.
//!
//! A task ends with a value, or with an error: [`fail`], [`retry`], [`replace`], [`reject`] or [`ignore`]. [`current`] is its
//! request, and sends messages that leave with its outcome.

mod builder;

use std::any::Any;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use thiserror::Error;
use tokio::sync::Notify;
use tracing::info;

pub use builder::{RunError, Worker};

pub use crate::bridge::{
    BridgeError, Retry, TaskOptions, TaskResult, TaskSet, current, fail, ignore, reject, replace, retry,
    state, task,
};
pub use tradebot_core::engine::{SentResult, TaskInfo, TaskRun};
pub use tradebot_wire::canvas::{SendError, Signature};
pub use tradebot_wire::result::Exception;

use crate::bridge;
use crate::config::WorkerConfig;
use tradebot_base::clock::{SharedClock, SystemClock};
use tradebot_base::config::{Reader, RedisConfig};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::lifecycle::{Stop, serve_under_systemd};
use tradebot_base::node;
use tradebot_base::random::Random;
use tradebot_core::control::{BrokerInfo, Control, ControlSettings};
use tradebot_core::engine::{Engine, EngineSettings, Limits, RateLimit};
use tradebot_core::events::EventSettings;
use tradebot_core::results::{ResultOptions, Results};
use tradebot_core::transport::Transport;
use tradebot_wire::keys::{DEFAULT_QUEUE, Keys};

/// Celery's `result_serializer`. A Python client decodes results and chord members with its own, whatever they are.
const RESULT_SERIALIZER: &str = "json";

/// A worker's command line, in Celery's spelling.
#[derive(Debug, Clone, clap::Args)]
pub struct WorkerArgs {
    /// Queues to consume, separated by commas
    #[arg(short = 'Q', long, value_delimiter = ',', default_value = DEFAULT_QUEUE)]
    pub queues: Vec<String>,
    /// Number of tasks to run at a time [default: the number of CPUs]
    #[arg(short, long)]
    pub concurrency: Option<usize>,
    /// Threads that run the tasks
    #[arg(short = 'P', long, value_enum, default_value_t)]
    pub pool: PoolKind,
    /// Node name, as Celery spells it; %h, %n and %d stand for the machine's name and its parts
    #[arg(short = 'n', long, default_value = "symbols@%h")]
    pub hostname: String,
    /// Log level: debug, info, warning or error [default: LOG_LEVEL]
    #[arg(short, long)]
    pub loglevel: Option<String>,
    /// Send task events from the start, for Flower and `celery events`
    #[arg(short = 'E', long)]
    pub task_events: bool,
    /// File that keeps revoked task ids across restarts; %h and %n stand for the node's host and name
    #[arg(short = 'S', long, value_name = "PATH")]
    pub statedb: Option<String>,
    /// Do not fetch revoked task ids from other workers at the start
    #[arg(long)]
    pub without_mingle: bool,
}

impl Default for WorkerArgs {
    fn default() -> Self {
        Self {
            queues: vec![DEFAULT_QUEUE.to_owned()],
            concurrency: None,
            pool: PoolKind::default(),
            hostname: "celery@%h".to_owned(),
            loglevel: None,
            task_events: false,
            statedb: None,
            without_mingle: false,
        }
    }
}

/// The threads that run a worker's tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum PoolKind {
    /// One thread for all tasks, which must not block it. Least overhead, like Celery's gevent pool
    #[default]
    Async,
    /// One thread per CPU. A long computation delays fewer other tasks
    Threads,
}

impl PoolKind {
    /// The runtime for [`run`]. The heartbeat has a separate thread in both cases.
    ///
    /// # Errors
    /// When the system provides no threads or no event queue.
    pub fn runtime(self) -> std::io::Result<tokio::runtime::Runtime> {
        match self {
            Self::Async => tokio::runtime::Builder::new_current_thread(),
            Self::Threads => tokio::runtime::Builder::new_multi_thread(),
        }
        .enable_all()
        .build()
    }
}

/// The settings of a worker.
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
        let serializer = reader.text("CELERY_RESULT_SERIALIZER");
        if serializer != RESULT_SERIALIZER {
            let expected = "`json`, the one format of this worker's results: set result_serializer='json' in the clients";
            reader.complain("CELERY_RESULT_SERIALIZER", &serializer, expected);
        }
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
        let mut expanded = |option: &str, pattern: &str, name: Result<String, String>| {
            name.unwrap_or_else(|reason| {
                reader.complain_of(option, reason);
                pattern.to_owned()
            })
        };
        let hostname = expanded(
            "--hostname",
            &args.hostname,
            node::expand(&args.hostname, &machine),
        );
        let state_file = args
            .statedb
            .as_ref()
            .map(|path| expanded("--statedb", path, node::format(path, &hostname)));
        Self {
            state_file: state_file.map(PathBuf::from),
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

    /// The time limit of a warm stop.
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
                "priority_steps": self.redis.priority_steps,
                "sep": self.redis.sep,
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
            "result_serializer": RESULT_SERIALIZER,
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
            "worker_hijack_root_logger": true,
            "worker_log_color": null,
            "worker_disable_prefetch": false,
            "broker_heartbeat": 120,
            "deprecated_settings": null,
        });
        conf.as_object().cloned().unwrap_or_default()
    }
}

/// Celery's `task_default_rate_limit`. Remote control can replace it.
fn rate_limit(reader: &mut Reader<'_>) -> Option<RateLimit> {
    let name = "CELERY_TASK_DEFAULT_RATE_LIMIT";
    let text = reader.optional(name)?;
    let limit = RateLimit::parse(&json!(text));
    if limit.is_err() {
        reader.complain(name, &text, "`100/m`, `2/h`, `0.5/s` or a number per second");
    }
    limit.ok()
}

/// Why a worker cannot run.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// A Redis URL is invalid.
    #[error(transparent)]
    Redis(#[from] RedisTrouble),
    /// A task's rate limit is malformed.
    #[error("task {0} has the rate limit `{1}`: write `100/m`, `2/h`, `0.5/s` or a number per second")]
    RateLimit(&'static str, &'static str),
    /// The system refuses signal handlers or a thread.
    #[error("cannot install signal handlers or start a thread")]
    System(#[from] std::io::Error),
    /// The task app ended.
    #[error(transparent)]
    Bridge(#[from] BridgeError),
}

/// Runs a worker with `tasks` until a stop. Tasks get `state` from [`bridge::state`].
///
/// # Errors
/// [`WorkerError`]. An unreachable Redis is not an error: the worker waits for it.
pub async fn run(
    settings: WorkerSettings,
    tasks: TaskSet,
    state: Arc<dyn Any + Send + Sync>,
) -> Result<(), WorkerError> {
    run_beside(settings, tasks, state, |_| std::future::ready(())).await
}

/// Like [`run`], with a second service in the same process: `beside` gets the engine and must end after a warm
/// [`Engine::stop`]. If it ends earlier, the worker continues.
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
    for (name, limit) in tasks.rate_limits() {
        let parsed = RateLimit::parse(&json!(limit)).map_err(|_| WorkerError::RateLimit(name, limit))?;
        if let Some(task) = engine.task_type(name) {
            task.rate().set(parsed);
        }
    }
    let name = format!("{}-heartbeat", settings.hostname);
    engine.keep_lease(Connection::new(&settings.redis.broker, &name)?)?;
    let control = control(&settings, &engine, Arc::clone(&clock))?;
    control.synced().await;
    let beside = Box::pin(beside(Arc::clone(&engine)));
    let stop = engine.stop().clone();
    serve_under_systemd(&stop);
    let working = async {
        let ended = bridge::run(engine, tasks, state, clock).await;
        // Ends the service beside it as well.
        stop.stop_warm();
        ended
    };
    let (ended, ()) = tokio::join!(working, beside);
    control.ended().await;
    Ok(ended?)
}

/// Starts remote control. It has separate connections: to the broker, and to the results once a task is revoked.
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
    let mut conf = settings.conf();
    // Celery names the modules of the tasks.
    let modules: BTreeSet<&str> = engine
        .task_types()
        .filter_map(|task| Some(task.name().rsplit_once('.')?.0))
        .collect();
    conf.insert("include".into(), json!(modules));
    let control = ControlSettings {
        conf,
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

/// Builds the engine. A worker has three connections: to the broker, for the heartbeat and for remote control. A fourth,
/// for results, is opened when results are in another database, or when a chain fails together with its rest.
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
    let redis = &settings.redis;
    let keys = Keys::new(&redis.key_prefix, &redis.sep, &redis.priority_steps);
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
