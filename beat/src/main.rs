//! `tradebot-beat` sends the tasks of a schedule. Each slot is sent once, however many beats run.
//!
//! # Map
//! [`crontab`] and [`zone`] say when a crontab is due, [`slots`] turns any plan into slots, [`entry`] is what to send and
//! [`mod@file`] reads entries. [`due`] decides what to do now, [`store`] claims slots in one script, and [`ticker`] runs
//! from one to the other by the clock in [`timing`]; [`redbeat`] does the same on RedBeat's keys. [`running`] is the loop
//! around either. [`metrics`] and [`listen`] serve numbers and health; [`args`] is the command line, [`commands`] its
//! one-off commands.
//!
//! The beat only publishes messages; it does not contain worker, HTTP or exchange code.

mod args;
mod commands;
mod crontab;
mod due;
mod entry;
mod file;
mod listen;
mod manual;
mod metrics;
mod redbeat;
mod running;
mod slots;
mod store;
mod ticker;
mod timing;
mod zone;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::info;
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ConfigError, ProcessEnvironment, Reader, RedisConfig, ScheduleConfig};
use tradebot_base::connection::Connection;
use tradebot_base::env_file::{self, EnvFileError};
use tradebot_base::lifecycle::{Stop, serve_under_systemd};
use tradebot_base::node;
use tradebot_base::process;
use tradebot_base::random::Random;
use tradebot_base::telemetry::{self, LogConfig};
use tradebot_core::wire::keys::Keys;
use tradebot_core::wire::task_message;
use uuid::Uuid;

use crate::args::{Args, Command};
use crate::commands::{UnknownEntry, explain, find, list, run_now, set_paused};
use crate::entry::{ScheduleEntry, warmups};
use crate::file::FileError;
use crate::metrics::Metrics;
use crate::redbeat::{Redbeat, RedbeatOptions};
use crate::running::{Instance, Setup};
use crate::store::Store;
use crate::ticker::Ticker;

/// Exit code for a bad environment or command line (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// How many entries the log names at the start; `--explain` shows all.
const LOGGED_AT_START: usize = 50;
/// How long a warm stop may take.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// The schedule has no entries. A beat with nothing to do is a mistake rather than a success.
#[derive(Debug, Error)]
#[error(
    "the schedule is empty: set SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS or FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS to more \
     than zero seconds, or pass a file with entries as --schedule"
)]
struct EmptySchedule;

/// What the environment says; a flag of the command line wins.
struct BeatSettings {
    redis: RedisConfig,
    warmups: ScheduleConfig,
    schedule_file: Option<PathBuf>,
    metrics_listen: Option<SocketAddr>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Includes help and version. If the output is closed, there is nowhere to report that.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let ran = run(args).await;
    telemetry::finish();
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the program may fail before it has a log output"
            )]
            {
                eprintln!("tradebot-beat: {error:#}");
            }
            let usage = error.is::<ConfigError>()
                || error.is::<EnvFileError>()
                || error.is::<EmptySchedule>()
                || error.is::<FileError>()
                || error.is::<UnknownEntry>();
            ExitCode::from(if usage { EXIT_USAGE } else { 1 })
        }
    }
}

async fn run(args: Args) -> Result<()> {
    process::prepare().context("cannot forbid core dumps, which would hold secrets")?;
    if let Some(path) = &args.env_file {
        return Err(env_file::restart_with(path, &ProcessEnvironment).into());
    }
    if matches!(args.command, Some(Command::Man)) {
        print(&manual::page()?);
        return Ok(());
    }
    let settings = settings(&args)?;
    let entries = schedule(&settings, &args.queue)?;
    if entries.is_empty() && args.redbeat.is_none() {
        return Err(EmptySchedule.into());
    }
    let clock = SystemClock::shared();
    if args.explain {
        print(&explain(&entries, clock.now()));
        return Ok(());
    }
    let machine = node::machine();
    let store = open_store(&settings.redis, &machine)?;
    let origin = task_message::origin(&machine);
    let answer = match &args.command {
        None | Some(Command::Run | Command::Man) => {
            let setup = Setup {
                instance: Instance {
                    id: Uuid::new_v4().simple().to_string(),
                    machine,
                    origin,
                    started_at: clock.now().timestamp_micros(),
                    dry_run: args.dry_run,
                },
                entries,
                store,
                clock,
                rng: Random::system().fork(),
                metrics: Metrics::new(),
            };
            return run_schedule(setup, args, settings.metrics_listen).await;
        }
        Some(Command::List) => list(&entries, &store, clock.now()).await?,
        Some(Command::RunNow { entry }) => {
            run_now(find(&entries, entry)?, &store, clock.now(), &origin).await?
        }
        Some(Command::Pause { entries: names }) => set_paused(&entries, names, &store, true).await?,
        Some(Command::Resume { entries: names }) => set_paused(&entries, names, &store, false).await?,
    };
    print(&answer);
    Ok(())
}

/// Reads the environment and starts the log output.
fn settings(args: &Args) -> Result<BeatSettings> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let redis = RedisConfig::read(&mut reader);
    let warmups = ScheduleConfig::read(&mut reader);
    let logs = LogConfig::read(&mut reader, args.loglevel.as_deref());
    reader.finish()?;
    telemetry::init("tradebot-beat", &logs)?;
    let file = warmups.file.as_ref().map(PathBuf::from);
    Ok(BeatSettings {
        redis,
        schedule_file: args.schedule.clone().or(file),
        metrics_listen: args.metrics_listen.or(warmups.metrics_listen),
        warmups,
    })
}

/// The warm-ups and the entries of the file. An entry with the name of a warm-up replaces it.
fn schedule(settings: &BeatSettings, queue: &str) -> Result<Vec<ScheduleEntry>> {
    let file = settings.schedule_file.as_deref();
    let added = file.map_or(Ok(Vec::new()), |path| file::read(path, queue))?;
    let mut entries = warmups(&settings.warmups, queue);
    entries.retain(|entry| added.iter().all(|other| other.name != entry.name));
    entries.extend(added);
    Ok(entries)
}

fn open_store(redis: &RedisConfig, machine: &str) -> Result<Store> {
    let name = format!("beat@{machine}");
    let connection = Connection::new(&redis.broker, &name)?;
    let mut results = Connection::new(&redis.results, &name)?;
    if results.same_database(&connection) {
        results = connection.clone();
    }
    let keys = Keys::new(&redis.key_prefix, &redis.sep, &redis.priority_steps);
    Ok(Store::new(
        connection,
        results,
        keys,
        redis.result_key_prefix.clone(),
    ))
}

async fn run_schedule(mut setup: Setup, args: Args, metrics_listen: Option<SocketAddr>) -> Result<()> {
    // Before the first log line: a supervisor that waits for that line may stop the beat at once, and should see a clean exit.
    let stop = Stop::new();
    stop.on_signals(STOP_DEADLINE)?;
    log_entries(&setup.entries);
    if let Some(address) = metrics_listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        info!(address = %listener.local_addr()?, "serving /metrics and /healthz");
        tokio::spawn(listen::serve(
            listener,
            setup.metrics.clone(),
            SystemClock::shared(),
        ));
    }
    serve_under_systemd(&stop);
    let rng = setup.rng.fork();
    match args.redbeat {
        None => running::run(Ticker::new(setup), &stop, rng).await,
        Some(prefix) => {
            let options = RedbeatOptions {
                prefix,
                zone: args.redbeat_timezone,
                queue: args.queue,
            };
            running::run(Redbeat::new(setup, options)?, &stop, rng).await;
        }
    }
    info!("beat stopped");
    Ok(())
}

fn log_entries(entries: &[ScheduleEntry]) {
    for entry in entries.iter().take(LOGGED_AT_START) {
        info!(
            beat.entry = entry.name,
            task.name = entry.task,
            queue = entry.queue,
            plan = %entry.plan,
            "{}",
            if entry.enabled { "scheduled" } else { "disabled" }
        );
    }
    if let Some(more) = entries
        .len()
        .checked_sub(LOGGED_AT_START)
        .filter(|more| *more > 0)
    {
        info!(more, "further entries are scheduled");
    }
}

fn print(text: &str) {
    use std::io::Write;
    // If the output is closed, there is nowhere to report that.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
