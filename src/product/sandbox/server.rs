//! The HTTP side of the sandbox: routes, headers, limits and the stop.
//!
//! | path | answer | weight |
//! | --- | --- | ---: |
//! | `/api/v3/exchangeInfo` | spot; `symbolStatus` and `showPermissionSets` | 20 |
//! | `/fapi/v1/exchangeInfo` | USD-M futures; parameters are ignored, as the exchange does | 1 |
//! | `/api/v3/time`, `/fapi/v1/time` | the local clock | 1 |
//! | `/api/v3/ping`, `/fapi/v1/ping` | `{}` | 1 |
//!
//! Generated spot documents are filtered as the exchange does; captures are served whole. Other spot parameters (`symbol`,
//! ...) are refused, because their answers would be wrong.
//!
//! It is bounded for a process left running: so many connections, a deadline for the request head, no
//! request body, and an end to clients that read too slowly. A connection serves one request, so that
//! none is reused at the moment its deadline closes it.

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Catalog, SYMBOL_STATUSES, SandboxError, SpotQuery, now_ms};

/// Further clients wait in the system's queue.
const MAX_CONNECTIONS: usize = 64;
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Longest life of a connection, so that clients that stop reading cannot occupy all of them.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// How long a stop waits for requests in flight.
const DRAIN: Duration = Duration::from_secs(2);
const ACCEPT_RETRY: Duration = Duration::from_millis(250);

const SANDBOX_HEADER: HeaderName = HeaderName::from_static("x-sandbox");
const WEIGHT_HEADER: HeaderName = HeaderName::from_static("x-mbx-used-weight-1m");

type SandboxAnswer = Response<Full<Bytes>>;

/// The sandbox, listening.
#[derive(Debug)]
pub(crate) struct SandboxServer {
    listener: std::net::TcpListener,
    address: SocketAddr,
    exchange: Arc<Exchange>,
}

impl SandboxServer {
    /// Listens on `addr`; port 0 picks a free one. Clients can connect at once, and get answers once [`run`](Self::run) is
    /// polled. Needs no runtime.
    ///
    /// # Errors
    /// [`SandboxError::Bind`].
    pub(crate) fn bind(addr: SocketAddr, catalog: Catalog) -> Result<Self, SandboxError> {
        let refuse = |source| SandboxError::Bind {
            address: addr,
            source,
        };
        let listener = std::net::TcpListener::bind(addr).map_err(refuse)?;
        listener.set_nonblocking(true).map_err(refuse)?;
        let address = listener.local_addr().map_err(refuse)?;
        let exchange = Exchange {
            catalog,
            spot_weight: Weight::default(),
            futures_weight: Weight::default(),
        };
        Ok(Self {
            listener,
            address,
            exchange: Arc::new(exchange),
        })
    }

    /// The address with the actual port.
    #[cfg(test)]
    pub(super) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of both markets for clients on this machine, without a final slash: `http://127.0.0.1:8099`.
    #[must_use]
    pub(crate) fn base_url(&self) -> String {
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("http://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// Serves until `stop`, then finishes the requests in flight within two seconds. Dropping the future closes all
    /// connections.
    ///
    /// # Errors
    /// [`SandboxError::Bind`] if the runtime cannot use the listener.
    pub(crate) async fn run(self, stop: CancellationToken) -> Result<(), SandboxError> {
        let address = self.address;
        let listener =
            TcpListener::from_std(self.listener).map_err(|source| SandboxError::Bind { address, source })?;
        info!(sandbox.address = %address, "sandbox is listening");
        let mut connections = JoinSet::new();
        // Every branch is cancel-safe.
        loop {
            let room = connections.len() < MAX_CONNECTIONS;
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if room => match accepted {
                    Ok((stream, _peer)) => {
                        let exchange = Arc::clone(&self.exchange);
                        connections.spawn(serve(stream, exchange, stop.clone()));
                    }
                    Err(error) => {
                        warn!(sandbox.address = %address, %error, "cannot accept a connection");
                        sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
        drop(listener);
        let busy = async { while connections.join_next().await.is_some() {} };
        // The connections left over are closed with the set.
        if timeout(DRAIN, busy).await.is_err() {
            warn!("the sandbox closes connections that are still busy");
        }
        info!("sandbox has stopped");
        Ok(())
    }
}

async fn serve(stream: TcpStream, exchange: Arc<Exchange>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let exchange = Arc::clone(&exchange);
        async move { Ok::<_, Infallible>(exchange.respond(&request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT);
    http.max_buf_size(MAX_HEAD_BYTES).keep_alive(false);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = sleep(CONNECTION_LIFE) => return debug!("closed a connection at the end of its longest life"),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection failed");
    }
}

/// The documents, and the weight counters.
#[derive(Debug)]
struct Exchange {
    catalog: Catalog,
    spot_weight: Weight,
    futures_weight: Weight,
}

impl Exchange {
    async fn respond(&self, request: &Request<Incoming>) -> SandboxAnswer {
        let path = request.uri().path();
        let (weight, cost) = match path {
            "/api/v3/exchangeInfo" => (&self.spot_weight, 20),
            _ if path.starts_with("/fapi/") => (&self.futures_weight, 1),
            _ => (&self.spot_weight, 1),
        };
        let used = weight.add(cost, now_ms());
        let mut response = self.route(request).await.unwrap_or_else(Refusal::into_answer);
        let headers = response.headers_mut();
        headers.insert(WEIGHT_HEADER, HeaderValue::from(used));
        headers.insert(SANDBOX_HEADER, HeaderValue::from_static("tradebot-symbols"));
        let json = HeaderValue::from_static("application/json;charset=UTF-8");
        headers.insert(header::CONTENT_TYPE, json);
        let uncached = HeaderValue::from_static("no-cache, no-store, must-revalidate");
        headers.insert(header::CACHE_CONTROL, uncached);
        response
    }

    async fn route(&self, request: &Request<Incoming>) -> Result<SandboxAnswer, Refusal> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let message = format!("Method {} is not allowed", request.method());
            return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, -5_000, message));
        }
        if !request.body().is_end_stream() {
            let message = "A request body is not allowed here".to_owned();
            return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, -1_101, message));
        }
        let uri = request.uri();
        match uri.path() {
            "/api/v3/exchangeInfo" => {
                let query = spot_query(uri.query().unwrap_or_default())?;
                self.exchange_info(Some(query), request.headers()).await
            }
            "/fapi/v1/exchangeInfo" => self.exchange_info(None, request.headers()).await,
            "/api/v3/time" | "/fapi/v1/time" => Ok(small(&json!({"serverTime": now_ms()}))),
            "/api/v3/ping" | "/fapi/v1/ping" => Ok(small(&json!({}))),
            path => {
                let message = format!("Path {path}, Method {} is invalid", request.method());
                Err(Refusal(StatusCode::NOT_FOUND, -5_000, message))
            }
        }
    }

    /// Answers with the spot list for `query`, or with the futures list.
    async fn exchange_info(
        &self,
        query: Option<SpotQuery>,
        headers: &HeaderMap,
    ) -> Result<SandboxAnswer, Refusal> {
        let offers = headers.get_all(header::ACCEPT_ENCODING).iter();
        let gzip = offers
            .filter_map(|offer| offer.to_str().ok())
            .any(|offer| offer.contains("gzip"));
        let catalog = self.catalog.clone();
        let making = spawn_blocking(move || {
            let plain = query.map_or_else(|| catalog.futures_answer(), |query| catalog.spot_answer(query));
            if gzip { compressed(&plain) } else { Ok(plain) }
        });
        let made = making.await.map_err(io::Error::from).flatten();
        let body = made.map_err(|error| {
            warn!(%error, "the sandbox cannot generate this answer");
            let message = "The sandbox cannot generate this answer".to_owned();
            Refusal(StatusCode::INTERNAL_SERVER_ERROR, -1_000, message)
        })?;
        let mut answer = SandboxAnswer::new(Full::new(body));
        let headers = answer.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        if gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(answer)
    }
}

fn compressed(plain: &[u8]) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish().map(Bytes::from)
}

/// An error answer: status, the exchange's code and its text.
struct Refusal(StatusCode, i32, String);

impl Refusal {
    fn into_answer(self) -> SandboxAnswer {
        let Self(status, code, message) = self;
        let mut response = small(&json!({"code": code, "msg": message}));
        *response.status_mut() = status;
        if status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
        }
        response
    }
}

fn small(body: &Value) -> SandboxAnswer {
    SandboxAnswer::new(Full::from(body.to_string()))
}

fn spot_query(text: &str) -> Result<SpotQuery, Refusal> {
    let refuse = |code, message: String| Err(Refusal(StatusCode::BAD_REQUEST, code, message));
    let mut query = SpotQuery::EVERYTHING;
    for parameter in text.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("symbolStatus", value) => {
                query.status = SYMBOL_STATUSES.into_iter().find(|known| *known == value);
                if query.status.is_none() {
                    return refuse(-1_122, "Invalid symbolStatus.".to_owned());
                }
            }
            ("showPermissionSets", "true") => query.permission_sets = true,
            ("showPermissionSets", "false") => query.permission_sets = false,
            ("showPermissionSets", _) => {
                return refuse(-1_100, "Invalid showPermissionSets.".to_owned());
            }
            (name, _) => return refuse(-1_101, format!("Unknown parameter '{name}'.")),
        }
    }
    Ok(query)
}

/// The request weight of the current minute: the minute, and its weight so far.
#[derive(Debug, Default)]
struct Weight(Mutex<(u64, u64)>);

impl Weight {
    /// Adds `cost` at `at_ms`, and returns the weight of that minute so far.
    fn add(&self, cost: u64, at_ms: u64) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = at_ms / 60_000;
        if state.0 != minute {
            *state = (minute, 0);
        }
        state.1 += cost;
        state.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weight_adds_up_within_a_minute() {
        let weight = Weight::default();
        let sums = [59_999, 60_000, 119_999, 120_000].map(|at_ms| weight.add(20, at_ms));
        assert_eq!(sums, [20, 20, 40, 20]);
    }
}
