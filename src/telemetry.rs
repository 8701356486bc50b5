//! Logs: one line per event on standard error, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// Installs the process's log output at `level` (`info`, `debug`, …; Celery's names in any case are known).
/// A second call has no effect.
///
/// # Errors
/// When `level` is no level and no `tracing` filter expression.
pub fn init(level: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter_of(level))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Fails only if a subscriber is installed already, in which case that one goes on.
    let _ = match format {
        LogFormat::Human => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Celery's level names in the words of `tracing`.
fn filter_of(level: &str) -> String {
    match level.to_ascii_lowercase().as_str() {
        "critical" | "fatal" => "error".into(),
        "warning" => "warn".into(),
        other => other.to_owned(),
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
            assert!(EnvFilter::try_new(filter_of(level)).is_ok(), "{level}");
        }
    }
}
