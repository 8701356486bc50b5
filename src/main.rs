//! The program `tradebot-symbols`. The library's documentation has a map of the code.

use std::process::ExitCode;

use clap::Parser;
use tradebot_base::telemetry;
use tradebot_symbols::cli::{self, Cli};

/// A task takes a third less time than with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Includes help and version. If the output is closed, there is nowhere to report that.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { cli::EXIT_USAGE } else { 0 });
        }
    };
    let ended = cli::run(cli);
    telemetry::finish();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            #[expect(
                clippy::print_stderr,
                reason = "the program may fail before it has a log output"
            )]
            {
                eprintln!("tradebot-symbols: {error:#}");
            }
            ExitCode::from(cli::exit_code(&error))
        }
    }
}
