//! A span for each request, if there is an exporter: a child of the client's, if that has one.

use hyper::Request;

use super::site::Reply;

/// Makes the answer to a request within a span of its own. Without the feature `otel` that is all it does.
#[cfg(not(feature = "otel"))]
pub(super) fn traced<L>(request: Request<()>, respond: impl FnOnce(Request<()>) -> Reply<L>) -> Reply<L> {
    respond(request)
}

#[cfg(feature = "otel")]
pub(super) use on::traced;

#[cfg(feature = "otel")]
mod on {
    use hyper::header::HeaderMap;
    use hyper::{Method, StatusCode};
    use opentelemetry::global::get_text_map_propagator;
    use opentelemetry::propagation::Extractor;
    use tracing::field::Empty;
    use tracing::{Instrument, Span, info_span};
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use super::{Reply, Request};
    use crate::core::trace;
    use crate::market::Market;
    use crate::product::http::routes::Route;

    /// Makes the answer to a request within a span of its own, named and described by the semantic conventions. A
    /// request whose client leaves, or that takes too long, has a span without a status.
    pub(in super::super) fn traced<L>(
        request: Request<()>,
        respond: impl FnOnce(Request<()>) -> Reply<L>,
    ) -> Reply<L> {
        if !trace::is_on() {
            return respond(request);
        }
        let span = span(&request);
        match span.in_scope(|| respond(request)) {
            // An answer that is given again would have no span.
            Reply::Now(answer) | Reply::Lasting(answer, _) => {
                end(&span, answer.status());
                Reply::Now(answer)
            }
            Reply::Later(making) => Reply::Later(Box::pin(async move {
                let answer = making.instrument(span.clone()).await;
                end(&span, answer.status());
                answer
            })),
        }
    }

    fn span(request: &Request<()>) -> Span {
        let method = method(request.method());
        let route = Route::of(request.uri().path()).map(|route| template(&route));
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
        let headers = Headers(request.headers());
        let parent = get_text_map_propagator(|propagator| propagator.extract(&headers));
        // Refused only where no exporter is installed.
        let _ = span.set_parent(parent);
        span
    }

    fn end(span: &Span, status: StatusCode) {
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("otel.status_code", "ERROR");
        }
    }

    /// The methods that the conventions name; a client may invent any number of others.
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

    fn template(route: &Route<'_>) -> &'static str {
        match route {
            Route::List(Market::Spot) => "/api/v1/symbols/spot",
            Route::List(Market::Futures) => "/api/v1/symbols/futures",
            Route::Symbol(Market::Spot, _) => "/api/v1/symbols/spot/{symbol}",
            Route::Symbol(Market::Futures, _) => "/api/v1/symbols/futures/{symbol}",
            Route::Changes => "/api/v1/symbols/changes",
            Route::Health => "/health",
            Route::Live => "/livez",
            Route::Ready => "/readyz",
            Route::Metrics => "/metrics",
            Route::OpenApi => "/openapi.json",
            Route::Page => "/",
        }
    }

    struct Headers<'a>(&'a HeaderMap);

    impl Extractor for Headers<'_> {
        fn get(&self, key: &str) -> Option<&str> {
            self.0.get(key)?.to_str().ok()
        }

        fn keys(&self) -> Vec<&str> {
            // Asked for by no propagator that is used here.
            Vec::new()
        }
    }
}
