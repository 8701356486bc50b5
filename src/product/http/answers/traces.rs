//! A span for each request while an exporter runs: a child of the client's span, if the request names one.

use hyper::{Method, Request, StatusCode};
use tracing::field::Empty;
use tracing::{Instrument, Span, info_span};

use super::routes::Route;
use crate::product::http::server::Handled;
use tradebot_base::trace;

/// Answers a request within a span that follows OpenTelemetry's semantic conventions. The span has no status if the
/// client leaves or the request times out.
pub(crate) fn traced(request: Request<()>, respond: impl FnOnce(Request<()>) -> Handled) -> Handled {
    if !trace::is_on() {
        return respond(request);
    }
    let span = span(&request);
    match span.in_scope(|| respond(request)) {
        Handled::Ready(response) => {
            end(&span, response.status());
            Handled::Ready(response)
        }
        Handled::Pending(making) => Handled::Pending(Box::pin(async move {
            let response = making.instrument(span.clone()).await;
            end(&span, response.status());
            response
        })),
    }
}

fn span(request: &Request<()>) -> Span {
    let method = method(request.method());
    let route = Route::of(request.uri().path()).map(|route| route.template());
    let span = info_span!(
        target: trace::TARGET,
        "http",
        otel.name = route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}")),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
        url.scheme = "http",
        url.path = request.uri().path(),
    );
    trace::extract(&span, &|name| request.headers().get(name)?.to_str().ok());
    span
}

fn end(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// Only the methods the conventions name, because clients can invent any number of others.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}
