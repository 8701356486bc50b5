//! `worker`: consumes the queues and runs the warm-ups.

use std::sync::Arc;

use anyhow::Result;

use super::{both, read_logs, start_logs};
use crate::config::ProcessEnvironment;
use crate::product::tasks::{self, Context};
use crate::worker::{self, Pool, WorkerArgs, WorkerSettings};

/// Runs a worker, beside Python workers or alone.
///
/// It takes only the two warm-up tasks; messages of other tasks stay in their queue.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols worker -Q celery -c 2 -n symbols@%h -l info")]
pub(super) struct Args {
    #[command(flatten)]
    worker: WorkerArgs,
}

impl Args {
    pub(super) fn pool(&self) -> Pool {
        self.worker.pool
    }
}

pub(super) async fn run(args: Args) -> Result<()> {
    let settings = WorkerSettings::read(&ProcessEnvironment, &args.worker);
    let context = Context::read(&ProcessEnvironment);
    let logs = read_logs(args.worker.loglevel.as_deref());
    let (settings, (context, logs)) = both(settings, both(context, logs))?;
    start_logs(&logs)?;
    let context = context.connect(settings.redis(), settings.hostname())?;
    worker::run(settings, tasks::task_set(), Arc::new(context)).await?;
    Ok(())
}
