//! `up`: worker and beat under one supervisor, with whatever of the surroundings is missing.
//!
//! The worker and the beat are child processes, the same ones that a deployment runs. Redis is the one of
//! the environment if it answers, else a private `redis-server` that lives as long as this process. The
//! sandbox exchange is used when asked for, and never because the real one does not answer. If any part
//! ends by itself, everything is stopped and the exit code is not zero.

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
use super::{both, read_logs, start_logs};
use crate::config::{BinanceConfig, HttpConfig, SymbolsConfig, WorkerConfig};
use crate::product::sandbox::{Catalog, SandboxServer};
use crate::product::symbols::cache::SymbolCache;
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ProcessEnvironment, Reader, RedisConfig, ScheduleConfig};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_base::lifecycle::Stop;
use tradebot_base::market::PerMarket;
use tradebot_base::secret::RedisUrl;

/// Runs worker and beat together, and shows the lists as they arrive.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols up --sandbox --private-redis")]
pub(super) struct Args {
    /// Use a local sandbox exchange with made-up symbols instead of Binance
    #[arg(long)]
    sandbox: bool,
    /// Start a private redis-server even if the configured one answers
    #[arg(long)]
    private_redis: bool,
    /// Stop by itself after so many refreshes of each list
    #[arg(long, value_name = "N")]
    refreshes: Option<u64>,
    /// Tasks run at a time; the number of CPUs if absent
    #[arg(short, long)]
    concurrency: Option<usize>,
    /// Level of the logs of all parts; LOG_LEVEL if absent
    #[arg(short, long)]
    loglevel: Option<String>,
    /// Have the worker send task events from the start
    #[arg(short = 'E', long)]
    task_events: bool,
}

/// With `--refreshes`, how long to wait for a list before giving up.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

pub(super) async fn run(args: Args) -> Result<()> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let redis = RedisConfig::read(&mut reader);
    let worker = WorkerConfig::read(&mut reader);
    // What only the children use is read too: a mistake is told here, not by a child that ends at once.
    SymbolsConfig::read(&mut reader);
    BinanceConfig::read(&mut reader);
    ScheduleConfig::read(&mut reader);
    let http = HttpConfig::read(&mut reader).listen;
    let ((), logs) = both(reader.finish(), read_logs(args.loglevel.as_deref()))?;
    start_logs(&logs)?;
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

    let cache = Connection::new(&cache_url, "up-view")?;
    let cache = SymbolCache::new(cache, PerMarket { spot: 0, futures: 0 }, SystemClock::shared());
    let mut view = View::new(cache, SystemClock::shared());
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

/// Starts a private Redis where one is asked for or needed.
async fn private_redis(args: &Args, redis: &RedisConfig) -> Result<Option<PrivateRedis>> {
    if args.private_redis {
        return PrivateRedis::start().await.map(Some);
    }
    let connection = Connection::new(&redis.broker, "up-probe")?;
    match connection.command::<String>(&redis::cmd("PING")).await {
        Ok(_) => {
            info!(redis = connection.place(), "using the Redis of the environment");
            Ok(None)
        }
        Err(trouble @ RedisTrouble::Refused { .. }) => Err(trouble)
            .context("a Redis answers and cannot be used; correct its URL, or use --private-redis"),
        Err(trouble) => {
            warn!(error = %error_chain(&trouble), "no Redis answers, starting a private one for this run");
            PrivateRedis::start().await.map(Some)
        }
    }
}

type Exchange = tokio::task::JoinHandle<Result<(), crate::product::sandbox::SandboxError>>;

fn start_sandbox(environment: &mut Vec<(String, String)>, stop: &Stop) -> Result<Exchange> {
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

fn start_children(args: &Args, http: Option<String>, environment: &[(String, String)]) -> Result<Vec<Child>> {
    let own = std::env::current_exe().context("this program's own path")?;
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

/// Shows lists until a stop, the wanted number of refreshes, or the end of a child.
async fn supervise(
    args: &Args,
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
