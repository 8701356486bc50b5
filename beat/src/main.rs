//! `tradebot-beat`: sends the tasks of a schedule, each slot once, however many beats there are.
//!
//! # Map
//! [`crontab`] and [`zone`] say when a crontab is due, [`slots`] names the slots of any plan, [`entry`] is what is sent
//! and [`mod@file`] where it is read from. [`due`] decides what is to be done now, [`store`] does it in one script, and
//! [`ticker`] goes from one to the next, by the clock of [`timing`]; [`redbeat`] does so over RedBeat's keys. [`running`]
//! is the loop around either. [`metrics`] and [`listen`] tell how it goes; [`commands`] is what a person asks for.
//!
//! It publishes messages and does nothing else; worker, HTTP and exchange code are not part of this binary.

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
use chrono_tz::Tz;
use clap::{Parser, Subcommand};
use thiserror::Error;
use tracing::info;
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{
    ConfigError, LogConfig, ProcessEnvironment, Reader, RedisConfig, ScheduleConfig,
};
use tradebot_base::connection::Connection;
use tradebot_base::lifecycle::Stop;
use tradebot_base::node;
use tradebot_base::telemetry;
use tradebot_core::wire::keys::Keys;
use tradebot_core::wire::task_message;
use uuid::Uuid;

use crate::commands::{NoSuchEntry, explain, list, run_now, set_paused};
use crate::entry::{Entry, warmups};
use crate::file::FileError;
use crate::metrics::Metrics;
use crate::redbeat::{Redbeat, RedbeatOptions};
use crate::running::{Instance, Parts};
use crate::store::Store;
use crate::ticker::Ticker;

/// Exit code for an environment or command line that cannot be used (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;
/// So many entries are named at the start; a longer schedule is shown by `--explain`.
const NAMED_AT_START: usize = 50;

/// Sends the tasks of a schedule, each slot once, however many beats run.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Example: CELERY_BROKER_URL=redis://localhost:6379/0 tradebot-beat --schedule schedule.toml -l info\n\n\
    Exit codes: 0 after a stop, 64 for a command line, configuration or schedule that cannot be used, 1 for anything else"
)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Queue of entries that name none
    #[arg(short = 'Q', long, default_value = "celery", global = true)]
    queue: String,
    /// TOML file with entries beside the two warm-ups; BEAT_SCHEDULE if absent
    #[arg(short, long, value_name = "FILE", global = true)]
    schedule: Option<PathBuf>,
    /// debug, info, warning or error; LOG_LEVEL if absent
    #[arg(short, long, global = true)]
    loglevel: Option<String>,
    /// Print each entry with its queue and its next five slots, and end; asks no broker
    #[arg(long)]
    explain: bool,
    /// Say what would be sent, and write nothing
    #[arg(long, conflicts_with = "redbeat")]
    dry_run: bool,
    /// Run what RedBeat's keys hold, under its lock; PREFIX is its `redbeat_key_prefix`
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "redbeat:", require_equals = true)]
    redbeat: Option<String>,
    /// `timezone` of the Python application that RedBeat belongs to
    #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "redbeat")]
    redbeat_timezone: Tz,
    /// Address of /metrics and /healthz; BEAT_METRICS_LISTEN if absent, none without either
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the schedule, which is also done without a command
    Run,
    /// Show each entry with what was sent last and what comes next
    List,
    /// Send an entry's task at once, beside its slots
    RunNow {
        /// Name of the entry
        entry: String,
    },
    /// Have entries pass their slots without a message, in every beat
    Pause {
        /// Names of entries
        #[arg(required = true)]
        entries: Vec<String>,
    },
    /// Print the manual page
    Man,
    /// Have paused entries send again, from their next slot on
    Resume {
        /// Names of entries
        #[arg(required = true)]
        entries: Vec<String>,
    },
}

/// A schedule without entries: a beat with nothing to do is a mistake, not a quiet success.
#[derive(Debug, Error)]
#[error(
    "the schedule is empty: set SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS or FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS to a \
     number of seconds above zero, or name a file with entries by --schedule"
)]
struct EmptySchedule;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(answer) => {
            // Help and version are answers too. Nobody is left to tell if the output is closed.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let ran = run(args).await;
    telemetry::finish();
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last word of a program that may have no log output yet"
            )]
            {
                eprintln!("tradebot-beat: {error:#}");
            }
            let usage = error.is::<ConfigError>()
                || error.is::<EmptySchedule>()
                || error.is::<FileError>()
                || error.is::<NoSuchEntry>();
            ExitCode::from(if usage { EXIT_USAGE } else { 1 })
        }
    }
}

async fn run(args: Args) -> Result<()> {
    if matches!(args.command, Some(Command::Man)) {
        print(&manual::page()?);
        return Ok(());
    }
    let mut reader = Reader::new(&ProcessEnvironment);
    let redis = RedisConfig::read(&mut reader);
    let intervals = ScheduleConfig::read(&mut reader);
    let logs = LogConfig::read(&mut reader);
    let level = args.loglevel.as_deref().unwrap_or(&logs.level);
    if args.loglevel.is_some() && !telemetry::understands(level) {
        reader.complain("--loglevel", level, telemetry::LEVELS);
    }
    let path = args
        .schedule
        .clone()
        .or_else(|| intervals.file.clone().map(PathBuf::from));
    let listen = args.metrics_listen.or(intervals.metrics_listen);
    reader.finish()?;
    telemetry::init_as("tradebot-beat", level, logs.format)?;

    let entries = schedule(&intervals, path.as_deref(), &args.queue)?;
    if entries.is_empty() && args.redbeat.is_none() {
        return Err(EmptySchedule.into());
    }
    let clock = SystemClock::shared();
    if args.explain {
        print(&explain(&entries, clock.now()));
        return Ok(());
    }
    let machine = node::machine();
    let store = open_store(&redis, &machine)?;
    let instance = Instance {
        id: Uuid::new_v4().simple().to_string(),
        origin: task_message::origin(&machine),
        machine,
        started_at: clock.now().timestamp_micros(),
        dry_run: args.dry_run,
    };
    match args.command {
        None | Some(Command::Run | Command::Man) => {}
        Some(Command::List) => {
            print(&list(&entries, &store, clock.now()).await?);
            return Ok(());
        }
        Some(Command::RunNow { entry }) => {
            print(&run_now(&entries, &entry, &store, clock.now(), &instance.origin).await?);
            return Ok(());
        }
        Some(Command::Pause { entries: named }) => {
            print(&set_paused(&entries, &named, &store, true).await?);
            return Ok(());
        }
        Some(Command::Resume { entries: named }) => {
            print(&set_paused(&entries, &named, &store, false).await?);
            return Ok(());
        }
    }

    // Before the first line: whoever reads it may stop us at once, and that is no failure.
    let stop = Stop::new();
    stop.on_signals(Duration::from_secs(2))?;
    announce(&entries);
    let metrics = Metrics::new();
    if let Some(address) = listen {
        let listener = listen::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address}"))?;
        info!(address = %listener.local_addr()?, "serving /metrics and /healthz");
        tokio::spawn(listen::serve(listener, metrics.clone(), SystemClock::shared()));
    }
    let parts = Parts {
        entries,
        store,
        clock,
        instance,
        metrics,
    };
    match args.redbeat {
        None => running::run(Ticker::new(parts), &stop).await,
        Some(prefix) => {
            let options = RedbeatOptions {
                prefix,
                zone: args.redbeat_timezone,
                queue: args.queue,
            };
            running::run(Redbeat::new(parts, options)?, &stop).await;
        }
    }
    info!("beat stopped");
    Ok(())
}

/// The warm-ups, and what the file adds; an entry of the file replaces a warm-up of its name.
fn schedule(intervals: &ScheduleConfig, path: Option<&std::path::Path>, queue: &str) -> Result<Vec<Entry>> {
    let added = path.map_or(Ok(Vec::new()), |path| file::read(path, queue))?;
    let mut entries = warmups(intervals, queue);
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
    let keys = Keys::with_prefix(&redis.key_prefix);
    Ok(Store::new(
        connection,
        results,
        keys,
        redis.result_key_prefix.clone(),
    ))
}

fn announce(entries: &[Entry]) {
    for entry in entries.iter().take(NAMED_AT_START) {
        info!(
            beat.entry = entry.name,
            task.name = entry.task,
            queue = entry.queue,
            plan = %entry.plan,
            "{}",
            if entry.enabled { "scheduled" } else { "not enabled" }
        );
    }
    if let Some(more) = entries.len().checked_sub(NAMED_AT_START).filter(|more| *more > 0) {
        info!(more, "further entries are scheduled");
    }
}

fn print(text: &str) {
    use std::io::Write;
    // Nobody is left to tell if the output is closed.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
