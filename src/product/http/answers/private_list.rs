//! The response with one user's private list.

use std::time::{Duration, UNIX_EPOCH};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::negotiation::ContentCoding;
use super::representation::Representation;
use super::responses::{CACHE_STATUS, JSON, error_detail, uncached};
use crate::product::credentials::outcome::PrivateList;
use crate::product::http::server::HttpResponse;
use tradebot_base::market::Network;
use tradebot_wire::python_json;

const NETWORK: HeaderName = HeaderName::from_static("x-symbols-network");

/// The token in `Authorization: Bearer TOKEN`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The response with a list of the user's network. Only the user's browser may store it, and it must revalidate.
pub(crate) fn response(list: &PrivateList) -> HttpResponse {
    let Ok(body) = python_json::to_string(&list.symbols) else {
        return error_detail(hyper::StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error");
    };
    let body = Representation::new(body.into());
    let mut response = uncached(JSON, body.plain().clone());
    let headers = response.headers_mut();
    // With a tag, a browser that revalidates gets the public list, even if both lists are of the same second.
    headers.insert(header::ETAG, body.tag(ContentCoding::Identity).clone());
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("private, no-cache"),
    );
    headers.insert(header::VARY, HeaderValue::from_static("Authorization, Origin"));
    headers.insert(
        CACHE_STATUS,
        HeaderValue::from_static("tradebot-symbols; fwd=miss; fwd-status=200; detail=own-key"),
    );
    let network = match (list.sandbox, list.network) {
        (true, _) => "sandbox",
        (_, Network::Mainnet) => "mainnet",
        (_, Network::Testnet) => "testnet",
    };
    headers.insert(NETWORK, HeaderValue::from_static(network));
    let fetched_at = u64::try_from(list.fetched_at).unwrap_or_default();
    let fetched_at = UNIX_EPOCH.checked_add(Duration::from_secs(fetched_at));
    let date = fetched_at.map(httpdate::fmt_http_date);
    if let Some(Ok(date)) = date.map(|date| HeaderValue::from_str(&date)) {
        headers.insert(header::LAST_MODIFIED, date);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_token_is_found_whatever_the_case_of_its_scheme() {
        let token = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(str::to_owned)
        };
        for value in ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c "] {
            assert_eq!(token(value).as_deref(), Some("a.b.c"), "{value}");
        }
        for value in ["a.b.c", "Basic a.b.c", "Bearer", ""] {
            assert_eq!(token(value), None, "{value}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }
}
