//! A thread that serves its share of the connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{interval, sleep, timeout};
use tracing::{debug, warn};

use super::activity::{ConnectionActivity, TimeoutSweep};
use super::connection::Protocols;
use super::handler::Handler;
use super::service::ConnectionService;
use super::{ConnectionCounts, HttpLimits, Server};

/// How often timeouts are checked.
const SWEEP_INTERVAL: Duration = Duration::from_millis(250);

type Arrival = (std::net::TcpStream, OwnedSemaphorePermit);

/// A thread with its own runtime.
pub(super) struct ServerThread {
    inbox: mpsc::UnboundedSender<Arrival>,
    thread: JoinHandle<()>,
}

impl ServerThread {
    pub(super) fn start<H: Handler>(number: usize, server: &Server, handler: Arc<H>) -> io::Result<Self> {
        // The permits bound how many connections can wait here.
        let (inbox, arrivals) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (limits, counts) = (server.limits, server.counts());
        let thread = std::thread::Builder::new()
            .name(format!("http-{number}"))
            .spawn(move || runtime.block_on(serve(arrivals, handler, limits, counts)))?;
        Ok(Self { inbox, thread })
    }

    pub(super) fn give(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        match stream.into_std() {
            // The thread receives until this sender is dropped.
            Ok(stream) => drop(self.inbox.send((stream, permit))),
            Err(error) => warn!(%error, "cannot hand a connection to its thread"),
        }
    }

    /// Has the thread drain its connections and end.
    pub(super) fn end(self) -> JoinHandle<()> {
        self.thread
    }
}

async fn serve<H: Handler>(
    mut arrivals: mpsc::UnboundedReceiver<Arrival>,
    handler: Arc<H>,
    limits: HttpLimits,
    counts: Arc<ConnectionCounts>,
) {
    let protocols = Arc::new(Protocols::new(&limits));
    let mut connections = TimeoutSweep::default();
    let mut sweep = interval(SWEEP_INTERVAL);
    // Both branches are cancel-safe.
    loop {
        tokio::select! {
            arrived = arrivals.recv() => {
                let Some((stream, permit)) = arrived else { break };
                let stream = match TcpStream::from_std(stream) {
                    Ok(stream) => stream,
                    Err(error) => {
                        warn!(%error, "cannot register a connection with its thread");
                        continue;
                    }
                };
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "cannot set TCP_NODELAY");
                }
                let activity = Arc::<ConnectionActivity>::default();
                connections.add(Arc::clone(&activity), Instant::now());
                let service = ConnectionService { handler: Arc::clone(&handler), activity, limits };
                let (protocols, open) = (Arc::clone(&protocols), OpenConnection::new(&counts, permit));
                tokio::spawn(async move {
                    protocols.serve(stream, service).await;
                    drop(open);
                });
            }
            _ = sweep.tick() => {
                let cut = connections.sweep(&limits.timeouts, Instant::now());
                counts.cut.fetch_add(cut as u64, Relaxed);
            }
        }
    }
    connections.drain();
    let all_ended = async {
        while !connections.all_ended() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(limits.drain, all_ended).await.is_err() {
        warn!("http closes connections whose requests did not finish before the stop");
    }
}

/// Counts a connection as open and holds its permit while it exists.
struct OpenConnection {
    counts: Arc<ConnectionCounts>,
    _permit: OwnedSemaphorePermit,
}

impl OpenConnection {
    fn new(counts: &Arc<ConnectionCounts>, permit: OwnedSemaphorePermit) -> Self {
        counts.accepted.fetch_add(1, Relaxed);
        counts.open.fetch_add(1, Relaxed);
        Self {
            counts: Arc::clone(counts),
            _permit: permit,
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Relaxed);
    }
}
