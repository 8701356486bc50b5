//! Small responses made for one request, and errors in the form of the Python backend.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::product::http::server::HttpResponse;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// Responses differ with `Origin`, so caches must keep them apart.
pub(crate) const VARY_BY: HeaderValue = HeaderValue::from_static("Accept-Encoding, Origin");

/// A 200 that no cache may store.
pub(crate) fn uncached(content_type: HeaderValue, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = Response::new(Full::new(body.into()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// A JSON document that no cache may store.
pub(crate) fn json_document<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> HttpResponse {
    match serde_json::to_vec(value) {
        Ok(body) => with(status, uncached(JSON, body)),
        Err(_) => error_detail(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
    }
}

/// An error as FastAPI writes it: `{"detail":"…"}`.
pub(crate) fn error_detail(status: StatusCode, message: &str) -> HttpResponse {
    with(status, uncached(JSON, json!({"detail": message}).to_string()))
}

/// A temporary error, with the seconds after which to retry.
pub(crate) fn retry_later(status: StatusCode, message: &str, seconds: u64) -> HttpResponse {
    let mut response = error_detail(status, message);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

/// 405, with the allowed methods.
pub(crate) fn method_not_allowed(allowed: HeaderValue) -> HttpResponse {
    let mut response = error_detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// The response to an `OPTIONS` request that is no preflight.
pub(crate) fn allowed_methods(allowed: HeaderValue) -> HttpResponse {
    let mut response = with(StatusCode::NO_CONTENT, Response::new(Full::new(Bytes::new())));
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// Turns a response to `GET` into the one to `HEAD`: the length of the body without the body.
pub(crate) fn to_head(mut response: HttpResponse) -> HttpResponse {
    let length = hyper::body::Body::size_hint(response.body()).exact().unwrap_or(0);
    if response.status() != StatusCode::NOT_MODIFIED && response.status() != StatusCode::NO_CONTENT {
        let length = HeaderValue::from(length);
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    *response.body_mut() = Full::new(Bytes::new());
    response
}

fn with(status: StatusCode, mut response: HttpResponse) -> HttpResponse {
    *response.status_mut() = status;
    response
}
