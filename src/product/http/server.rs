//! HTTP/1.1 and h2c on one port: connections, their limits, and the stop.
//!
//! One task accepts, and hands the connections round to threads with a runtime each, so that all threads have the same
//! share and no connection ever moves. What is answered is a [`Site`]'s.
//!
//! | limit | what happens beyond it |
//! | --- | --- |
//! | connections | 503 with `Retry-After`, and the connection is closed; so a probe or a proxy knows at once |
//! | size of a header | 431 |
//! | size of a body | 413; a smaller one is read and dropped, no route here takes any |
//! | time for a header, between requests, to take an answer | the connection is closed |
//! | time for an answer | the site's own timeout answer |

mod connection;
mod thread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::site::Site;
use super::watch::Patience;
use thread::Lane;

/// How much is taken of clients, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Bytes of a request's header.
    pub header_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// For a request to be answered, its body included.
    pub request: Duration,
    /// For a connection to come on.
    pub patience: Patience,
    /// For the requests in flight to end once a stop is asked for.
    pub drain: Duration,
}

/// Connections since the start.
#[derive(Debug, Default)]
pub struct ConnectionCounts {
    /// Accepted and served.
    pub accepted: AtomicU64,
    /// Turned away because there were too many.
    pub refused: AtomicU64,
    /// Closed because a limit of time was reached.
    pub cut: AtomicU64,
    /// Open now.
    pub open: AtomicU64,
}

const ACCEPT_RETRY: Duration = Duration::from_millis(250);
/// Connections that are being told that there are too many; beyond these they are closed without a word.
const MAX_REFUSALS: usize = 64;
const REFUSAL: Duration = Duration::from_secs(1);
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
    retry-after: 1\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: 34\r\n\r\n\
    {\"detail\":\"Too many connections.\"}";

/// A port, listened on.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    limits: Limits,
    threads: usize,
    counts: Arc<ConnectionCounts>,
}

impl Server {
    /// Listens on `address`; port 0 takes any free one. Clients can connect from here on and are answered once
    /// [`run`](Self::run) is awaited.
    ///
    /// # Errors
    /// The address is taken, not this machine's, or not permitted.
    pub async fn bind(address: SocketAddr, threads: usize, limits: Limits) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            limits,
            threads: threads.max(1),
            counts: Arc::default(),
        })
    }

    /// The address listened on, with the port that was really taken.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Counters that go on while the server runs.
    #[must_use]
    pub fn counts(&self) -> Arc<ConnectionCounts> {
        Arc::clone(&self.counts)
    }

    /// Serves until `stop` fires, then takes no more connections and gives requests in flight the drain time.
    ///
    /// # Errors
    /// When the system gives no thread, or one of them panicked.
    pub async fn run<S: Site>(self, site: Arc<S>, stop: CancellationToken) -> io::Result<()> {
        let mut lanes = Vec::new();
        for number in 0..self.threads {
            lanes.push(Lane::start(number, &self, Arc::clone(&site))?);
        }
        info!(http.address = %self.address, http.threads = self.threads, "http is listening");
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        let mut next = 0;
        // Both branches are cancel-safe: a connection is either still queued or already ours.
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _peer)) => match Arc::clone(&room).try_acquire_owned() {
                    Ok(permit) => {
                        lanes[next].give(stream, permit);
                        next = (next + 1) % lanes.len();
                    }
                    Err(_) => self.turn_away(stream, &refusals),
                },
                Err(error) => {
                    warn!(http.address = %self.address, %error, "cannot accept a connection");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
        drop(self.listener);
        // The lanes end together: none waits for another.
        let ends: Vec<_> = lanes.into_iter().map(Lane::end).collect();
        for end in ends {
            let joined = tokio::task::spawn_blocking(move || end.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(io::Error::other("a thread of the HTTP endpoint panicked"));
            }
        }
        info!("http has stopped");
        Ok(())
    }

    fn turn_away(&self, mut stream: TcpStream, refusals: &Arc<Semaphore>) {
        self.counts.refused.fetch_add(1, Relaxed);
        let Ok(permit) = Arc::clone(refusals).try_acquire_owned() else {
            return;
        };
        tokio::spawn(async move {
            let told = timeout(REFUSAL, async {
                stream.write_all(TOO_MANY).await?;
                stream.shutdown().await?;
                // Closing with unread bytes would take the answer away from the client.
                while stream.read(&mut [0; 1024]).await? > 0 {}
                io::Result::Ok(())
            });
            if let Ok(Err(error)) = told.await {
                debug!(%error, "a client left before it was turned away");
            }
            drop(permit);
        });
    }
}
