//! `up`: worker and beat under one supervisor, with a private Redis or a sandbox exchange on request.
//!
//! The worker and the beat are child processes, the same programs that a deployment runs. If the environment's Redis does
//! not answer, `up` starts a private `redis-server` that lives as long as this process. It uses the sandbox exchange only
//! when requested, never because the real one does not answer. If any part ends unexpectedly, `up` stops everything and
//! exits with an error.

mod child;
mod private_redis;
mod view;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tracing::{info, warn};

use self::child::Child;
use self::private_redis::PrivateRedis;
use self::view::View;
use super::start_logs;
use crate::config::{BinanceConfig, HttpConfig, SymbolsConfig, WorkerConfig};
use crate::product::sandbox::{Catalog, SandboxServer};
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ProcessEnvironment, Reader, RedisConfig, ScheduleConfig};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_base::lifecycle::{Stop, serve_under_systemd};
use tradebot_base::secret::RedisUrl;

/// Runs a worker and a beat together, and shows the lists as they arrive.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols up --sandbox --private-redis")]
pub(super) struct UpCommand {
    /// Use a local sandbox exchange with made-up symbols instead of Binance
    #[arg(long)]
    sandbox: bool,
    /// Start a private redis-server even if the configured one answers
    #[arg(long)]
    private_redis: bool,
    /// Stop after this many refreshes of each list
    #[arg(long, value_name = "N")]
    refreshes: Option<u64>,
    /// Number of tasks to run at a time [default: the number of CPUs]
    #[arg(short, long)]
    concurrency: Option<usize>,
    /// Log level of all parts [default: LOG_LEVEL]
    #[arg(short, long)]
    loglevel: Option<String>,
    /// Send task events from the start
    #[arg(short = 'E', long)]
    task_events: bool,
}

/// How long `--refreshes` waits for a list before it gives up.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

pub(super) async fn run(args: UpCommand) -> Result<()> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let redis = RedisConfig::read(&mut reader);
    let worker = WorkerConfig::read(&mut reader);
    // Only the children use these. A mistake is reported here, rather than by a child that ends at once.
    SymbolsConfig::read(&mut reader);
    BinanceConfig::read(&mut reader);
    ScheduleConfig::read(&mut reader);
    let http = HttpConfig::read(&mut reader).listen;
    start_logs(reader, args.loglevel.as_deref())?;
    let stop = Stop::new();
    stop.on_signals(worker.shutdown_timeout + Duration::from_secs(2))?;

    let private = private_redis(&args, &redis).await?;
    let mut environment = private
        .as_ref()
        .map(PrivateRedis::environment)
        .unwrap_or_default();
    let cache_url = private
        .as_ref()
        .map_or(redis.cache, |private| RedisUrl::new(private.url()));
    let exchange = if args.sandbox {
        Some(start_sandbox(&mut environment, &stop)?)
    } else {
        None
    };
    let children = start_children(&args, http, &environment)?;
    serve_under_systemd(&stop);

    let connection = Connection::new(&cache_url, "up-view")?;
    let mut view = View::new(connection, SystemClock::shared());
    let outcome = supervise(&args, &stop, children, &mut view, worker.shutdown_timeout).await;
    stop.stop_warm();
    if let Some(exchange) = exchange {
        exchange.await.context("the sandbox exchange panicked")??;
    }
    if let Some(private) = private {
        private.stop().await;
    }
    outcome
}

/// Starts a private Redis if it is requested or needed.
async fn private_redis(args: &UpCommand, redis: &RedisConfig) -> Result<Option<PrivateRedis>> {
    if args.private_redis {
        return PrivateRedis::start().await.map(Some);
    }
    let connection = Connection::new(&redis.broker, "up-probe")?;
    match connection.command::<String>(&redis::cmd("PING")).await {
        Ok(_) => {
            info!(redis = connection.place(), "using the environment's Redis");
            Ok(None)
        }
        Err(trouble @ RedisTrouble::Refused { .. }) => {
            Err(trouble).context("Redis answers but cannot be used; correct its URL, or use --private-redis")
        }
        Err(trouble) => {
            warn!(error = %error_chain(&trouble), "Redis does not answer, starting a private one for this run");
            PrivateRedis::start().await.map(Some)
        }
    }
}

type SandboxTask = tokio::task::JoinHandle<Result<(), crate::product::sandbox::SandboxError>>;

fn start_sandbox(environment: &mut Vec<(String, String)>, stop: &Stop) -> Result<SandboxTask> {
    let server = SandboxServer::bind(([127, 0, 0, 1], 0).into(), Catalog::generate())?;
    warn!(
        url = server.base_url(),
        "using the SANDBOX exchange: the lists are made up"
    );
    for name in [
        "BINANCE_SPOT_BASE_URL",
        "BINANCE_FUTURES_BASE_URL",
        "BINANCE_SPOT_TESTNET_BASE_URL",
        "BINANCE_FUTURES_TESTNET_BASE_URL",
    ] {
        environment.push((name.into(), server.base_url()));
    }
    Ok(tokio::spawn(server.run(stop.token())))
}

fn start_children(
    args: &UpCommand,
    http: Option<String>,
    environment: &[(String, String)],
) -> Result<Vec<Child>> {
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let beat = own.with_file_name("tradebot-beat");
    if !beat.is_file() {
        bail!("{} is missing: build it with `cargo build`", beat.display());
    }
    let mut level = Vec::new();
    if let Some(loglevel) = &args.loglevel {
        level.extend(["-l".to_owned(), loglevel.clone()]);
    }
    let mut worker_args = vec!["worker".to_owned()];
    if let Some(concurrency) = args.concurrency {
        worker_args.extend(["-c".to_owned(), concurrency.to_string()]);
    }
    if args.task_events {
        worker_args.push("-E".to_owned());
    }
    if let Some(address) = http {
        worker_args.extend(["--http".to_owned(), address]);
    }
    worker_args.extend(level.iter().cloned());
    let start = |name: &'static str, program: PathBuf, args: Vec<String>| {
        Child::start(name, &program, &args, environment)
    };
    Ok(vec![
        start("worker", own, worker_args)?,
        start("beat", beat, level)?,
    ])
}

/// Shows lists until a signal, the wanted number of refreshes, or the end of a child.
async fn supervise(
    args: &UpCommand,
    stop: &Stop,
    mut children: Vec<Child>,
    view: &mut View,
    patience: Duration,
) -> Result<()> {
    let outcome = tokio::select! {
        () = stop.warm() => Ok(()),
        ended = child::first_end(&mut children) => Err(anyhow::anyhow!("{ended}, stopping everything")),
        shown = view.run(args.refreshes, LONGEST_WAIT) => shown,
    };
    for child in children.iter_mut().rev() {
        child.stop(patience + Duration::from_secs(3)).await;
    }
    outcome
}
