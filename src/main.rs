//! `tradebot-symbols`: see the library for the map of the code.

use std::process::ExitCode;

use clap::Parser;
use tradebot_symbols::cli::{self, Cli};

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the last word of a program that may have no log output yet"
            )]
            {
                eprintln!("tradebot-symbols: {error:#}");
            }
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
