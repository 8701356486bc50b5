//! `healthcheck`: one part's health as an exit code, for container probes.

use anyhow::Result;
use clap::Subcommand;

use super::doctor::say;
use crate::product::doctor::Health;
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ConfigError, ProcessEnvironment, Reader, RedisConfig, Vars};
use tradebot_base::node;

/// Says whether a part works, within a second.
///
/// It goes by what the part does: a worker by its answer over remote control or its lease, a beat by its heartbeat, the
/// endpoint by its readiness. All three depend on Redis, so use it where "not ready" is meant, and not to restart a
/// part that waits for Redis.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 healthy, 1 not\n\n\
    Examples:\n  tradebot-symbols healthcheck worker\n  tradebot-symbols healthcheck worker -n symbols@%h\n  \
    tradebot-symbols healthcheck beat\n  tradebot-symbols healthcheck endpoint")]
pub(super) struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The worker of this machine
    Worker {
        /// Its node name, as `worker` was given it
        #[arg(short = 'n', long, default_value = "symbols@%h")]
        hostname: String,
    },
    /// The beat of this machine
    Beat {
        /// The machine, if it is another one
        #[arg(long, value_name = "NAME")]
        host: Option<String>,
    },
    /// The HTTP endpoint
    Endpoint {
        /// Where it listens; HTTP_LISTEN if absent
        #[arg(long, value_name = "ADDRESS")]
        listen: Option<String>,
    },
}

pub(super) async fn run(args: Args) -> Result<u8> {
    let healthy = match args.part {
        Part::Worker { hostname } => {
            let node = node::expand(&hostname, &node::machine());
            let how = health()?.worker(&node).await?;
            format!("{node}: {how}")
        }
        Part::Beat { host } => {
            let host = host.unwrap_or_else(node::machine);
            let instance = health()?.beat(&host).await?;
            format!("beat {instance}: it has a heartbeat")
        }
        Part::Endpoint { listen } => {
            let listen = listen
                .or_else(|| ProcessEnvironment.get("HTTP_LISTEN"))
                .ok_or_else(|| {
                    ConfigError(vec![
                        "HTTP_LISTEN is not set, and there is no --listen".to_owned(),
                    ])
                })?;
            Health::endpoint(&listen).await?;
            format!("{listen}: ready")
        }
    };
    say(&healthy)?;
    Ok(0)
}

fn health() -> Result<Health> {
    let mut reader = Reader::new(&ProcessEnvironment);
    let redis = RedisConfig::read(&mut reader);
    reader.finish()?;
    Ok(Health::new(redis, SystemClock::shared()))
}
