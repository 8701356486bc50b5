//! `tradebot-beat`: enqueues the warm-ups at their intervals.
//!
//! It publishes messages and does nothing else; worker, HTTP and exchange code are not part of this binary.

mod schedule;
mod ticker;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use tracing::info;
use tradebot_symbols::config::{
    ConfigError, LogConfig, ProcessEnvironment, Reader, RedisConfig, ScheduleConfig,
};
use tradebot_symbols::core::clock::SystemClock;
use tradebot_symbols::core::lifecycle::Stop;
use tradebot_symbols::core::node;
use tradebot_symbols::core::transport::Connection;
use tradebot_symbols::core::wire::keys::Keys;
use tradebot_symbols::core::wire::task_message;
use tradebot_symbols::telemetry;

use crate::schedule::{EmptySchedule, Schedule};
use crate::ticker::Ticker;

/// Exit code for an environment that cannot be used (`EX_USAGE`).
const EXIT_USAGE: u8 = 64;

/// Enqueues the symbol cache warm-ups at their intervals.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Example: CELERY_BROKER_URL=redis://localhost:6379/0 tradebot-beat -l info"
)]
struct Args {
    /// Queue that the tasks are sent to
    #[arg(short = 'Q', long, default_value = "celery")]
    queue: String,
    /// debug, info, warning or error; LOG_LEVEL if absent
    #[arg(short, long)]
    loglevel: Option<String>,
}

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
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last word of a program that may have no log output yet"
            )]
            {
                eprintln!("tradebot-beat: {error:#}");
            }
            let usage = error.is::<ConfigError>() || error.is::<EmptySchedule>();
            ExitCode::from(if usage { EXIT_USAGE } else { 1 })
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let redis = RedisConfig::read(&mut reader);
    let intervals = ScheduleConfig::read(&mut reader);
    let logs = LogConfig::read(&mut reader);
    let level = args.loglevel.as_deref().unwrap_or(&logs.level);
    if args.loglevel.is_some() && !telemetry::understands(level) {
        reader.complain("--loglevel", level, telemetry::LEVELS);
    }
    reader.finish()?;
    telemetry::init(level, logs.format)?;

    let schedule = Schedule::warmups(&intervals, &args.queue)?;
    // Before the first line: whoever reads it may stop us at once, and that is no failure.
    let stop = Stop::new();
    stop.on_signals(Duration::from_secs(2))?;
    for entry in schedule.entries() {
        info!(
            beat.entry = entry.name,
            task.name = entry.task,
            queue = entry.queue,
            every_seconds = entry.every.as_secs_f64(),
            "scheduled, first run now"
        );
    }
    let machine = node::machine();
    let connection = Connection::new(&redis.broker, &format!("beat@{machine}"))?;
    let origin = task_message::origin(&machine);
    let keys = Keys::with_prefix(&redis.key_prefix);
    Ticker::new(schedule, connection, keys, SystemClock::shared(), origin)
        .run(&stop)
        .await;
    info!("beat stopped");
    Ok(())
}
