//! `completions`: what a shell needs to complete the command line.

use std::io::{self, Write};

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;

/// Prints the completions of a shell.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: tradebot-symbols completions bash > /etc/bash_completion.d/tradebot-symbols"
)]
pub(super) struct Args {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tradebot-symbols", &mut script);
    io::stdout().write_all(&script).context("standard output")
}
