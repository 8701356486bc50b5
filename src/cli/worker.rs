//! `worker`: consumes the queues and runs the warm-ups.

use anyhow::Result;

use super::{UsageError, start_logs};
use crate::config::ProcessEnvironment;
use crate::core::node;
use crate::product::worker::{self, WorkerSettings};

/// Runs a worker, beside Python workers or alone.
///
/// It takes only the two warm-up tasks; messages of other tasks stay in their queue.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols worker -Q celery -c 2 -n symbols@%h -l info")]
pub(super) struct Args {
    /// Queues to consume, separated by commas
    #[arg(short = 'Q', long, value_delimiter = ',', default_value = "celery")]
    queues: Vec<String>,
    /// Tasks run at a time; the number of CPUs if absent
    #[arg(short, long)]
    concurrency: Option<usize>,
    /// Node name; %h, %n and %d stand for the machine's name and its parts
    #[arg(short = 'n', long, default_value = "symbols@%h")]
    hostname: String,
    /// debug, info, warning or error; LOG_LEVEL if absent
    #[arg(short, long)]
    loglevel: Option<String>,
}

pub(super) async fn run(args: Args) -> Result<()> {
    start_logs(args.loglevel.as_deref())?;
    let queues: Vec<String> = args
        .queues
        .iter()
        .map(|queue| queue.trim().to_owned())
        .filter(|queue| !queue.is_empty())
        .collect();
    if queues.is_empty() {
        return Err(UsageError("--queues names no queue".into()).into());
    }
    let concurrency = args
        .concurrency
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if !(1..=10_000).contains(&concurrency) {
        return Err(UsageError(format!("--concurrency is {concurrency}, expected 1 to 10000")).into());
    }
    let machine = node::machine();
    let hostname = node::expand(&args.hostname, &machine);
    let settings = WorkerSettings::read(&ProcessEnvironment, queues, concurrency, hostname, machine)?;
    worker::run(settings).await?;
    Ok(())
}
