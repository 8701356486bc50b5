//! The responses of the two list routes.
//!
//! The body is made once for each list. The headers that change with time (`Date`, `Age` and the remaining lifetime)
//! change once a second, so the header block is made once a second and copied for each request.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::negotiation::{AcceptEncoding, Conditions, ContentCoding};
use super::representation::{Packer, Representation};
use super::responses::{CACHE_STATUS, JSON, VARY_BY, error_detail};
use crate::product::http::server::HttpResponse;
use crate::product::symbols::cache::{FetchedBy, ListNetwork};
use crate::product::symbols::list::SymbolList;
use crate::product::symbols::reads::{Level, Reading};

const NETWORK: HeaderName = HeaderName::from_static("x-symbols-network");
/// The name of this cache in `Cache-Status`.
const CACHE: &str = "tradebot-symbols";

/// How long other caches may use a list past its lifetime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Staleness {
    /// While they fetch a new list (`stale-while-revalidate`).
    pub while_revalidate: Duration,
    /// While they cannot fetch one (`stale-if-error`).
    pub if_error: Duration,
}

/// The list responses of one market.
pub(crate) struct ListResponses {
    staleness: Staleness,
    packer: Packer,
    prepared: ArcSwapOption<PreparedList>,
    /// The body made last. Locked while the next one is made.
    latest: Mutex<Weak<Representation>>,
}

/// A list with the headers of this second.
struct PreparedList {
    list: Arc<SymbolList>,
    freshness: Freshness,
    body: Arc<Representation>,
    /// For each coding, the headers of a 200 and of a 304.
    headers: [(HeaderMap, HeaderMap); 4],
}

/// The parts of a reading that the headers show, besides the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Freshness {
    level: Level,
    age: Option<u64>,
    ttl: Option<i64>,
    at: i64,
}

impl Freshness {
    fn of(reading: &Reading) -> Self {
        Self {
            level: reading.level,
            age: reading.age.map(|age| age.as_secs()),
            ttl: reading.ttl,
            at: reading.at,
        }
    }
}

impl ListResponses {
    pub(crate) fn new(staleness: Staleness, packer: Packer) -> Self {
        Self {
            staleness,
            packer,
            prepared: ArcSwapOption::empty(),
            latest: Mutex::default(),
        }
    }

    /// The response to a `GET` of a body made from the list.
    pub(crate) fn respond_with(
        &self,
        reading: &Reading,
        body: Arc<Representation>,
        request: &HeaderMap,
    ) -> HttpResponse {
        PreparedList::new(reading, Freshness::of(reading), body, self.staleness).respond(request)
    }

    /// The response to a `GET` of the list.
    pub(crate) fn respond(&self, reading: &Reading, request: &HeaderMap) -> HttpResponse {
        let freshness = Freshness::of(reading);
        let prepared = self.prepared.load();
        if let Some(prepared) = prepared.as_deref()
            && prepared.freshness == freshness
            && Arc::ptr_eq(&prepared.list, &reading.list)
        {
            return prepared.respond(request);
        }
        // Several threads may get here in the same second. The last one's headers stay.
        let body = match prepared.as_deref() {
            Some(prepared) if Arc::ptr_eq(&prepared.list, &reading.list) => Arc::clone(&prepared.body),
            _ => self.body_of(reading.list.json()),
        };
        let prepared = Arc::new(PreparedList::new(reading, freshness, body, self.staleness));
        let response = prepared.respond(request);
        self.prepared.store(Some(prepared));
        response
    }

    /// The body for a text, made once for all threads. A refresh that brings the same text keeps the body.
    fn body_of(&self, json: &Bytes) -> Arc<Representation> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(body) = latest.upgrade().filter(|body| body.plain() == json) {
            return body;
        }
        let body = Arc::new(Representation::new(json.clone()));
        self.packer.pack_next(&body);
        *latest = Arc::downgrade(&body);
        body
    }
}

impl PreparedList {
    fn new(reading: &Reading, freshness: Freshness, body: Arc<Representation>, staleness: Staleness) -> Self {
        let headers = ContentCoding::ALL.map(|coding| {
            let mut unchanged = HeaderMap::with_capacity(16);
            unchanged.insert(header::ETAG, body.tag(coding).clone());
            unchanged.insert(header::VARY, VARY_BY);
            describe(&mut unchanged, reading, freshness, staleness);
            let mut full = unchanged.clone();
            // The client has these with the body (RFC 9110, 15.4.5).
            unchanged.remove(header::LAST_MODIFIED);
            unchanged.remove(NETWORK);
            full.insert(header::CONTENT_TYPE, JSON);
            full.insert(
                header::X_CONTENT_TYPE_OPTIONS,
                HeaderValue::from_static("nosniff"),
            );
            if let Some(token) = coding.token() {
                full.insert(header::CONTENT_ENCODING, HeaderValue::from_static(token));
            }
            (full, unchanged)
        });
        Self {
            list: Arc::clone(&reading.list),
            freshness,
            body,
            headers,
        }
    }

    fn respond(&self, request: &HeaderMap) -> HttpResponse {
        let accepted = AcceptEncoding::of(request);
        // A client that refuses even identity gets it anyway, as RFC 9110 (12.5.3) allows.
        let made = accepted.choose(|coding| self.body.body(coding).is_some());
        let coding = made.unwrap_or(ContentCoding::Identity);
        if is_conditional(request) {
            let modified = self.list.fetched_at().and_then(nameable);
            // A tag is known before its bytes are made.
            let wanted = accepted.choose(|_| true).unwrap_or(ContentCoding::Identity);
            let tags = [self.body.tag(wanted), self.body.tag(coding)];
            match Conditions::of(request, &tags, modified) {
                Conditions::Hold => {}
                Conditions::NotModified => {
                    let has_wanted = Conditions::of(request, &tags[..1], modified) == Conditions::NotModified;
                    let coding = if has_wanted { wanted } else { coding };
                    let mut response = Response::new(Full::new(Bytes::new()));
                    *response.status_mut() = StatusCode::NOT_MODIFIED;
                    *response.headers_mut() = self.headers[coding as usize].1.clone();
                    return response;
                }
                Conditions::Failed => {
                    return error_detail(StatusCode::PRECONDITION_FAILED, "Precondition Failed");
                }
            }
        }
        let body = self.body.body(coding).unwrap_or(self.body.plain());
        let mut response = Response::new(Full::new(body.clone()));
        *response.headers_mut() = self.headers[coding as usize].0.clone();
        response
    }
}

/// Adds the headers that describe the age and the source of a list.
fn describe(headers: &mut HeaderMap, reading: &Reading, freshness: Freshness, staleness: Staleness) {
    let mut put = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    };
    let age = freshness.age.unwrap_or(0);
    let control = match freshness.ttl {
        // A list without a lifetime has no max-age: caches revalidate each time and get a 304.
        None => "public, no-cache".to_owned(),
        Some(ttl) => {
            let lifetime = i64::try_from(age).unwrap_or(i64::MAX).saturating_add(ttl).max(0);
            format!(
                "public, max-age={lifetime}, stale-while-revalidate={}, stale-if-error={}",
                staleness.while_revalidate.as_secs(),
                staleness.if_error.as_secs()
            )
        }
    };
    put(header::CACHE_CONTROL, control);
    if let Some(age) = freshness.age {
        put(header::AGE, age.to_string());
    }
    put(CACHE_STATUS, cache_status(freshness));
    if let Some(at) = http_date(freshness.at) {
        put(header::DATE, at);
    }
    if let Some(at) = reading.list.fetched_at().and_then(http_date) {
        put(header::LAST_MODIFIED, at);
    }
    // Of another program's list, the network is not known.
    let source = reading.list.source();
    if let Some(source) = source.filter(|source| source.by != Some(FetchedBy::Other)) {
        let network = match source.network {
            ListNetwork::Mainnet => "mainnet",
            ListNetwork::Testnet => "testnet",
            ListNetwork::Sandbox => "sandbox",
        };
        put(NETWORK, network.to_owned());
    }
}

/// Whether a request has any condition (RFC 9110, 13.1).
fn is_conditional(request: &HeaderMap) -> bool {
    let conditions = [
        header::IF_NONE_MATCH,
        header::IF_MODIFIED_SINCE,
        header::IF_MATCH,
        header::IF_UNMODIFIED_SINCE,
    ];
    conditions.iter().any(|name| request.contains_key(name))
}

/// Unix seconds as a time that an HTTP date can name.
fn nameable(at: i64) -> Option<SystemTime> {
    // An HTTP date has four digits for the year.
    const YEAR_10000: u64 = 253_402_300_800;
    let at = u64::try_from(at).ok().filter(|at| *at < YEAR_10000)?;
    Some(UNIX_EPOCH + Duration::from_secs(at))
}

/// Unix seconds as an HTTP date.
fn http_date(at: i64) -> Option<String> {
    nameable(at).map(httpdate::fmt_http_date)
}

/// `Cache-Status` (RFC 9211) of a response with a list.
fn cache_status(freshness: Freshness) -> String {
    let ttl = freshness.ttl.map_or(String::new(), |ttl| format!("; ttl={ttl}"));
    match freshness.level {
        Level::Memory => format!("{CACHE}; hit{ttl}; detail=memory"),
        Level::Redis => format!("{CACHE}; hit{ttl}; detail=redis"),
        Level::LastGood => format!("{CACHE}; hit{ttl}; detail=last-good"),
        Level::Kept => format!("{CACHE}; hit{ttl}; detail=kept"),
        Level::Upstream => format!("{CACHE}; fwd=miss; fwd-status=200; stored{ttl}; detail=upstream"),
    }
}

/// `Cache-Status` of a response without a list, `paused` if the exchange bans or refuses us.
pub(crate) fn no_list(paused: bool) -> HeaderValue {
    HeaderValue::from_static(if paused {
        "tradebot-symbols; fwd=miss; detail=exchange-paused"
    } else {
        "tradebot-symbols; fwd=miss; detail=unavailable"
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const THREADS: usize = 8;

    /// A list of usual length.
    fn a_reading(letter: char) -> Reading {
        let entry = |number| {
            format!(
                r#"{{"symbol":"{letter}{number}","baseAsset":"{letter}","quoteAsset":"USDT","status":"TRADING"}}"#
            )
        };
        let entries: Vec<String> = (0..400).map(entry).collect();
        let list = SymbolList::read(format!("[{}]", entries.join(",")), Some(1), None).expect("a list");
        Reading {
            list: Arc::new(list),
            level: Level::Memory,
            age: None,
            ttl: Some(300),
            stale: false,
            at: 1,
        }
    }

    #[test]
    fn a_new_list_is_made_into_a_body_once_however_many_threads_want_it() {
        let staleness = Staleness {
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
        };
        let answers = ListResponses::new(staleness, Packer::default());
        for letter in ['A', 'B', 'C'] {
            let reading = a_reading(letter);
            let barrier = Barrier::new(THREADS);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        let response = answers.respond(&reading, &HeaderMap::new());
                        let body = response.into_body().into_inner().expect("a body");
                        assert_eq!(body, reading.list.json());
                    });
                }
            });
        }
    }
}
