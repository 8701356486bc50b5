//! Spans for distributed tracing, in OpenTelemetry's words.
//!
//! Spans are ordinary `tracing` spans with the target [`TARGET`]. They exist only while an exporter runs, which needs the
//! feature `otel` and a collector's address (see [`telemetry`](crate::telemetry)); without one, each function here reads
//! one flag. The exporter also registers how a span's W3C context is read from and written to a message's headers.

use std::fmt::Display;
use std::sync::OnceLock;

use tracing::field::Empty;
use tracing::{Instrument, Metadata, Span, info_span};

/// The target of all spans. Logs exclude it; the exporter exports nothing else.
pub const TARGET: &str = "tradebot_symbols::trace";

/// Whether this describes one of our spans.
pub(crate) fn is_span(about: &Metadata<'_>) -> bool {
    about.is_span() && about.target() == TARGET
}

/// Reads a header by its name.
pub type ReadHeader<'a> = &'a dyn Fn(&str) -> Option<&'a str>;
/// Sets a header.
pub type SetHeader<'a> = &'a mut dyn FnMut(&str, String);

/// How the exporter moves a span's context in and out of headers (`traceparent`, `tracestate`).
#[derive(Debug)]
pub struct ContextCarrier {
    /// Makes the span a child of the context in the headers.
    pub extract: fn(&Span, ReadHeader<'_>),
    /// Writes the span's context into headers.
    pub inject: fn(&Span, SetHeader<'_>),
}

static CARRIER: OnceLock<ContextCarrier> = OnceLock::new();

/// Turns spans on. The exporter calls it once; later calls change nothing.
pub fn turn_on(carrier: ContextCarrier) {
    let _ = CARRIER.set(carrier);
}

/// Whether an exporter takes spans.
#[must_use]
pub fn is_on() -> bool {
    CARRIER.get().is_some()
}

/// The span that `make` builds, or a disabled one if no exporter takes spans.
pub fn span(make: impl FnOnce() -> Span) -> Span {
    if is_on() { make() } else { Span::none() }
}

/// Makes `span` a child of the context in the headers that `read` returns.
pub fn extract(span: &Span, read: ReadHeader<'_>) {
    if let Some(carrier) = CARRIER.get()
        && !span.is_disabled()
    {
        (carrier.extract)(span, read);
    }
}

/// Writes the context of `span` into headers. A disabled span writes nothing.
pub fn inject(span: &Span, set: SetHeader<'_>) {
    if let Some(carrier) = CARRIER.get()
        && !span.is_disabled()
    {
        (carrier.inject)(span, set);
    }
}

/// Marks a span as failed.
pub fn record_error(span: &Span, description: &str) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", description);
}

/// Runs a GET request to another host within a span. The context is not sent, because the host is not ours.
///
/// # Errors
/// Those of `call`.
pub async fn client_call<T, E: Display>(
    address: &str,
    path: &str,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let span = span(|| {
        info_span!(
            target: TARGET,
            "GET",
            otel.name = format!("GET {path}"),
            otel.kind = "client",
            otel.status_code = Empty,
            otel.status_description = Empty,
            http.request.method = "GET",
            server.address = address,
            url.path = path,
        )
    });
    let answered = call.instrument(span.clone()).await;
    if let Err(error) = &answered
        && !span.is_disabled()
    {
        record_error(&span, &error.to_string());
    }
    answered
}

/// Runs a Redis call within a span. `operation` names the command or the script.
pub fn redis_call<F: Future>(operation: &'static str, call: F) -> impl Future<Output = F::Output> + use<F> {
    let span = span(|| {
        info_span!(
            target: TARGET,
            "redis",
            otel.name = operation,
            otel.kind = "client",
            db.system.name = "redis",
            db.operation.name = operation,
        )
    });
    call.instrument(span)
}

/// Runs a future in the current span, even on another task.
pub fn follow<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
    future.instrument(span(Span::current))
}
