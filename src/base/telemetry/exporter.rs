//! Spans to an OpenTelemetry collector, with OTLP over HTTP. Configured by OpenTelemetry's own variables.

use std::env;
use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::global::{self, get_text_map_propagator};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Metadata, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::LogFormat;
use crate::trace::{self, ContextCarrier, ReadHeader, SetHeader};

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
    trace::turn_on(ContextCarrier {
        extract: adopt_context,
        inject: write_context,
    });
}

pub(super) fn finish() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(LAST_WORDS)
    {
        tracing::warn!(%error, "the last traces did not reach the collector");
    }
}

fn adopt_context(span: &Span, read: ReadHeader<'_>) {
    let parent = get_text_map_propagator(|propagator| propagator.extract(&HeaderReader(read)));
    // Refused only where no exporter is installed.
    let _ = span.set_parent(parent);
}

fn write_context(span: &Span, set: SetHeader<'_>) {
    let context = span.context();
    get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut HeaderWriter(set)));
}

struct HeaderReader<'a>(ReadHeader<'a>);

impl Extractor for HeaderReader<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (self.0)(key)
    }

    fn keys(&self) -> Vec<&str> {
        // The W3C propagator asks for its headers by name.
        Vec::new()
    }
}

struct HeaderWriter<'a>(SetHeader<'a>);

impl Injector for HeaderWriter<'_> {
    fn set(&mut self, key: &str, value: String) {
        (self.0)(key, value);
    }
}
