//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use chrono_tz::Tz;
use clap::{Parser, Subcommand};

/// Sends scheduled Celery tasks. Each slot is sent once, however many beats run
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Example: CELERY_BROKER_URL=redis://localhost:6379/0 tradebot-beat --schedule schedule.toml -l info\n\n\
    Exit codes: 0 after a stop, 64 for a bad command line, configuration or schedule, 1 for any other error"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// Env file, read as docker compose reads it; variables of the process's environment win over it
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) env_file: Option<PathBuf>,
    /// Queue of entries that name none
    #[arg(short = 'Q', long, default_value = "celery", global = true)]
    pub(crate) queue: String,
    /// TOML file with entries to add to the two warm-ups [default: BEAT_SCHEDULE]
    #[arg(short, long, value_name = "FILE", global = true)]
    pub(crate) schedule: Option<PathBuf>,
    /// debug, info, warning or error [default: LOG_LEVEL]
    #[arg(short, long, global = true)]
    pub(crate) loglevel: Option<String>,
    /// Print each entry with its queue and its next five slots, then exit; needs no broker
    #[arg(long)]
    pub(crate) explain: bool,
    /// Log what would be sent and write nothing
    #[arg(long, conflicts_with = "redbeat")]
    pub(crate) dry_run: bool,
    /// Run the schedule in RedBeat's keys, under its lock; PREFIX is its `redbeat_key_prefix`
    #[arg(long, value_name = "PREFIX", num_args = 0..=1, default_missing_value = "redbeat:", require_equals = true)]
    pub(crate) redbeat: Option<String>,
    /// `timezone` of the Python application that uses RedBeat
    #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "redbeat")]
    pub(crate) redbeat_timezone: Tz,
    /// Serve /metrics and /healthz on this address [default: BEAT_METRICS_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<SocketAddr>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the schedule; the default
    Run,
    /// List each entry with its last and its next message
    List,
    /// Send an entry's task now; its slots stay as they are
    RunNow {
        /// Name of the entry
        entry: String,
    },
    /// Pause entries on every beat: slots pass, nothing is sent
    Pause {
        /// Names of the entries
        #[arg(required = true)]
        entries: Vec<String>,
    },
    /// Resume paused entries from their next slot
    Resume {
        /// Names of the entries
        #[arg(required = true)]
        entries: Vec<String>,
    },
    /// Print the manual page
    Man,
}
