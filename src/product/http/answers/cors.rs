//! CORS, as the Python backend does it: Starlette's `CORSMiddleware` with any origin or one, credentials, all methods
//! and headers, and `Content-Disposition` exposed.
//!
//! Two differences: the request's origin always takes the place of `*`, which browsers reject for requests with
//! credentials, and the headers that describe a list are exposed as well.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode};

use crate::product::http::server::HttpResponse;

/// The headers that scripts can read beyond those of the Fetch standard.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Content-Disposition, Age, Allow, Cache-Status, Date, ETag, Retry-After, X-Symbols-Network",
);
const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// The origins whose scripts may read responses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AllowedOrigins {
    /// Any origin.
    Any,
    /// Only this one, the front end.
    Only(HeaderValue),
}

impl AllowedOrigins {
    fn allow(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Only(allowed) => allowed == origin,
        }
    }

    /// The response to a preflight request; `None` for any other request.
    pub(crate) fn preflight<B>(&self, request: &Request<B>) -> Option<HttpResponse> {
        let request_headers = request.headers();
        let origin = request_headers.get(ORIGIN)?;
        let method = request_headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if request.method() != Method::OPTIONS {
            return None;
        }
        let mut failures = Vec::new();
        let mut response = Response::new(Full::new(Bytes::new()));
        let headers = response.headers_mut();
        headers.insert(VARY, HeaderValue::from_static("Origin"));
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if self.allow(origin) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        } else {
            failures.push("origin");
        }
        if !METHODS.iter().any(|known| method == known) {
            failures.push("method");
        }
        if let Some(wanted) = request_headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        let text = if failures.is_empty() {
            "OK".to_owned()
        } else {
            *response.status_mut() = StatusCode::BAD_REQUEST;
            format!("Disallowed CORS {}", failures.join(", "))
        };
        *response.body_mut() = Full::new(text.into());
        Some(response)
    }

    /// Adds the headers that let the request's origin read the response.
    pub(crate) fn admit(&self, request: &HeaderMap, response: &mut HeaderMap) {
        let Some(origin) = request.get(ORIGIN) else { return };
        response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if !self.allow(origin) {
            return;
        }
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        let vary = response.get(VARY).and_then(|vary| vary.to_str().ok());
        let vary = match vary {
            // Our own values: only they come here.
            Some(vary) if vary.ends_with("Origin") => return,
            Some(vary) => HeaderValue::from_str(&format!("{vary}, Origin")).ok(),
            None => None,
        };
        response.insert(VARY, vary.unwrap_or_else(|| HeaderValue::from_static("Origin")));
    }
}
