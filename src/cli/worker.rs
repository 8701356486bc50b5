//! `worker`: consumes the queues and runs the warm-ups.

use std::sync::Arc;

use anyhow::Result;

use super::start_logs;
use crate::config::ProcessEnvironment;
use crate::product::tasks::{self, Context};
use crate::worker::{self, WorkerArgs, WorkerSettings};

/// Runs a worker, beside Python workers or alone.
///
/// It takes only the two warm-up tasks; messages of other tasks stay in their queue.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols worker -Q celery -c 2 -n symbols@%h -l info")]
pub(super) struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
}

pub(super) async fn run(args: Args) -> Result<()> {
    start_logs(args.worker.loglevel.as_deref())?;
    let settings = WorkerSettings::read(&ProcessEnvironment, &args.worker);
    let context = Context::read(&ProcessEnvironment);
    let (settings, context) = match (settings, context) {
        (Ok(settings), Ok(context)) => (settings, context),
        // Every mistake of both halves at once.
        (Err(one), Err(other)) => return Err(one.and(other).into()),
        (Err(one), _) | (_, Err(one)) => return Err(one.into()),
    };
    let context = context.connect(settings.redis(), settings.hostname())?;
    worker::run(settings, tasks::task_set(), Arc::new(context)).await?;
    Ok(())
}
