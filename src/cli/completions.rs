//! `completions`: a script that completes the command line in a shell.

use anyhow::Result;
use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, write_out};

/// Prints a shell's completion script.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: tradebot-symbols completions bash > /etc/bash_completion.d/tradebot-symbols"
)]
pub(super) struct CompletionsCommand {
    /// The shell
    shell: Shell,
}

pub(super) fn run(args: &CompletionsCommand) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "tradebot-symbols", &mut script);
    write_out(&script)
}
