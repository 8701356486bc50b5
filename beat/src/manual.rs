//! The manual page.

use std::io;

use clap::CommandFactory;
use tradebot_base::config::{RedisConfig, ScheduleConfig};
use tradebot_base::manual::{self, Extras, variables_of};
use tradebot_base::telemetry::LogConfig;

use crate::args::Args;

const FILES: &[(&str, &str)] = &[
    (
        "FILE of --schedule",
        "Entries to add to the two warm-ups, in TOML; schedule.example.toml in the sources shows every option",
    ),
    (
        "FILE of --env-file",
        "Variables, read as docker compose reads an env file and never written; those of the process's environment win",
    ),
];

/// The manual page in roff.
pub(crate) fn page() -> io::Result<String> {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    let extras = Extras {
        variables: variables_of(|reader| {
            RedisConfig::read(reader);
            ScheduleConfig::read(reader);
            LogConfig::read(reader, None);
        }),
        files: FILES,
        see_also: vec!["tradebot-symbols".to_owned()],
    };
    manual::page(&program, &extras)
}
