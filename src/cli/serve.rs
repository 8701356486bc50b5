//! `serve`: the HTTP endpoint in a separate process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::start_logs;
use crate::config::WorkerConfig;
use crate::product::http::run::{Addresses, HttpEndpoint, HttpSettings};
use tradebot_base::config::{ProcessEnvironment, Reader};
use tradebot_base::lifecycle::{Stop, serve_under_systemd};
use tradebot_base::node;

/// Serves the symbol lists over HTTP, from memory and Redis.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols serve --listen 0.0.0.0:8000")]
pub(super) struct ServeCommand {
    /// Address to listen on; port 0 picks a free one [default: HTTP_LISTEN]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Address for operators: the status page, /metrics and /readyz are only there [default: HTTP_ADMIN_LISTEN]
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<SocketAddr>,
    /// Threads that answer requests [default: the number of CPUs]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Queues whose length is shown, separated by commas
    #[arg(short = 'Q', long, value_delimiter = ',', default_value = "celery")]
    queues: Vec<String>,
    /// Log level: debug, info, warning or error [default: LOG_LEVEL]
    #[arg(short, long)]
    loglevel: Option<String>,
}

pub(super) async fn run(args: ServeCommand) -> Result<()> {
    let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or_else(cpus, usize::from);
    let mut reader = Reader::new(&ProcessEnvironment);
    let drain = WorkerConfig::read(&mut reader).shutdown_timeout;
    let addresses = Addresses {
        listen: args.listen,
        admin: args.admin_listen,
    };
    let settings = HttpSettings::read(&mut reader, addresses, threads, args.queues, drain);
    start_logs(reader, args.loglevel.as_deref())?;
    let stop = Stop::new();
    stop.on_signals(drain + Duration::from_secs(2))?;
    let name = format!("serve@{}", node::machine());
    let endpoint = HttpEndpoint::bind(settings).await?;
    serve_under_systemd(&stop);
    endpoint.run(&name, None, stop.token()).await?;
    Ok(())
}
