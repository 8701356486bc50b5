//! `healthcheck`: the health of one part as an exit code, for container probes.

use anyhow::{Result, anyhow};
use clap::Subcommand;

use super::say;
use crate::product::fleet::healthcheck::HealthCheck;
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ConfigError, ProcessEnvironment, Reader, RedisConfig};
use tradebot_base::node;

/// Checks within a second whether one part works.
///
/// A worker is healthy if it answers over remote control or renews its lease, a beat if it has a heartbeat, the endpoint
/// if it is ready. All three need Redis: use this check for readiness only, so that a part that waits for Redis is not restarted.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 healthy, 1 not\n\n\
    Examples:\n  tradebot-symbols healthcheck worker\n  tradebot-symbols healthcheck worker -n symbols@%h\n  \
    tradebot-symbols healthcheck beat\n  tradebot-symbols healthcheck endpoint")]
pub(super) struct HealthcheckCommand {
    #[command(subcommand)]
    part: CheckedPart,
}

#[derive(Debug, Subcommand)]
enum CheckedPart {
    /// Checks the worker on this machine
    Worker {
        /// Its node name, as given to `worker`
        #[arg(short = 'n', long, default_value = "symbols@%h")]
        hostname: String,
    },
    /// Checks the beat on this machine
    Beat {
        /// Name of another machine
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// Checks the HTTP endpoint
    Endpoint {
        /// The address it listens on [default: HTTP_ADMIN_LISTEN, or else HTTP_LISTEN]
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<String>,
    },
}

pub(super) async fn run(args: HealthcheckCommand) -> Result<u8> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let health = match args.part {
        CheckedPart::Worker { hostname } => {
            let node = node::expand(&hostname, &node::machine())
                .map_err(|reason| anyhow!("--hostname: {reason}"))?;
            let how = check(reader)?.worker(&node).await?;
            format!("{node}: {how}")
        }
        CheckedPart::Beat { host } => {
            let host = host.unwrap_or_else(node::machine);
            let instance = check(reader)?.beat(&host).await?;
            format!("beat {instance}: it has a heartbeat")
        }
        CheckedPart::Endpoint { listen } => {
            let listen = listen
                .or_else(|| reader.optional("HTTP_ADMIN_LISTEN"))
                .or_else(|| reader.optional("HTTP_LISTEN"));
            let Some(listen) = listen else {
                let mistake = "HTTP_LISTEN is not set; set it, or give --listen";
                return Err(ConfigError(vec![mistake.to_owned()]).into());
            };
            HealthCheck::endpoint(&listen).await?;
            format!("{listen}: ready")
        }
    };
    say(&health)?;
    Ok(0)
}

fn check(mut reader: Reader<'_>) -> Result<HealthCheck> {
    let redis = RedisConfig::read(&mut reader);
    reader.finish()?;
    Ok(HealthCheck::new(&redis, SystemClock::shared())?)
}
