//! `man`: the manual pages.

use anyhow::Result;
use clap::{Command, CommandFactory};

use super::{Cli, write_out};
use tradebot_base::config::{ConfigError, VARIABLES};
use tradebot_base::manual::{self, Extras};

const FILES: &[(&str, &str)] = &[
    (
        "PATH of worker --statedb",
        "Revoked task ids, kept across restarts of a worker",
    ),
    (
        "FILE of --env-file",
        "Variables, read as docker compose reads an env file and never written; those of the process's environment win",
    ),
    (
        "PGSSLROOTCERT",
        "Root certificates for the database's TLS certificate, in PEM",
    ),
];

/// Prints a manual page.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tradebot-symbols man > /usr/local/share/man/man1/tradebot-symbols.1\n  \
    tradebot-symbols man worker | man -l -"
)]
pub(super) struct ManCommand {
    /// The verb to describe, and its own verb if it has any [default: the whole program]
    #[arg(value_name = "VERB")]
    verbs: Vec<String>,
}

pub(super) fn run(args: &ManCommand) -> Result<()> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let command = find(&program, &args.verbs)?;
    let extras = match args.verbs.split_last() {
        None => Extras {
            variables: VARIABLES.iter().collect(),
            files: FILES,
            see_also: program
                .get_subcommands()
                .filter(|command| !command.is_hide_set())
                .map(name)
                .chain(["tradebot-beat".to_owned()])
                .collect(),
        },
        Some((_, above)) => Extras {
            see_also: vec![name(find(&program, above)?)],
            ..Extras::default()
        },
    };
    write_out(manual::page(command, &extras)?.as_bytes())
}

/// The command that a path of verbs leads to.
fn find<'c>(program: &'c Command, verbs: &[String]) -> Result<&'c Command, ConfigError> {
    verbs.iter().try_fold(program, |command, verb| {
        let known = || command.get_subcommands().filter(|verb| !verb.is_hide_set());
        known().find(|command| command.get_name() == verb).ok_or_else(|| {
            let known: Vec<&str> = known().map(Command::get_name).collect();
            ConfigError(vec![match known[..] {
                [] => format!("there is no verb `{verb}`: `{}` has none", command.get_name()),
                _ => format!("there is no verb `{verb}`, only {}", known.join(", ")),
            }])
        })
    })
}

/// The name of a command's page.
fn name(command: &Command) -> String {
    command
        .get_display_name()
        .unwrap_or(command.get_name())
        .to_owned()
}
