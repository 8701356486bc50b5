//! One connection: HTTP/1.1 or HTTP/2 without TLS (h2c), told apart by its first bytes and then left to hyper.

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::Either;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::super::site::{Answer, Reply, Site};
use super::super::socket::Socket;
use super::super::watch::{Order, READING, Watch};
use super::Limits;

/// What a client that speaks HTTP/2 from the start sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How soon a preface that has arrived in part is looked at again.
const PEEK_AGAIN: Duration = Duration::from_millis(5);
const MAX_STREAMS: u32 = 128;

/// How connections are spoken with.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    pub(super) fn new(limits: &Limits) -> Self {
        let mut http1 = http1::Builder::new();
        // hyper's smallest buffer.
        http1.max_buf_size(limits.header_bytes.max(8192));
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS);
        Self { http1, http2 }
    }

    /// Serves a connection until it ends or is ordered to.
    pub(super) async fn serve<S: Site>(&self, stream: TcpStream, service: Answering<S>) {
        let watch = Arc::clone(&service.watch);
        let ended = match speaks_http2(&stream, &watch).await {
            Ok(None) => return,
            Ok(Some(http2)) => {
                let io = TokioIo::new(Socket::new(stream, Arc::clone(&watch)));
                if http2 {
                    let connection = self.http2.serve_connection(io, service);
                    run(connection, http2::Connection::graceful_shutdown, &watch).await
                } else {
                    let connection = self.http1.serve_connection(io, service);
                    run(connection, http1::Connection::graceful_shutdown, &watch).await
                }
            }
            Err(error) => return debug!(%error, "a client left before it asked"),
        };
        if let Err(error) = ended {
            debug!(%error, "a client broke off");
        }
    }
}

/// Whether the client begins with HTTP/2's preface; `None` when the connection is ordered to end before that shows.
async fn speaks_http2(stream: &TcpStream, watch: &Watch) -> io::Result<Option<bool>> {
    let mut look = pin!(async {
        let mut start = [0; PREFACE.len()];
        loop {
            let seen = stream.peek(&mut start).await?;
            if seen == PREFACE.len() || seen == 0 || start[..seen] != PREFACE[..seen] {
                return Ok(start == *PREFACE);
            }
            watch.set(READING);
            sleep(PEEK_AGAIN).await;
        }
    });
    poll_fn(|cx| match watch.order(cx) {
        Order::Serve => look.as_mut().poll(cx).map_ok(Some),
        Order::Drain | Order::Cut => Poll::Ready(Ok(None)),
    })
    .await
}

/// Drives a connection of hyper's and passes orders on to it.
async fn run<C>(connection: C, drain: fn(Pin<&mut C>), watch: &Watch) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut draining = false;
    poll_fn(|cx| {
        match watch.order(cx) {
            Order::Cut => return Poll::Ready(Ok(())),
            Order::Drain if !draining => {
                draining = true;
                drain(connection.as_mut());
            }
            Order::Serve | Order::Drain => {}
        }
        connection.as_mut().poll(cx)
    })
    .await
}

/// A site behind one connection.
pub(super) struct Answering<S: Site> {
    pub(super) site: Arc<S>,
    pub(super) watch: Arc<Watch>,
    pub(super) limits: Limits,
}

type Answered = Result<Answer, Infallible>;

impl<S: Site> Service<Request<Incoming>> for Answering<S> {
    type Response = Answer;
    type Error = Infallible;
    type Future = Either<Ready<Answered>, Pin<Box<dyn Future<Output = Answered> + Send>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.watch.request(request.version() == Version::HTTP_2);
        let reply = if request.body().is_end_stream() {
            self.site.respond(request.map(drop))
        } else {
            let site = Arc::clone(&self.site);
            Reply::Later(Box::pin(without_body(site, request, self.limits.body_bytes)))
        };
        match reply {
            Reply::Now(answer) => Either::Left(ready(Ok(answer))),
            Reply::Later(making) => {
                let (site, limit) = (Arc::clone(&self.site), self.limits.request);
                let in_flight = InFlight::new(Arc::clone(&self.watch));
                Either::Right(Box::pin(async move {
                    let _in_flight = in_flight;
                    let answer = timeout(limit, making).await;
                    Ok(answer.unwrap_or_else(|_| site.refuse(StatusCode::GATEWAY_TIMEOUT)))
                }))
            }
        }
    }
}

/// Answers a request that has a body, which no route here wants: one of usual size is read and dropped.
async fn without_body<S: Site>(site: Arc<S>, request: Request<Incoming>, most: usize) -> Answer {
    let (head, mut body) = request.into_parts();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    let mut read = body.size_hint().lower();
    if read <= most {
        read = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
                Err(_) => return site.refuse(StatusCode::BAD_REQUEST),
            }
            if read > most {
                break;
            }
        }
    }
    if read > most {
        return site.refuse(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match site.respond(Request::from_parts(head, ())) {
        Reply::Now(answer) => answer,
        Reply::Later(making) => making.await,
    }
}

/// Counts an answer as being made for as long as it exists.
struct InFlight(Arc<Watch>);

impl InFlight {
    fn new(watch: Arc<Watch>) -> Self {
        watch.begin();
        Self(watch)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}
