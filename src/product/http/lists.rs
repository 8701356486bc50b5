//! The answers of the two list routes, headers and all, as they are sent for one second.
//!
//! What of them changes with time (`Date`, `Age`, and what is left of the lifetime) changes once a second, so these are
//! made once a second and copied for each request; the body is made once for each list.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::runtime::Handle;

use super::answers::{CACHE_STATUS, JSON, VARY_BY};
use super::negotiation::{Coding, Wishes, none_match};
use super::representation::Representation;
use super::site::Answer;
use crate::product::symbols::cache::ListNetwork;
use crate::product::symbols::list::SymbolList;
use crate::product::symbols::reads::{Level, Reading};

const NETWORK: HeaderName = HeaderName::from_static("x-symbols-network");
/// The name of this cache in `Cache-Status`.
const CACHE: &str = "tradebot-symbols";

/// How long other caches may go on with a list past its lifetime.
#[derive(Debug, Clone, Copy)]
pub struct Staleness {
    /// While they fetch a new one (`stale-while-revalidate`).
    pub while_revalidate: Duration,
    /// While they cannot (`stale-if-error`).
    pub if_error: Duration,
}

/// The answers of one market.
pub(super) struct ListAnswers {
    staleness: Staleness,
    runtime: Handle,
    shown: ArcSwapOption<Shown>,
    /// What was made last. Locked by whoever makes the next.
    latest: Mutex<Weak<Representation>>,
}

/// A reading with everything that is sent for it.
struct Shown {
    list: Arc<SymbolList>,
    moment: Moment,
    body: Arc<Representation>,
    /// For each coding, with a body and without (304).
    headers: [(HeaderMap, HeaderMap); 4],
}

/// What of a reading is visible in the headers besides the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    level: Level,
    age: Option<u64>,
    ttl: Option<i64>,
    at: i64,
}

impl Moment {
    fn of(reading: &Reading) -> Self {
        Self {
            level: reading.level,
            age: reading.age.map(|age| age.as_secs()),
            ttl: reading.ttl,
            at: reading.at,
        }
    }
}

impl ListAnswers {
    pub(super) fn new(staleness: Staleness, runtime: Handle) -> Self {
        Self {
            staleness,
            runtime,
            shown: ArcSwapOption::empty(),
            latest: Mutex::default(),
        }
    }

    /// The answer to a `GET` of something that was made from the list.
    pub(super) fn answer_with(
        &self,
        reading: &Reading,
        body: Arc<Representation>,
        request: &HeaderMap,
    ) -> Answer {
        Shown::new(reading, Moment::of(reading), body, self.staleness).answer(request)
    }

    /// The answer to a `GET`.
    pub(super) fn answer(&self, reading: &Reading, request: &HeaderMap) -> Answer {
        let moment = Moment::of(reading);
        let shown = self.shown.load();
        if let Some(shown) = shown.as_deref()
            && shown.moment == moment
            && Arc::ptr_eq(&shown.list, &reading.list)
        {
            return shown.answer(request);
        }
        // Several threads may do this at the same time, once a second: the last one's headers stay.
        let body = match shown.as_deref() {
            Some(shown) if Arc::ptr_eq(&shown.list, &reading.list) => Arc::clone(&shown.body),
            _ => self.body_of(reading.list.json()),
        };
        let shown = Arc::new(Shown::new(reading, moment, body, self.staleness));
        let answer = shown.answer(request);
        self.shown.store(Some(shown));
        answer
    }

    /// The body for a text, made once however many threads want it. The same text under another time is the same body.
    fn body_of(&self, json: &Bytes) -> Arc<Representation> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(body) = latest.upgrade().filter(|body| body.plain() == json) {
            return body;
        }
        let body = Arc::new(Representation::new(json.clone()));
        body.pack_on(&self.runtime);
        *latest = Arc::downgrade(&body);
        body
    }
}

impl Shown {
    fn new(reading: &Reading, moment: Moment, body: Arc<Representation>, staleness: Staleness) -> Self {
        let headers = Coding::ALL.map(|coding| {
            let mut unchanged = HeaderMap::with_capacity(16);
            unchanged.insert(header::ETAG, body.tag(coding).clone());
            unchanged.insert(header::VARY, VARY_BY);
            describe(&mut unchanged, reading, moment, staleness);
            let mut full = unchanged.clone();
            // Who has the body has these, too (RFC 9110, 15.4.5).
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
            moment,
            body,
            headers,
        }
    }

    fn answer(&self, request: &HeaderMap) -> Answer {
        let wishes = Wishes::of(request);
        if request.contains_key(header::IF_NONE_MATCH) {
            // The tag is known before the bytes are.
            let coding = wishes.choose(|_| true).unwrap_or(Coding::Identity);
            let current = wishes
                .choose(|coding| self.body.body(coding).is_some())
                .unwrap_or(Coding::Identity);
            for coding in [coding, current] {
                if none_match(request, self.body.tag(coding)) {
                    let mut answer = Response::new(Full::new(Bytes::new()));
                    *answer.status_mut() = StatusCode::NOT_MODIFIED;
                    *answer.headers_mut() = self.headers[coding as usize].1.clone();
                    return answer;
                }
            }
        }
        // A client that refuses even identity gets it all the same, as RFC 9110 advises for what is not there.
        let made = wishes.choose(|coding| self.body.body(coding).is_some());
        let coding = made.unwrap_or(Coding::Identity);
        let body = self.body.body(coding).unwrap_or(self.body.plain());
        let mut answer = Response::new(Full::new(body.clone()));
        *answer.headers_mut() = self.headers[coding as usize].0.clone();
        answer
    }
}

/// The headers that tell how old and how reliable a list is.
fn describe(headers: &mut HeaderMap, reading: &Reading, moment: Moment, staleness: Staleness) {
    let mut put = |name: HeaderName, text: String| {
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(name, value);
        }
    };
    let age = moment.age.unwrap_or(0);
    let control = match moment.ttl {
        // Without a lifetime nobody can tell how long it may be kept: others ask each time, and get a 304.
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
    if let Some(age) = moment.age {
        put(header::AGE, age.to_string());
    }
    put(CACHE_STATUS, cache_status(moment));
    if let Some(at) = http_date(moment.at) {
        put(header::DATE, at);
    }
    if let Some(at) = reading.list.fetched_at().and_then(http_date) {
        put(header::LAST_MODIFIED, at);
    }
    if let Some(source) = reading.list.source() {
        let network = match source.network {
            ListNetwork::Mainnet => "mainnet",
            ListNetwork::Testnet => "testnet",
            ListNetwork::Sandbox => "sandbox",
        };
        put(NETWORK, network.to_owned());
    }
}

/// A time in Unix seconds as headers have it.
fn http_date(at: i64) -> Option<String> {
    // Later times have no such form.
    const YEAR_10000: u64 = 253_402_300_800;
    let at = u64::try_from(at).ok().filter(|at| *at < YEAR_10000)?;
    Some(httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at)))
}

/// `Cache-Status` (RFC 9211) of a list that was found or fetched.
fn cache_status(moment: Moment) -> String {
    let ttl = moment.ttl.map_or(String::new(), |ttl| format!("; ttl={ttl}"));
    match moment.level {
        Level::Memory => format!("{CACHE}; hit{ttl}; detail=memory"),
        Level::Redis => format!("{CACHE}; hit{ttl}; detail=redis"),
        Level::LastGood => format!("{CACHE}; hit{ttl}; detail=last-good"),
        Level::Upstream => format!("{CACHE}; fwd=miss; fwd-status=200; stored{ttl}; detail=upstream"),
    }
}

/// `Cache-Status` of an answer that has no list.
pub(super) fn no_list() -> HeaderValue {
    HeaderValue::from_static("tradebot-symbols; fwd=miss; detail=unavailable")
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    const THREADS: usize = 8;

    /// A list long enough for a file of its own.
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

    #[tokio::test]
    async fn a_new_list_is_made_into_a_body_once_however_many_threads_want_it() {
        let staleness = Staleness {
            while_revalidate: Duration::ZERO,
            if_error: Duration::ZERO,
        };
        let answers = ListAnswers::new(staleness, Handle::current());
        for letter in ['A', 'B', 'C'] {
            let reading = a_reading(letter);
            let barrier = Barrier::new(THREADS);
            std::thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| {
                        barrier.wait();
                        let answer = answers.answer(&reading, &HeaderMap::new());
                        let body = answer.into_body().into_inner().expect("a body");
                        assert_eq!(body, reading.list.json());
                    });
                }
            });
        }
    }
}
