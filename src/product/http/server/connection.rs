//! One connection. Its first bytes tell HTTP/1.1 from HTTP/2 without TLS (h2c); hyper does the rest.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tracing::debug;

use super::HttpLimits;
use super::activity::{ConnectionActivity, Directive, READING};
use super::handler::Handler;
use super::service::ConnectionService;
use super::socket::ActivitySocket;

/// What an HTTP/2 client sends first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How soon to look again at a preface that has only arrived in part.
const PEEK_AGAIN: Duration = Duration::from_millis(5);
const MAX_STREAMS: u32 = 128;

/// hyper's settings for both protocols.
pub(super) struct Protocols {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
}

impl Protocols {
    pub(super) fn new(limits: &HttpLimits) -> Self {
        let mut http1 = http1::Builder::new();
        // hyper accepts no smaller buffer.
        http1.max_buf_size(limits.header_bytes.max(8192));
        // A client that has sent all its requests may close its half and still read the answers (RFC 9112, 9.6).
        http1.half_close(true);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
            .max_concurrent_streams(MAX_STREAMS);
        Self { http1, http2 }
    }

    /// Serves a connection until either side closes it.
    pub(super) async fn serve<H: Handler>(&self, stream: TcpStream, service: ConnectionService<H>) {
        let activity = Arc::clone(&service.activity);
        let speaks_http2 = match peek_preface(&stream, &activity).await {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => return debug!(%error, "client disconnected before its first request"),
        };
        let io = TokioIo::new(ActivitySocket::new(stream, Arc::clone(&activity)));
        let ended = if speaks_http2 {
            let connection = self.http2.serve_connection(io, service);
            drive(connection, http2::Connection::graceful_shutdown, &activity).await
        } else {
            let connection = self.http1.serve_connection(io, service);
            drive(connection, http1::Connection::graceful_shutdown, &activity).await
        };
        if let Err(error) = ended {
            debug!(%error, "client connection failed");
        }
    }
}

/// Whether the client starts with HTTP/2's preface. `None` if the server closes the connection before that is clear.
async fn peek_preface(stream: &TcpStream, activity: &ConnectionActivity) -> io::Result<Option<bool>> {
    let mut peek = pin!(async {
        let mut start = [0; PREFACE.len()];
        loop {
            let seen = stream.peek(&mut start).await?;
            if seen == 0 || seen == PREFACE.len() || start[..seen] != PREFACE[..seen] {
                return Ok(start == *PREFACE);
            }
            activity.set(READING);
            // The rest of a preface cannot follow.
            if stream.ready(Interest::READABLE).await?.is_read_closed() {
                return Ok(false);
            }
            sleep(PEEK_AGAIN).await;
        }
    });
    poll_fn(|cx| match activity.directive(cx) {
        Directive::Serve => peek.as_mut().poll(cx).map_ok(Some),
        Directive::Drain | Directive::Close => Poll::Ready(Ok(None)),
    })
    .await
}

/// Runs a hyper connection and passes the server's directives on to it.
async fn drive<C>(connection: C, drain: fn(Pin<&mut C>), activity: &ConnectionActivity) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut connection = pin!(connection);
    let mut draining = false;
    poll_fn(|cx| {
        match activity.directive(cx) {
            Directive::Close => return Poll::Ready(Ok(())),
            Directive::Drain if !draining => {
                draining = true;
                drain(connection.as_mut());
            }
            Directive::Serve | Directive::Drain => {}
        }
        connection.as_mut().poll(cx)
    })
    .await
}
