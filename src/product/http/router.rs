//! Which route makes which response, and the state behind them.

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use serde_json::json;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::answers::cors::AllowedOrigins;
use super::answers::filtered_lists::FilteredLists;
use super::answers::lists::{ListResponses, Staleness, no_list};
use super::answers::private_list;
use super::answers::query::{ChangesQuery, InvalidQuery, ListFilter};
use super::answers::responses::{
    CACHE_STATUS, JSON, allowed_methods, error_detail, json_document, method_not_allowed, retry_later,
    to_head, uncached,
};
use super::answers::routes::{OPENAPI, Route};
use super::answers::traces;
use super::ops::durations::{Durations, TimedRequest};
use super::ops::metrics::{self, MetricSources, ResponseCounts};
use super::ops::page::{self, StatusPage};
use super::server::{ConnectionCounts, Handled, Handler, HttpResponse};
use crate::product::credentials::outcome::UserList;
use crate::product::credentials::user_lists::UserLists;
use crate::product::fleet::overview::OverviewReader;
use crate::product::fleet::readiness::Readiness;
use crate::product::symbols::cache::CacheError;
use crate::product::symbols::changes::Changes;
use crate::product::symbols::reads::{Reading, SymbolReads, Unavailable};
use tradebot_base::clock::SharedClock;
use tradebot_base::error_chain;
use tradebot_base::exposition::TextFormat;
use tradebot_base::market::{Market, PerMarket};
use tradebot_base::trace;
use tradebot_core::engine::Engine;

/// The methods of every route.
const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD, OPTIONS");
/// How many changes Redis keeps.
const KEPT_CHANGES: usize = 1000;
/// How many changes the status page shows.
const SHOWN_CHANGES: usize = 20;

/// How the routes respond.
#[derive(Debug, Clone)]
pub(crate) struct RouterSettings {
    /// The origins whose scripts may read responses.
    pub origins: AllowedOrigins,
    /// What other caches may do with stale lists.
    pub staleness: Staleness,
    /// The status if there is no list at all.
    pub error_status: StatusCode,
    /// The quote asset of the stored lists.
    pub quote_asset: String,
    /// Seconds between two refreshes, where they are scheduled.
    pub interval: PerMarket<Option<u64>>,
}

/// The routes of the endpoint.
pub(crate) struct Router {
    pub(super) reads: SymbolReads,
    pub(super) filtered: FilteredLists,
    pub(super) overview: OverviewReader,
    pub(super) connections: Arc<ConnectionCounts>,
    pub(super) worker: Option<Arc<Engine>>,
    pub(super) stop: CancellationToken,
    pub(super) clock: SharedClock,
    /// Runs what a request waits for, to its end even if the client leaves.
    pub(super) runtime: Handle,
    pub(super) settings: RouterSettings,
    pub(super) lists: PerMarket<ListResponses>,
    pub(super) responses: Arc<ResponseCounts>,
    pub(super) durations: Arc<Durations>,
    /// Users' exchange keys, if they are used.
    pub(super) branch: Option<Arc<UserLists>>,
}

impl Router {
    /// The list from memory, or else from the next level that has one. A fresh list is the same for all users, so the
    /// token is not read.
    fn list(self: &Arc<Self>, market: Market, request: &Request<()>) -> Handled {
        let query = request.uri().query().unwrap_or_default();
        let filter = match ListFilter::read(query, &self.settings.quote_asset) {
            Ok(filter) => filter,
            Err(bad) => return Handled::Ready(unprocessable(&bad)),
        };
        let found = filter.is_none().then(|| self.reads.peek(market)).flatten();
        if let Some(reading) = &found
            && (self.branch.is_none() || !reading.stale)
        {
            return Handled::Ready(self.lists.get(market).respond(reading, request.headers()));
        }
        let (router, headers) = (Arc::clone(self), request.headers().clone());
        self.later(async move {
            let Some(filter) = filter else {
                return router.missed(market, found, &headers).await;
            };
            match router.reads.read(market).await {
                Ok(reading) => router.filtered_list(market, &reading, filter, &headers).await,
                Err(unavailable) => router.no_list(market, &unavailable),
            }
        })
    }

    /// The list of a user with an exchange key, while the primary list is missing or `stale`; otherwise the public one.
    async fn missed(&self, market: Market, mut stale: Option<Reading>, headers: &HeaderMap) -> HttpResponse {
        let lists = self.lists.get(market);
        if let (Some(branch), Some(token)) = (&self.branch, private_list::bearer(headers)) {
            if stale.is_none() {
                match self.reads.look(market).await {
                    Some(reading) if !reading.stale => return lists.respond(&reading, headers),
                    looked => stale = looked,
                }
            }
            // Every other outcome is logged there and leads to the public list.
            if let Ok(UserList::Private(list)) = branch.list_for(token, market).await {
                if stale.is_none() {
                    self.reads.count_miss(market);
                }
                return private_list::response(&list);
            }
        }
        if let Some(reading) = stale {
            return lists.respond(&reading, headers);
        }
        match self.reads.read(market).await {
            Ok(reading) => lists.respond(&reading, headers),
            Err(unavailable) => self.no_list(market, &unavailable),
        }
    }

    async fn filtered_list(
        &self,
        market: Market,
        reading: &Reading,
        filter: ListFilter,
        headers: &HeaderMap,
    ) -> HttpResponse {
        match self
            .filtered
            .list(market, reading, filter, &self.settings.quote_asset)
            .await
        {
            Some(body) => self.lists.get(market).respond_with(reading, body, headers),
            None => symbols_not_known(),
        }
    }

    /// One symbol of any quote asset and status. While those are not known, only symbols of the list are found.
    fn symbol(self: &Arc<Self>, market: Market, name: String, request: &Request<()>) -> Handled {
        let (router, headers) = (Arc::clone(self), request.headers().clone());
        self.later(async move {
            let reading = match router.reads.read(market).await {
                Ok(reading) => reading,
                Err(unavailable) => return router.no_list(market, &unavailable),
            };
            match router.filtered.symbol(market, &reading, &name).await {
                Some(body) => router.lists.get(market).respond_with(&reading, body, &headers),
                None => error_detail(StatusCode::NOT_FOUND, "There is no such symbol."),
            }
        })
    }

    fn changes(self: &Arc<Self>, request: &Request<()>) -> Handled {
        let query = match ChangesQuery::read(request.uri().query().unwrap_or_default()) {
            Ok(query) => query,
            Err(bad) => return Handled::Ready(unprocessable(&bad)),
        };
        let router = Arc::clone(self);
        self.later(async move {
            match router.reads.changes(query.since.as_deref(), query.limit).await {
                Ok(changes) => json_document(StatusCode::OK, &changes_document(&changes, query.since)),
                Err(CacheError::StreamId(_)) => {
                    unprocessable(&InvalidQuery("since: no change has such an id".to_owned()))
                }
                Err(_) => retry_later(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The changes cannot be read now.",
                    1,
                ),
            }
        })
    }

    fn no_list(&self, market: Market, unavailable_because: &Unavailable) -> HttpResponse {
        let message = match market {
            Market::Spot => {
                "Sembol listesi şu anda yüklenemiyor. Lütfen daha sonra tekrar deneyin veya sistem yöneticisine bildirin."
            }
            Market::Futures => {
                "Futures sembol listesi şu anda yüklenemiyor. Lütfen daha sonra tekrar deneyin veya sistem yöneticisine bildirin."
            }
        };
        // Whole seconds, at least one.
        let seconds = unavailable_because.retry_after.as_millis().div_ceil(1000).max(1);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let mut response = retry_later(self.settings.error_status, message, seconds);
        response
            .headers_mut()
            .insert(CACHE_STATUS, no_list(unavailable_because.paused));
        response
    }

    fn readiness(&self) -> Readiness {
        Readiness::of(&self.reads, self.worker.as_deref(), self.stop.is_cancelled())
    }

    fn ready(&self) -> HttpResponse {
        let readiness = self.readiness();
        let status = if readiness.reasons.is_empty() {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        json_document(status, &readiness)
    }

    async fn metrics(&self, format: TextFormat) -> HttpResponse {
        let sources = MetricSources {
            reads: self.reads.clone(),
            responses: Arc::clone(&self.responses),
            durations: Arc::clone(&self.durations),
            connections: Arc::clone(&self.connections),
            worker: self.worker.clone(),
            branch: self.branch.clone(),
            overview: self.overview.get().await,
        };
        match metrics::text(sources) {
            Ok(text) => {
                let content_type = HeaderValue::from_static(format.content_type());
                let mut response = uncached(content_type, format.write(text));
                let vary = HeaderValue::from_static("Accept");
                response.headers_mut().insert(header::VARY, vary);
                response
            }
            Err(_) => internal_error(),
        }
    }

    async fn page(&self) -> HttpResponse {
        let overview = self.overview.get().await;
        let readiness = self.readiness();
        // Do not ask a Redis again that has just not answered.
        let changes = match &overview {
            Some(_) => match self.reads.changes(None, KEPT_CHANGES).await {
                Ok(changes) => Some(changes),
                Err(error) => {
                    warn!(error = %error_chain(&error), "the status page cannot show the changes");
                    None
                }
            },
            None => None,
        };
        page::response(&StatusPage {
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

    /// Makes a response on the runtime, where it is finished even if the client leaves.
    fn later(&self, making: impl Future<Output = HttpResponse> + Send + 'static) -> Handled {
        let made = self.runtime.spawn(trace::follow(making));
        Handled::Pending(Box::pin(async move {
            // The task panicked, or the process is ending.
            made.await.unwrap_or_else(|_| internal_error())
        }))
    }

    fn route(self: &Arc<Self>, route: Route<'_>, request: &Request<()>) -> Handled {
        match route {
            Route::List(market) => self.list(market, request),
            Route::Symbol(market, name) => self.symbol(market, name.into_owned(), request),
            Route::Changes => self.changes(request),
            Route::Health => Handled::Ready(json_document(
                StatusCode::OK,
                &json!({"status": "healthy", "service": "tradebot-backend"}),
            )),
            Route::Live => Handled::Ready(json_document(StatusCode::OK, &json!({"status": "live"}))),
            Route::Ready => Handled::Ready(self.ready()),
            Route::Metrics => {
                let accept = request.headers().get_all(header::ACCEPT);
                let format = TextFormat::accepted(accept.iter().filter_map(|value| value.to_str().ok()));
                let router = Arc::clone(self);
                self.later(async move { router.metrics(format).await })
            }
            Route::OpenApi => Handled::Ready(uncached(JSON, OPENAPI)),
            Route::Page => {
                let router = Arc::clone(self);
                self.later(async move { router.page().await })
            }
        }
    }

    /// The response to a method other than `GET` and `HEAD`.
    fn respond_to_other_method(&self, route: Option<&Route<'_>>, request: &Request<()>) -> HttpResponse {
        match route {
            // The whole server (RFC 9110, 9.3.7).
            None if request.method() == Method::OPTIONS && request.uri().path() == "*" => {
                allowed_methods(ALLOWED)
            }
            None => not_found(),
            Some(_) if request.method() == Method::OPTIONS => allowed_methods(ALLOWED),
            Some(_) => method_not_allowed(ALLOWED),
        }
    }

    fn finish(
        &self,
        timed: TimedRequest,
        request: &HeaderMap,
        head: bool,
        mut response: HttpResponse,
    ) -> HttpResponse {
        timed.end(response.status());
        self.responses.count(response.status());
        self.settings.origins.admit(request, response.headers_mut());
        if head { to_head(response) } else { response }
    }

    /// Answers a request for one of the routes that `has` selects; the others are not found.
    fn reply(self: &Arc<Self>, request: Request<()>, has: fn(&Route<'_>) -> bool) -> Handled {
        if let Some(response) = self.settings.origins.preflight(&request) {
            return Handled::Ready(response);
        }
        let route = Route::of(request.uri().path()).filter(has);
        let timed = TimedRequest::begin(&self.durations, route.as_ref());
        let head = request.method() == Method::HEAD;
        let handled = match route {
            route if !head && request.method() != Method::GET => {
                Handled::Ready(self.respond_to_other_method(route.as_ref(), &request))
            }
            Some(route) => self.route(route, &request),
            None => Handled::Ready(not_found()),
        };
        match handled {
            Handled::Ready(response) => Handled::Ready(self.finish(timed, request.headers(), head, response)),
            Handled::Pending(making) => {
                let router = Arc::clone(self);
                Handled::Pending(Box::pin(async move {
                    let response = making.await;
                    router.finish(timed, request.headers(), head, response)
                }))
            }
        }
    }
}

/// The routes of an address that is not for operators: those that show the deployment are not found.
pub(crate) struct PublicRoutes(pub(super) Arc<Router>);

impl Handler for PublicRoutes {
    fn handle(self: &Arc<Self>, request: Request<()>) -> Handled {
        traces::traced(request, |request| {
            self.0.reply(request, |route| route.is_public())
        })
    }

    fn reject(&self, status: StatusCode) -> HttpResponse {
        self.0.reject(status)
    }
}

impl Handler for Router {
    fn handle(self: &Arc<Self>, request: Request<()>) -> Handled {
        traces::traced(request, |request| self.reply(request, |_| true))
    }

    fn reject(&self, status: StatusCode) -> HttpResponse {
        self.responses.count(status);
        let message = status.canonical_reason().unwrap_or("Error");
        if status == StatusCode::GATEWAY_TIMEOUT {
            return retry_later(status, message, 1);
        }
        let mut response = error_detail(status, message);
        // The rest of the request is not read.
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
        response
    }
}

fn not_found() -> HttpResponse {
    error_detail(StatusCode::NOT_FOUND, "Not Found")
}

fn unprocessable(bad: &InvalidQuery) -> HttpResponse {
    error_detail(StatusCode::UNPROCESSABLE_ENTITY, &bad.0)
}

/// Only refreshes by this service store the symbols of all quote assets.
fn symbols_not_known() -> HttpResponse {
    let message = "The symbols of other quote assets are known after the next refresh.";
    retry_later(StatusCode::SERVICE_UNAVAILABLE, message, 5)
}

fn internal_error() -> HttpResponse {
    error_detail(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error")
}

fn changes_document(changes: &Changes, since: Option<String>) -> serde_json::Value {
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
