//! Logs: one line per event on standard error, for people or as JSON.

#[cfg(feature = "otel")]
mod exporter;

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

use crate::config::LogConfig;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// What a level may be, for messages about one that is not.
pub const LEVELS: &str = "debug, info, warning, error, or a filter expression";

/// Whether `level` is a level or a filter expression. A lone word that is no level would be read as a filter
/// for the module of that name, and silence everything else: it is a typing error.
#[must_use]
pub fn understands(level: &str) -> bool {
    let filter = filter_of(level);
    let is_clear = |part: &str| part.contains('=') || LevelFilter::from_str(part.trim()).is_ok();
    filter.split(',').all(is_clear) && EnvFilter::try_new(&filter).is_ok()
}

/// Starts the process's log output, and with a collector configured its traces as those of `service`. A second call has
/// no effect.
///
/// # Errors
/// When the level is neither a level nor a `tracing` filter expression.
#[cfg_attr(
    not(feature = "otel"),
    expect(unused_variables, reason = "only traces name their service")
)]
pub fn init(service: &'static str, logs: &LogConfig) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter_of(&logs.level))?;
    #[cfg(feature = "otel")]
    if let Some(provider) = exporter::provider(service) {
        exporter::init(filter, logs.format, provider);
        return Ok(());
    }
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only if a subscriber is installed already, in which case that one goes on.
    let _ = match logs.format {
        LogFormat::Human => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Sends what is left of traces. The last thing that a process does.
pub fn finish() {
    #[cfg(feature = "otel")]
    exporter::finish();
}

/// Celery's level names in the words of `tracing`. `tradebot_symbols=LEVEL` sets the level of every crate of the worker.
fn filter_of(level: &str) -> String {
    let level = level.to_ascii_lowercase();
    match level.as_str() {
        "critical" | "fatal" => "error".into(),
        "warning" => "warn".into(),
        filter => {
            let directives = filter.split(',').map(|directive| {
                let Some(level) = directive.trim().strip_prefix("tradebot_symbols=") else {
                    return directive.to_owned();
                };
                let crates = ["symbols", "core", "base", "wire"];
                crates.map(|name| format!("tradebot_{name}={level}")).join(",")
            });
            directives.collect::<Vec<_>>().join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn celerys_levels_are_understood() {
        for level in [
            "DEBUG",
            "INFO",
            "WARNING",
            "ERROR",
            "CRITICAL",
            "FATAL",
            "info,redis=warn",
        ] {
            assert!(understands(level), "{level}");
        }
        assert_eq!(
            filter_of("info,tradebot_symbols=debug"),
            "info,tradebot_symbols=debug,tradebot_core=debug,tradebot_base=debug,tradebot_wire=debug"
        );
        for mistake in ["loud", "info,loud", "info=loud", "in fo"] {
            assert!(!understands(mistake), "{mistake}");
        }
    }
}
