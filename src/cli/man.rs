//! `man`: the manual pages.

use anyhow::Result;
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, write_out};
use tradebot_base::config::{ConfigError, VARIABLES};
use tradebot_base::manual::{self, Extras};

const FILES: &[(&str, &str)] = &[
    (
        "PATH of worker --statedb",
        "Revoked task ids, kept across restarts of a worker",
    ),
    (
        "FILE of adopt --env-file",
        "The Python system's environment, read as docker compose reads it and never written",
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
pub(super) struct Args {
    /// The verb to describe, and its own verb if it has any [default: the whole program]
    #[arg(value_name = "VERB")]
    verbs: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    write_out(&page(&args.verbs)?)
}

fn page(verbs: &[String]) -> Result<Vec<u8>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let command = find(&program, verbs)?;
    let extras = if verbs.is_empty() {
        let of_verbs = program.get_subcommands().filter_map(after_help);
        // Each verb's exit codes are on its own page.
        let examples = of_verbs.map(|help| {
            let paragraphs = help.split("\n\n").filter(|text| text.starts_with("Example"));
            paragraphs.collect::<Vec<_>>().join("\n\n")
        });
        let see_also = program.get_subcommands().map(name);
        Extras {
            after_help: after_help(&program).into_iter().chain(examples).collect(),
            variables: VARIABLES.iter().collect(),
            files: FILES,
            see_also: see_also.chain(["tradebot-beat".to_owned()]).collect(),
        }
    } else {
        let above = find(&program, &verbs[..verbs.len() - 1])?;
        Extras {
            after_help: after_help(command).into_iter().collect(),
            see_also: vec![name(above)],
            ..Extras::default()
        }
    };
    let command = command.clone();
    let (has_options, has_verbs) = (
        command.get_arguments().next().is_some(),
        command.has_subcommands(),
    );
    let mut page = manual::title(&name(&command)).into_bytes();
    let man = Man::new(command);
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if has_options {
        man.render_options_section(&mut page)?;
    }
    if has_verbs {
        man.render_subcommands_section(&mut page)?;
    }
    page.extend_from_slice(extras.sections().as_bytes());
    Ok(page)
}

/// The command that the verbs name, each a verb of the one before.
fn find<'c>(program: &'c Command, verbs: &[String]) -> Result<&'c Command, ConfigError> {
    verbs.iter().try_fold(program, |command, verb| {
        let known = || command.get_subcommands();
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

fn after_help(command: &Command) -> Option<String> {
    command.get_after_help().map(ToString::to_string)
}
