//! Answers that are made for one request: small ones, and errors in the form of the existing system.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::site::Answer;

pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(super) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
pub(super) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
/// Requests are answered differently with and without `Origin`, and no cache may mix them up.
pub(super) const VARY_BY: HeaderValue = HeaderValue::from_static("Accept-Encoding, Origin");

/// A body that no cache keeps.
pub(super) fn fresh(content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}

/// A JSON document that no cache keeps.
pub(super) fn document<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => with(status, fresh(JSON, body)),
        Err(_) => detail(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error"),
    }
}

/// An error, as FastAPI writes it: `{"detail":"…"}`.
pub(super) fn detail(status: StatusCode, message: &str) -> Answer {
    with(status, fresh(JSON, json!({"detail": message}).to_string()))
}

/// An error that passes: it says in how many seconds another try makes sense.
pub(super) fn unavailable(status: StatusCode, message: &str, seconds: u64) -> Answer {
    let mut answer = detail(status, message);
    answer
        .headers_mut()
        .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

/// Method not allowed.
pub(super) fn not_allowed(allowed: HeaderValue) -> Answer {
    let mut answer = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    answer.headers_mut().insert(header::ALLOW, allowed);
    answer
}

/// The answer to `OPTIONS` that is no preflight.
pub(super) fn options(allowed: HeaderValue) -> Answer {
    let mut answer = with(StatusCode::NO_CONTENT, Response::new(Full::new(Bytes::new())));
    answer.headers_mut().insert(header::ALLOW, allowed);
    answer
}

/// The same answer for `HEAD`: with the length of the body, without the body.
pub(super) fn without_body(mut answer: Answer) -> Answer {
    let length = hyper::body::Body::size_hint(answer.body()).exact().unwrap_or(0);
    if answer.status() != StatusCode::NOT_MODIFIED && answer.status() != StatusCode::NO_CONTENT {
        let length = HeaderValue::from(length);
        answer.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    *answer.body_mut() = Full::new(Bytes::new());
    answer
}

fn with(status: StatusCode, mut answer: Answer) -> Answer {
    *answer.status_mut() = status;
    answer
}
