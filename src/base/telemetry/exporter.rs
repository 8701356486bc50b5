//! Spans to an OpenTelemetry collector, with OTLP over HTTP. Configured by OpenTelemetry's own variables.

use std::env;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::global::{self, get_text_map_propagator};
use opentelemetry::propagation::{Extractor, Injector};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithHttpConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

use crate::loopback::is_loopback;
use crate::trace::{self, ContextCarrier, ReadHeader, SetHeader};

/// How long a stop waits for the collector.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Exports spans to the collector; `None` if none is configured.
pub(super) fn layer<S>(service: &'static str) -> Option<impl Layer<S>>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let provider = provider(service)?;
    trace::turn_on(ContextCarrier {
        extract: adopt_context,
        inject: write_context,
    });
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("tradebot-symbols"))
        .with_location(false)
        .with_threads(false);
    Some(spans.with_filter(filter_fn(trace::is_span)))
}

fn provider(service: &'static str) -> Option<SdkTracerProvider> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the exporter reads OpenTelemetry's variables itself, and this is before any configuration"
    )]
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint =
        variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"))?;
    let timeout_ms =
        variable("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT").or_else(|| variable("OTEL_EXPORTER_OTLP_TIMEOUT"));
    // TLS to the collector needs a provider before the first client is built.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut exporter = opentelemetry_otlp::SpanExporter::builder().with_http();
    if Url::parse(&endpoint).is_ok_and(|url| is_loopback(&url))
        && let Some(client) = client_without_proxy(timeout_ms.and_then(|ms| ms.parse().ok()))
    {
        exporter = exporter.with_http_client(client);
    }
    let exporter = match exporter.build() {
        Ok(exporter) => exporter,
        Err(_) => {
            // There is no log output yet. The error may show the URL, and with it a password.
            #[expect(clippy::print_stderr, reason = "log output is what is being set up")]
            {
                eprintln!(
                    "no traces: the URL in OTEL_EXPORTER_OTLP_ENDPOINT cannot be used, expected `http://host:4318`"
                );
            }
            return None;
        }
    };
    let mut resource = Resource::builder();
    if variable("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service);
    }
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.build())
        .build();
    global::set_text_map_propagator(TraceContextPropagator::new());
    Some(PROVIDER.get_or_init(|| provider).clone())
}

/// The exporter's own client would ask a collector on this machine through `HTTP_PROXY`.
fn client_without_proxy(timeout_ms: Option<u64>) -> Option<reqwest::blocking::Client> {
    let timeout = timeout_ms.map_or(
        opentelemetry_otlp::OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT,
        Duration::from_millis,
    );
    let client = move || {
        reqwest::blocking::Client::builder()
            .no_proxy()
            .timeout(timeout)
            .build()
    };
    // It starts a runtime, which must not happen on a thread of ours.
    std::thread::spawn(client).join().ok()?.ok()
}

pub(super) fn finish() {
    if let Some(provider) = PROVIDER.get()
        && let Err(error) = provider.shutdown_with_timeout(SHUTDOWN_TIMEOUT)
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
        // The W3C propagator reads its headers by name.
        Vec::new()
    }
}

struct HeaderWriter<'a>(SetHeader<'a>);

impl Injector for HeaderWriter<'_> {
    fn set(&mut self, key: &str, value: String) {
        (self.0)(key, value);
    }
}
