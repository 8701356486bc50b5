//! What is answered: the routes, and the state behind them.

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::answers::{
    CACHE_STATUS, JSON, detail, document, fresh, not_allowed, options, unavailable, without_body,
};
use super::cors::Origins;
use super::lists::{ListAnswers, Staleness, no_list};
use super::metrics::{self, AnswerCounts, Sources};
use super::own;
use super::page::{self, Figures};
use super::parts::Parts;
use super::query::{BadQuery, Filter, Span};
use super::routes::Route;
use super::server::ConnectionCounts;
use super::site::{Answer, Reply, Site};
use super::traces;
use crate::product::credentials::outcome::UserList;
use crate::product::credentials::user_lists::UserLists;
use crate::product::fleet::overview::OverviewReader;
use crate::product::fleet::readiness::Readiness;
use crate::product::symbols::cache::CacheError;
use crate::product::symbols::changes::Changes;
use crate::product::symbols::reads::{Reading, SymbolReads, Unavailable};
use tradebot_base::clock::SharedClock;
use tradebot_base::market::{Market, PerMarket};
use tradebot_base::trace;
use tradebot_core::engine::Engine;

/// The document that describes the routes.
pub(super) const OPENAPI: &str = include_str!("openapi.json");
/// The methods of every route.
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
/// So many changes are on the page.
const SHOWN_CHANGES: usize = 20;

/// How the endpoint answers.
#[derive(Debug, Clone)]
pub struct EndpointSettings {
    /// Who may read answers from a script.
    pub origins: Origins,
    /// What other caches are allowed.
    pub staleness: Staleness,
    /// The status where no list can be had.
    pub error_status: StatusCode,
    /// The quote asset of the stored lists.
    pub quote_asset: String,
    /// Seconds between two refreshes, where they are scheduled.
    pub interval: PerMarket<Option<u64>>,
}

/// The endpoint.
pub struct Endpoint {
    pub(super) reads: SymbolReads,
    pub(super) parts: Parts,
    pub(super) overview: OverviewReader,
    pub(super) connections: Arc<ConnectionCounts>,
    pub(super) worker: Option<Arc<Engine>>,
    pub(super) stop: CancellationToken,
    pub(super) clock: SharedClock,
    /// Where everything runs that a request has to wait for, and goes on when its client leaves.
    pub(super) runtime: Handle,
    pub(super) settings: EndpointSettings,
    pub(super) lists: PerMarket<ListAnswers>,
    pub(super) answers: Arc<AnswerCounts>,
    /// Users' own keys, if they are used.
    pub(super) branch: Option<Arc<UserLists>>,
}

impl Endpoint {
    /// The list from memory, or else from wherever it can be had. A fresh list is everybody's: no token is looked at.
    fn list(self: &Arc<Self>, market: Market, request: &Request<()>) -> Reply {
        let query = request.uri().query().unwrap_or_default();
        let filter = match Filter::read(query, &self.settings.quote_asset) {
            Ok(filter) => filter,
            Err(bad) => return Reply::Now(not_understood(&bad)),
        };
        let found = filter.is_none().then(|| self.reads.peek(market)).flatten();
        if let Some(reading) = &found
            && (self.branch.is_none() || !reading.stale)
        {
            return Reply::Now(self.lists.get(market).answer(reading, request.headers()));
        }
        let (endpoint, headers) = (Arc::clone(self), request.headers().clone());
        self.later(async move {
            let Some(filter) = filter else {
                return endpoint.missed(market, found, &headers).await;
            };
            match endpoint.reads.read(market).await {
                Ok(reading) => endpoint.part(market, &reading, filter, &headers).await,
                Err(unavailable) => endpoint.no_list(market, &unavailable),
            }
        })
    }

    /// The primary list is missing, or past its lifetime as `stale` is: a user's own key decides whose list it is.
    async fn missed(&self, market: Market, mut stale: Option<Reading>, headers: &HeaderMap) -> Answer {
        let answers = self.lists.get(market);
        if let (Some(branch), Some(token)) = (&self.branch, own::bearer(headers)) {
            if stale.is_none() {
                match self.reads.look(market).await {
                    Some(reading) if !reading.stale => return answers.answer(&reading, headers),
                    looked => stale = looked,
                }
            }
            // Whatever else comes of it is logged there, and ends in everybody's list.
            if let Ok(UserList::Private(list)) = branch.list_for(token, market).await {
                if stale.is_none() {
                    self.reads.count_miss(market);
                }
                return own::answer(&list);
            }
        }
        if let Some(reading) = stale {
            return answers.answer(&reading, headers);
        }
        match self.reads.read(market).await {
            Ok(reading) => answers.answer(&reading, headers),
            Err(unavailable) => self.no_list(market, &unavailable),
        }
    }

    async fn part(&self, market: Market, reading: &Reading, filter: Filter, headers: &HeaderMap) -> Answer {
        match self
            .parts
            .list(market, reading, filter, &self.settings.quote_asset)
            .await
        {
            Some(body) => self.lists.get(market).answer_with(reading, body, headers),
            None => not_yet(),
        }
    }

    /// One symbol of any quote asset and status; where not all are known, one of the list.
    fn symbol(self: &Arc<Self>, market: Market, name: String, request: &Request<()>) -> Reply {
        let (endpoint, headers) = (Arc::clone(self), request.headers().clone());
        self.later(async move {
            let reading = match endpoint.reads.read(market).await {
                Ok(reading) => reading,
                Err(unavailable) => return endpoint.no_list(market, &unavailable),
            };
            match endpoint.parts.symbol(market, &reading, &name).await {
                Some(body) => endpoint.lists.get(market).answer_with(&reading, body, &headers),
                None => detail(StatusCode::NOT_FOUND, "There is no such symbol."),
            }
        })
    }

    fn changes(self: &Arc<Self>, request: &Request<()>) -> Reply {
        let span = match Span::read(request.uri().query().unwrap_or_default()) {
            Ok(span) => span,
            Err(bad) => return Reply::Now(not_understood(&bad)),
        };
        let endpoint = Arc::clone(self);
        self.later(async move {
            match endpoint.reads.changes(span.since.as_deref(), span.limit).await {
                Ok(changes) => document(StatusCode::OK, &shown(&changes, span.since)),
                Err(CacheError::StreamId(_)) => {
                    not_understood(&BadQuery("since: no change has such an id".to_owned()))
                }
                Err(_) => unavailable(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The changes cannot be read now.",
                    1,
                ),
            }
        })
    }

    fn no_list(&self, market: Market, unavailable_because: &Unavailable) -> Answer {
        let message = match market {
            Market::Spot => {
                "Sembol listesi şu anda yüklenemiyor. Lütfen daha sonra tekrar deneyin veya sistem yöneticisine bildirin."
            }
            Market::Futures => {
                "Futures sembol listesi şu anda yüklenemiyor. Lütfen daha sonra tekrar deneyin veya sistem yöneticisine bildirin."
            }
        };
        // Whole seconds, and never "at once".
        let seconds = unavailable_because.retry_after.as_millis().div_ceil(1000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let mut answer = unavailable(self.settings.error_status, message, seconds);
        answer.headers_mut().insert(CACHE_STATUS, no_list());
        answer
    }

    fn readiness(&self) -> Readiness {
        Readiness::of(&self.reads, self.worker.as_deref(), self.stop.is_cancelled())
    }

    fn ready(&self) -> Answer {
        let readiness = self.readiness();
        let status = if readiness.reasons.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        document(status, &readiness)
    }

    async fn metrics(&self) -> Answer {
        let sources = Sources {
            reads: self.reads.clone(),
            answers: Arc::clone(&self.answers),
            connections: Arc::clone(&self.connections),
            worker: self.worker.clone(),
            branch: self.branch.clone(),
            overview: self.overview.get().await,
        };
        match metrics::text(sources) {
            Ok(text) => fresh(HeaderValue::from_static(metrics::CONTENT_TYPE), text),
            Err(_) => broken(),
        }
    }

    async fn page(&self) -> Answer {
        let overview = self.overview.get().await;
        let readiness = self.readiness();
        // With Redis away, one look was enough to know.
        let changes = match &overview {
            Some(_) => self.reads.changes(None, usize::MAX - 1).await.ok(),
            None => None,
        };
        page::answer(&Figures {
            now: self.clock.now(),
            readiness: &readiness,
            lists: PerMarket {
                spot: self.reads.status(Market::Spot),
                futures: self.reads.status(Market::Futures),
            },
            interval: self.settings.interval,
            overview: overview.as_deref(),
            changes: changes.map(|all| all.changes.into_iter().rev().take(SHOWN_CHANGES).collect()),
        })
    }

    /// Has something made on the runtime, where it goes on even if the client leaves.
    fn later(&self, making: impl Future<Output = Answer> + Send + 'static) -> Reply {
        let made = self.runtime.spawn(trace::follow(making));
        Reply::Later(Box::pin(async move {
            // It panicked, or the process is ending.
            made.await.unwrap_or_else(|_| broken())
        }))
    }

    fn route(self: &Arc<Self>, route: Route<'_>, request: &Request<()>) -> Reply {
        match route {
            Route::List(market) => self.list(market, request),
            Route::Symbol(market, name) => self.symbol(market, name.into_owned(), request),
            Route::Changes => self.changes(request),
            Route::Health => Reply::Now(document(
                StatusCode::OK,
                &json!({"status": "healthy", "service": "tradebot-backend"}),
            )),
            Route::Live => Reply::Now(document(StatusCode::OK, &json!({"status": "live"}))),
            Route::Ready => Reply::Now(self.ready()),
            Route::Metrics => {
                let endpoint = Arc::clone(self);
                self.later(async move { endpoint.metrics().await })
            }
            Route::OpenApi => Reply::Now(fresh(JSON, OPENAPI)),
            Route::Page => {
                let endpoint = Arc::clone(self);
                self.later(async move { endpoint.page().await })
            }
        }
    }

    /// The answer to a method that reads nothing.
    fn without_content(&self, request: &Request<()>) -> Answer {
        if let Some(answer) = self.settings.origins.preflight(request) {
            return answer;
        }
        let answer = match Route::of(request.uri().path()) {
            None => detail(StatusCode::NOT_FOUND, "Not Found"),
            Some(_) if request.method() == Method::OPTIONS => options(ALLOWED),
            Some(_) => not_allowed(ALLOWED),
        };
        self.finish(request.headers(), false, answer)
    }

    fn finish(&self, request: &HeaderMap, head: bool, mut answer: Answer) -> Answer {
        self.answers.note(answer.status());
        self.settings.origins.admit(request, answer.headers_mut());
        if head { without_body(answer) } else { answer }
    }

    fn reply(self: &Arc<Self>, request: Request<()>) -> Reply {
        let head = request.method() == Method::HEAD;
        if !head && request.method() != Method::GET {
            return Reply::Now(self.without_content(&request));
        }
        let Some(route) = Route::of(request.uri().path()) else {
            let answer = detail(StatusCode::NOT_FOUND, "Not Found");
            return Reply::Now(self.finish(request.headers(), head, answer));
        };
        match self.route(route, &request) {
            Reply::Now(answer) => Reply::Now(self.finish(request.headers(), head, answer)),
            Reply::Later(making) => {
                let endpoint = Arc::clone(self);
                Reply::Later(Box::pin(async move {
                    let answer = making.await;
                    endpoint.finish(request.headers(), head, answer)
                }))
            }
        }
    }
}

impl Site for Endpoint {
    fn respond(self: &Arc<Self>, request: Request<()>) -> Reply {
        traces::traced(request, |request| self.reply(request))
    }

    fn refuse(&self, status: StatusCode) -> Answer {
        self.answers.note(status);
        let message = status.canonical_reason().unwrap_or("Error");
        if status == StatusCode::GATEWAY_TIMEOUT {
            return unavailable(status, message, 1);
        }
        let mut answer = detail(status, message);
        // What is left of the request is not waited for.
        let close = HeaderValue::from_static("close");
        answer.headers_mut().insert(header::CONNECTION, close);
        answer
    }
}

fn not_understood(bad: &BadQuery) -> Answer {
    detail(StatusCode::UNPROCESSABLE_ENTITY, &bad.0)
}

/// Only refreshes by this system store the symbols of all quote assets.
fn not_yet() -> Answer {
    let message = "The symbols of other quote assets are known after the next refresh.";
    unavailable(StatusCode::SERVICE_UNAVAILABLE, message, 5)
}

fn broken() -> Answer {
    detail(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}

fn shown(changes: &Changes, since: Option<String>) -> serde_json::Value {
    let each = changes.changes.iter().map(|change| {
        json!({
            "id": change.id,
            "market": change.market.name(),
            "at": change.at,
            "added": change.diff.added,
            "removed": change.diff.removed,
            "status_changed": change.diff.status_changed,
        })
    });
    let last = changes.changes.last().map(|change| change.id.clone());
    json!({
        "changes": each.collect::<Vec<_>>(),
        "complete": changes.complete,
        "more": changes.more,
        "next": last.or(since),
    })
}
