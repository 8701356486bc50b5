//! Cross-origin requests, answered as the existing system's middleware does (Starlette's `CORSMiddleware` with any
//! origin or one, credentials, all methods, all headers, and `Content-Disposition` exposed).

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, CONTENT_TYPE, COOKIE, HeaderMap,
    HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, Response, StatusCode};

use super::site::Answer;

const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// Which origins may read answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All.
    Any,
    /// The front end's.
    Only(HeaderValue),
}

impl Origins {
    fn allow(&self, origin: &HeaderValue) -> bool {
        match self {
            Self::Any => true,
            Self::Only(allowed) => allowed == origin,
        }
    }

    /// The answer to a preflight, if the request is one.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Option<Answer> {
        let headers = request.headers();
        let origin = headers.get(ORIGIN)?;
        let method = headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        if request.method() != Method::OPTIONS {
            return None;
        }
        let mut failures = Vec::new();
        let mut response = Response::new(Full::new(Bytes::new()));
        let answer = response.headers_mut();
        answer.insert(VARY, HeaderValue::from_static("Origin"));
        answer.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"),
        );
        answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        answer.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        if self.allow(origin) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        } else {
            failures.push("origin");
        }
        if !METHODS.iter().any(|known| method == known) {
            failures.push("method");
        }
        if let Some(wanted) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
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

    /// Adds to `answer` what lets the request's origin read it.
    pub(super) fn admit(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        let Some(origin) = request.get(ORIGIN) else { return };
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        answer.insert(
            ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("Content-Disposition"),
        );
        let named = match self {
            // A browser takes no `*` for an answer to a request with credentials.
            Self::Any if request.contains_key(COOKIE) => true,
            Self::Any => {
                answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
                false
            }
            Self::Only(_) => self.allow(origin),
        };
        if named {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let vary = match answer.get(VARY).and_then(|vary| vary.to_str().ok()) {
                Some(vary) => HeaderValue::from_str(&format!("{vary}, Origin")).ok(),
                None => None,
            };
            answer.insert(VARY, vary.unwrap_or_else(|| HeaderValue::from_static("Origin")));
        }
    }
}
