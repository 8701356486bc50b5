//! `worker`: consumes queues and runs the warm-ups.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use tracing::error;

use super::start_logs;
use crate::product::http::run::{Addresses, HttpEndpoint, HttpError, HttpSettings};
use crate::product::tasks::{self, Context};
use crate::worker::{self, PoolKind, WorkerArgs, WorkerSettings};
use tradebot_base::config::{ProcessEnvironment, Reader};
use tradebot_base::error_chain;
use tradebot_core::engine::Engine;

/// Runs a worker, beside Python workers or alone.
///
/// It runs only the two warm-up tasks and leaves messages of other tasks in their queue.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols worker -Q celery -c 2 -n symbols@%h -l info")]
pub(super) struct WorkerCommand {
    #[command(flatten)]
    worker: WorkerArgs,
    /// Also serve the lists over HTTP at this address, on a separate thread
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// With --http, address for operators: the status page, /metrics and /readyz are only there [default:
    /// HTTP_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDR", requires = "http")]
    admin_listen: Option<SocketAddr>,
}

impl WorkerCommand {
    pub(super) fn pool(&self) -> PoolKind {
        self.worker.pool
    }
}

pub(super) async fn run(args: WorkerCommand) -> Result<()> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let settings = WorkerSettings::read(&mut reader, &args.worker);
    let context = Context::read(&mut reader);
    let http = args.http.map(|address| {
        let drain = settings.shutdown_timeout().saturating_sub(Duration::from_secs(1));
        let addresses = Addresses {
            listen: Some(address),
            admin: args.admin_listen,
        };
        HttpSettings::read(&mut reader, addresses, 1, args.worker.queues.clone(), drain)
    });
    start_logs(reader, args.worker.loglevel.as_deref())?;
    let (redis, name) = (settings.redis().clone(), settings.hostname().to_owned());
    let config = context;
    let context = Arc::new(config.clone().connect(&redis, &name)?);
    let Some(http) = http else {
        // The endpoint's readers do that too.
        let guard = config.guard(&redis, &name)?;
        let beside = |engine: Arc<Engine>| async move {
            engine.stop().token().cancelled().await;
            guard.stop().await;
        };
        worker::run_beside(settings, tasks::task_set(), context, beside).await?;
        return Ok(());
    };
    let endpoint = HttpEndpoint::bind(http).await?;
    let failed = OnceLock::<HttpError>::new();
    let beside = |engine: Arc<Engine>| async {
        let stop = engine.stop().clone();
        let ended = endpoint.run(&name, Some(engine), stop.token()).await;
        if let Err(problem) = ended {
            error!(error = %error_chain(&problem), "the HTTP endpoint failed, stopping the worker");
            let _ = failed.set(problem);
            stop.stop_warm();
        }
    };
    worker::run_beside(settings, tasks::task_set(), context, beside).await?;
    failed.into_inner().map_or(Ok(()), |problem| Err(problem.into()))
}
