//! Logs: one line per event on standard error, for people or as JSON.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{LevelFilter, ParseError};

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

/// Installs the process's log output at `level` (`info`, `debug`, …; Celery's names in any case are known).
/// A second call has no effect. Traces, where they are wanted, are of the service `tradebot-symbols`.
///
/// # Errors
/// When `level` is no level and no `tracing` filter expression.
pub fn init(level: &str, format: LogFormat) -> Result<(), ParseError> {
    init_as("tradebot-symbols", level, format)
}

/// As [`init`], with traces of another service.
///
/// # Errors
/// When `level` is no level and no `tracing` filter expression.
#[cfg_attr(
    not(feature = "otel"),
    expect(unused_variables, reason = "only traces name their service")
)]
pub fn init_as(service: &'static str, level: &str, format: LogFormat) -> Result<(), ParseError> {
    let filter = EnvFilter::try_new(filter_of(level))?;
    #[cfg(feature = "otel")]
    if let Some(provider) = otel::provider(service) {
        otel::init(filter, format, provider);
        return Ok(());
    }
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

/// Sends what is left of traces. The last thing that a process does.
pub fn finish() {
    #[cfg(feature = "otel")]
    otel::finish();
}

#[cfg(feature = "otel")]
mod otel {
    //! Spans to an OpenTelemetry collector, with OTLP over HTTP. Configured by OpenTelemetry's own variables.

    use std::env;
    use std::io::IsTerminal;
    use std::sync::OnceLock;
    use std::time::Duration;

    use opentelemetry::global;
    use opentelemetry::trace::TracerProvider;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::propagation::TraceContextPropagator;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing::Metadata;
    use tracing_subscriber::filter::{FilterExt, filter_fn};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;
    use tracing_subscriber::{EnvFilter, Layer, fmt};

    use super::LogFormat;
    use crate::core::trace;

    /// How long a stop waits for the collector.
    const LAST_WORDS: Duration = Duration::from_secs(2);

    static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

    /// `None` unless a collector is named.
    pub(super) fn provider(service: &'static str) -> Option<SdkTracerProvider> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the exporter reads OpenTelemetry's variables itself, and this is before any configuration"
        )]
        let named = |variable| env::var(variable).is_ok_and(|value| !value.is_empty());
        if !named("OTEL_EXPORTER_OTLP_ENDPOINT") && !named("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
            return None;
        }
        // TLS to the collector needs a provider before the first client is built.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = opentelemetry_otlp::SpanExporter::builder().with_http().build();
        let exporter = match exporter {
            Ok(exporter) => exporter,
            Err(error) => {
                // There is no log output yet.
                #[expect(clippy::print_stderr, reason = "log output is what is being set up")]
                {
                    eprintln!("no traces: OTEL_EXPORTER_OTLP_ENDPOINT cannot be used: {error}");
                }
                return None;
            }
        };
        let mut resource = Resource::builder();
        if !named("OTEL_SERVICE_NAME") {
            resource = resource.with_service_name(service);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        global::set_text_map_propagator(TraceContextPropagator::new());
        Some(PROVIDER.get_or_init(|| provider).clone())
    }

    /// Log output as without traces, and the spans to the collector.
    pub(super) fn init(filter: EnvFilter, format: LogFormat, provider: SdkTracerProvider) {
        let is_span_of_ours = |about: &Metadata<'_>| about.is_span() && about.target() == trace::TARGET;
        let lines = filter.and(filter_fn(move |about| !is_span_of_ours(about)));
        let logs = fmt::layer()
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr);
        let logs = match format {
            LogFormat::Human => logs.with_target(false).boxed(),
            LogFormat::Json => logs.json().flatten_event(true).boxed(),
        };
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("tradebot-symbols"))
            .with_location(false)
            .with_threads(false);
        // Fails only if a subscriber is installed already, in which case that one goes on.
        let _ = tracing_subscriber::registry()
            .with(logs.with_filter(lines))
            .with(spans.with_filter(filter_fn(is_span_of_ours)))
            .try_init();
        trace::turn_on();
    }

    pub(super) fn finish() {
        if let Some(provider) = PROVIDER.get()
            && let Err(error) = provider.shutdown_with_timeout(LAST_WORDS)
        {
            tracing::warn!(%error, "the last traces did not reach the collector");
        }
    }
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
            assert!(understands(level), "{level}");
        }
        for mistake in ["loud", "info,loud", "info=loud", "in fo"] {
            assert!(!understands(mistake), "{mistake}");
        }
    }
}
