//! Logs: one line per event on standard error, for people or as JSON.

#[cfg(feature = "otel")]
mod exporter;

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::filter::{FilterExt, LevelFilter, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry};

use crate::config::Reader;
use crate::trace;

/// The format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a terminal.
    #[default]
    Human,
    /// One JSON object per line.
    Json,
}

/// The settings of the log output.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// Level or filter expression.
    pub level: String,
    /// Format of the lines.
    pub format: LogFormat,
}

impl LogConfig {
    /// Reads the section. `level`, the command line's `--loglevel`, replaces `LOG_LEVEL`.
    pub fn read(reader: &mut Reader<'_>, level: Option<&str>) -> Self {
        let (name, level) = match level {
            Some(level) => ("--loglevel", level.to_owned()),
            None => ("LOG_LEVEL", reader.text("LOG_LEVEL")),
        };
        if !understands(&level) {
            reader.complain(name, &level, LEVELS);
        }
        let format = match reader.text("LOG_FORMAT").to_ascii_lowercase().as_str() {
            "json" => LogFormat::Json,
            "human" => LogFormat::Human,
            other => {
                reader.complain("LOG_FORMAT", other, "`human` or `json`");
                LogFormat::Human
            }
        };
        Self { level, format }
    }
}

/// The valid levels, for error messages.
pub const LEVELS: &str = "debug, info, warning, error, or a filter expression";

/// Whether `level` is a level or a filter expression. Any other single word is a typing error: as a filter it would select
/// the module of that name and silence everything else.
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
    // Spans for traces are the exporter's alone.
    let filter = EnvFilter::try_new(filter_of(&logs.level))?.and(filter_fn(|about| !trace::is_span(about)));
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match logs.format {
        LogFormat::Human => lines.with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = registry().with(lines.with_filter(filter));
    #[cfg(feature = "otel")]
    let subscriber = subscriber.with(exporter::layer(service));
    // Fails only if a subscriber is installed already; that one stays.
    let _ = subscriber.try_init();
    Ok(())
}

/// Sends the remaining traces. Call it last.
pub fn finish() {
    #[cfg(feature = "otel")]
    exporter::finish();
}

/// Translates Celery's level names. `tradebot_symbols=LEVEL` sets the level of every crate of the worker.
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
