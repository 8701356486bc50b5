//! A worker with other tasks, on the library and the environment of `tradebot-symbols worker`.
//!
//! The tests use it to make tasks that fail, hang, panic and kill their process. It is also the example of a
//! worker with other tasks: write functions, mark them with the task macro, put them into a `TaskSet`, and
//! give that to `worker::run` together with whatever the functions need.

mod celery_suite;
mod notes;
mod tasks;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use tradebot_base::config::{ProcessEnvironment, Reader};
use tradebot_base::telemetry::{self, LogConfig};
use tradebot_symbols::worker::{self, WorkerArgs, WorkerSettings};
use tradebot_symbols::worker::{TaskOptions, TaskSet};

use notes::Notes;

/// Runs the test tasks.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
    /// Run the tasks of Celery's integration suite as well
    #[arg(long)]
    celery_suite: bool,
}

/// The product's allocator, so that what is measured here holds there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = args.worker.pool.runtime().context("the runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the last word of the program")]
            {
                eprintln!("test-worker: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<()> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let logs = LogConfig::read(&mut reader, args.worker.loglevel.as_deref());
    let settings = WorkerSettings::read(&mut reader, &args.worker);
    reader.finish()?;
    telemetry::init("tradebot-symbols", &logs)?;

    let tasks = TaskSet::new()
        .with::<tasks::noop>()
        .with::<tasks::echo>()
        .with::<tasks::add>()
        .with::<tasks::xsum>()
        .with::<tasks::sleep>()
        .with::<tasks::spin>()
        .with::<tasks::fail>()
        .with::<tasks::raise>()
        .with::<tasks::retry>()
        .with::<tasks::record>()
        .with::<tasks::panic>()
        .with::<tasks::exit>()
        .with::<tasks::send>()
        .with::<tasks::replace>()
        .with::<tasks::reject>()
        .with_options::<tasks::errback>(TaskOptions::new().errback_with_request())
        .with::<tasks::ignore>()
        .with::<tasks::progress>();
    let tasks = if args.celery_suite {
        celery_suite::add_tasks(tasks)
    } else {
        tasks
    };
    let notes = Notes::new(&settings.redis().cache, settings.hostname())?;
    worker::run(settings, tasks, Arc::new(notes)).await?;
    Ok(())
}
