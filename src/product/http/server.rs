//! An HTTP/1.1 and h2c server on one port: connections, their limits, and the graceful stop.
//!
//! One task accepts connections and hands them round robin to threads, each with its own runtime. A connection never
//! changes its thread. A [`Handler`] makes the responses.
//!
//! | limit | beyond it |
//! | --- | --- |
//! | connections | 503 with `Retry-After`, then the connection is closed, so that a probe or a proxy knows at once |
//! | open files | fewer connections, so that the rest of the process keeps some |
//! | size of a request header | 431 |
//! | size of a request body | 413; a smaller body is read and dropped, as no route uses one |
//! | time for a header, between requests, and for the client to take a response | the connection is closed |
//! | time to make a response | the handler's response for 504 |

mod activity;
mod connection;
mod handler;
mod open_files;
mod service;
mod socket;
mod thread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use tradebot_base::said::Repeated;

pub(crate) use activity::ConnectionTimeouts;
pub(crate) use handler::{Handled, Handler, HttpResponse};
pub(crate) use open_files::fitting_connections;
use thread::ServerThread;

/// What the server accepts from clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HttpLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Bytes of a request header.
    pub header_bytes: usize,
    /// Bytes of a request body.
    pub body_bytes: usize,
    /// Time to read a request body and make the response.
    pub request: Duration,
    /// How long a connection may stay in each state.
    pub timeouts: ConnectionTimeouts,
    /// How long a stop waits for requests in flight.
    pub drain: Duration,
}

/// Connections since the start.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCounts {
    /// Accepted and served.
    pub accepted: AtomicU64,
    /// Refused because too many were open.
    pub refused: AtomicU64,
    /// Closed because of a timeout.
    pub cut: AtomicU64,
    /// Open now.
    pub open: AtomicU64,
}

const ACCEPT_RETRY: Duration = Duration::from_millis(250);
/// How many connections are answered with a 503 at a time. Further ones are closed without an answer.
const MAX_REFUSALS: usize = 64;
/// How long a refused client may take to read the 503 and close.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    retry-after: 1\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: 34\r\n\r\n\
    {\"detail\":\"Too many connections.\"}";

/// A listening server.
pub(crate) struct Server {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
    limits: HttpLimits,
    threads: usize,
    counts: Arc<ConnectionCounts>,
}

impl Server {
    /// Listens on `address`, and logs as `name`; port 0 picks a free one. Clients can connect now and are answered once [`run`](Self::run)
    /// is awaited.
    ///
    /// # Errors
    /// When the address is in use, not local, or not permitted.
    pub(crate) async fn bind(
        name: &'static str,
        address: SocketAddr,
        threads: usize,
        limits: HttpLimits,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            name,
            address: listener.local_addr()?,
            listener,
            limits,
            threads: threads.max(1),
            counts: Arc::default(),
        })
    }

    /// Live counters.
    #[must_use]
    pub(crate) fn counts(&self) -> Arc<ConnectionCounts> {
        Arc::clone(&self.counts)
    }

    /// Serves until `stop` fires, then accepts no more connections and waits for requests in flight, at most the drain
    /// time.
    ///
    /// # Errors
    /// When a thread cannot be started or panicked.
    pub(crate) async fn run<H: Handler>(self, handler: Arc<H>, stop: CancellationToken) -> io::Result<()> {
        let mut threads = Vec::new();
        for number in 0..self.threads {
            threads.push(ServerThread::start(number, &self, Arc::clone(&handler))?);
        }
        info!(
            http.address = %self.address,
            http.threads = self.threads,
            http.max_connections = self.limits.connections,
            "{} is listening",
            self.name
        );
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let mut next = 0;
        let mut errors = Repeated::default();
        // Both branches are cancel-safe: a connection is either still queued or already ours.
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _peer)) => match Arc::clone(&room).try_acquire_owned() {
                    Ok(permit) => {
                        threads[next].give(stream, permit);
                        next = (next + 1) % threads.len();
                    }
                    Err(_) => self.refuse(stream, &refusals),
                },
                Err(error) => {
                    if let Some(times) = errors.report(Instant::now()) {
                        warn!(http.address = %self.address, %error, times, "cannot accept connections");
                    }
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(self.listener);
        // Tell every thread to end before waiting for the first.
        let ends: Vec<_> = threads.into_iter().map(ServerThread::end).collect();
        for end in ends {
            let joined = tokio::task::spawn_blocking(move || end.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(io::Error::other("an HTTP thread panicked"));
            }
        }
        info!("{} has stopped", self.name);
        Ok(())
    }

    fn refuse(&self, mut stream: TcpStream, refusals: &Arc<Semaphore>) {
        self.counts.refused.fetch_add(1, Relaxed);
        let Ok(permit) = Arc::clone(refusals).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let refusal = timeout(REFUSAL_TIMEOUT, async {
                stream.write_all(TOO_MANY).await?;
                stream.shutdown().await?;
                // Closing with unread bytes would reset the connection before the client reads the 503.
                while stream.read(&mut [0; 1024]).await? > 0 {}
                io::Result::Ok(())
            });
            if let Ok(Err(error)) = refusal.await {
                debug!(%error, "refused client disconnected early");
            }
            drop(permit);
        });
    }
}
