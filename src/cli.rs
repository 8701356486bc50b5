//! The command line: one file per verb, each with its arguments and one `run`.

mod adopt;
mod completions;
mod credentials;
mod doctor;
mod healthcheck;
mod man;
mod parked;
mod report;
mod sandbox;
mod serve;
mod status;
mod tethered;
mod up;
mod worker;

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::worker::PoolKind;
use tradebot_base::config::{ConfigError, ProcessEnvironment, Reader};
use tradebot_base::env_file::{self, EnvFileError};
use tradebot_base::process;
use tradebot_base::telemetry::{self, LogConfig};

/// Exit code for a command line or an environment that cannot be used (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;

/// Keeps Binance's symbol lists warm in Redis, as a Celery worker.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    arg_required_else_help = true,
    after_help = "Each verb has examples: tradebot-symbols VERB --help\n\nExit codes: 0 success or a requested stop, \
    64 invalid command line or configuration, 1 any other failure; `doctor` has more."
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Env file, read as docker compose reads it; variables of the process's environment win over it
    #[arg(long, value_name = "FILE", global = true)]
    env_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Worker(worker::WorkerCommand),
    Serve(serve::ServeCommand),
    Up(up::UpCommand),
    Sandbox(sandbox::SandboxCommand),
    Parked(parked::ParkedCommand),
    Credentials(credentials::CredentialsCommand),
    Doctor(doctor::DoctorCommand),
    Status(status::StatusCommand),
    Healthcheck(healthcheck::HealthcheckCommand),
    Adopt(adopt::AdoptCommand),
    Completions(completions::CompletionsCommand),
    Man(man::ManCommand),
    #[command(hide = true)]
    Tethered(tethered::TetheredCommand),
}

/// Runs the command line of this process, and returns its exit code.
///
/// # Errors
/// The error that ended a verb early; [`exit_code`] gives its exit code.
pub fn run(cli: Cli) -> Result<u8> {
    process::prepare().context("cannot forbid core dumps, which would hold secrets")?;
    if let (Some(path), false) = (&cli.env_file, matches!(cli.verb, Verb::Adopt(_))) {
        return Err(env_file::restart_with(path, &ProcessEnvironment).into());
    }
    let pool = match &cli.verb {
        Verb::Worker(args) => args.pool(),
        _ => PoolKind::Async,
    };
    let runtime = pool.runtime().context("cannot start the async runtime")?;
    // rusty-celery's task loop is not `Send`, so it runs here on the main task.
    runtime.block_on(async {
        match cli.verb {
            Verb::Worker(args) => worker::run(args).await?,
            Verb::Serve(args) => serve::run(args).await?,
            Verb::Up(args) => up::run(args).await?,
            Verb::Sandbox(args) => sandbox::run(args).await?,
            Verb::Parked(args) => parked::run(args).await?,
            Verb::Credentials(args) => credentials::run(args).await?,
            Verb::Doctor(args) => return doctor::run(args).await,
            Verb::Status(args) => return status::run(args).await,
            Verb::Healthcheck(args) => return healthcheck::run(args).await,
            Verb::Adopt(args) => return adopt::run(args).await,
            Verb::Completions(args) => completions::run(&args)?,
            Verb::Man(args) => man::run(&args)?,
            Verb::Tethered(args) => tethered::run(&args)?,
        }
        Ok(0)
    })
}

/// The exit code for an error.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let usage =
        |cause: &(dyn std::error::Error + 'static)| cause.is::<ConfigError>() || cause.is::<EnvFileError>();
    if error.chain().any(usage) { EXIT_USAGE } else { 1 }
}

/// Reports every mistake in the settings, or starts the logs at `level`, which replaces the environment's.
fn start_logs(mut reader: Reader<'_>, level: Option<&str>) -> Result<()> {
    let logs = LogConfig::read(&mut reader, level);
    reader.finish()?;
    telemetry::init("tradebot-symbols", &logs).context("cannot start the logs")
}

/// Prints a line. A closed output is an error.
fn say(text: &str) -> Result<()> {
    write_out(format!("{text}\n").as_bytes())
}

fn write_out(bytes: &[u8]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    output
        .write_all(bytes)
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn celerys_spellings_are_understood() {
        for line in [
            "tradebot-symbols worker -Q celery,other -c 4 -P threads -n w1@%h -l INFO",
            "tradebot-symbols worker --queues celery --concurrency 2 --hostname w --loglevel debug",
            "tradebot-symbols worker -E --http 0.0.0.0:8000",
            "tradebot-symbols worker --task-events",
            "tradebot-symbols up --sandbox --private-redis --refreshes 3 -E",
            "tradebot-symbols serve --listen 127.0.0.1:0 --threads 2",
            "tradebot-symbols sandbox --listen 127.0.0.1:0",
            "tradebot-symbols parked list --json",
            "tradebot-symbols parked replay 0123 4567",
            "tradebot-symbols parked drop --all",
            "tradebot-symbols credentials check --email a@example.com --market futures",
            "tradebot-symbols doctor --json --watch --interval 2 -Q celery,symbols --foreign-beat",
            "tradebot-symbols doctor --codes",
            "tradebot-symbols status --watch",
            "tradebot-symbols healthcheck worker -n w1@%h",
            "tradebot-symbols healthcheck beat --host here",
            "tradebot-symbols healthcheck endpoint --listen 127.0.0.1:8000",
            "tradebot-symbols adopt --env-file .env",
            "tradebot-symbols --env-file .env worker -c 2",
            "tradebot-symbols parked list --env-file .env",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }
}
