//! `sandbox`: a local substitute for the exchange.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tracing::warn;

use super::start_logs;
use crate::product::sandbox::{Catalog, SandboxServer};
use tradebot_base::config::{ProcessEnvironment, Reader};
use tradebot_base::lifecycle::{Stop, serve_under_systemd};

/// Serves made-up or captured symbol lists in the exchange's format.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tradebot-symbols sandbox --listen 127.0.0.1:8010\n\
    then run a worker with BINANCE_SPOT_BASE_URL and BINANCE_FUTURES_BASE_URL set to http://127.0.0.1:8010")]
pub(super) struct SandboxCommand {
    /// Address to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8010")]
    listen: SocketAddr,
    /// Captured spot exchangeInfo to serve instead of the made-up one
    #[arg(long, value_name = "FILE")]
    spot_file: Option<PathBuf>,
    /// Captured futures exchangeInfo to serve instead of the made-up one
    #[arg(long, value_name = "FILE")]
    futures_file: Option<PathBuf>,
    /// Log level: debug, info, warning or error [default: LOG_LEVEL]
    #[arg(short, long)]
    loglevel: Option<String>,
}

pub(super) async fn run(args: SandboxCommand) -> Result<()> {
    start_logs(Reader::new(&ProcessEnvironment), args.loglevel.as_deref())?;
    let stop = Stop::new();
    stop.on_signals(Duration::from_secs(3))?;
    let catalog = Catalog::from_files(args.spot_file.as_deref(), args.futures_file.as_deref())?;
    let server = SandboxServer::bind(args.listen, catalog)?;
    warn!(
        url = server.base_url(),
        "sandbox exchange: nothing it serves is real"
    );
    serve_under_systemd(&stop);
    server.run(stop.token()).await?;
    Ok(())
}
