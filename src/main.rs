//! `tradebot-symbols`: see the library for the map of the code.

use std::process::ExitCode;

use clap::Parser;
use tradebot_base::telemetry;
use tradebot_symbols::cli::{self, Cli};

/// A third less time per task than with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are answers too. Nobody is left to tell if the output is closed.
            let _ = answer.print();
            return ExitCode::from(if answer.use_stderr() { cli::EXIT_USAGE } else { 0 });
        }
    };
    let ended = cli::run(cli);
    telemetry::finish();
    match ended {
        Ok(code) => ExitCode::from(code),
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
