//! A thread that serves its share of the connections.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{interval, sleep, timeout};
use tracing::{debug, warn};

use super::super::site::Site;
use super::super::watch::{Order, Sweep, Watch};
use super::connection::{Answering, Protocols};
use super::{ConnectionCounts, Limits, Server};

/// How often connections are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// One of the threads that serve.
pub(super) struct Lane {
    inbox: mpsc::UnboundedSender<(std::net::TcpStream, OwnedSemaphorePermit)>,
    thread: std::thread::JoinHandle<()>,
}

impl Lane {
    pub(super) fn start<S: Site>(number: usize, server: &Server, site: Arc<S>) -> io::Result<Self> {
        // As many connections as there are permits: bounded by them.
        let (inbox, arrivals) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (limits, counts) = (server.limits, server.counts());
        let thread = std::thread::Builder::new()
            .name(format!("http-{number}"))
            .spawn(move || runtime.block_on(serve(arrivals, site, limits, counts)))?;
        Ok(Self { inbox, thread })
    }

    pub(super) fn give(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        match stream.into_std() {
            // A lane ends only after its sender.
            Ok(stream) => drop(self.inbox.send((stream, permit))),
            Err(error) => warn!(%error, "a connection is lost"),
        }
    }

    pub(super) fn end(self) -> std::thread::JoinHandle<()> {
        self.thread
    }
}

async fn serve<S: Site>(
    mut arrivals: mpsc::UnboundedReceiver<(std::net::TcpStream, OwnedSemaphorePermit)>,
    site: Arc<S>,
    limits: Limits,
    counts: Arc<ConnectionCounts>,
) {
    let protocols = Arc::new(Protocols::new(&limits));
    let mut sweep = Sweep::default();
    let mut look = interval(LOOK);
    // Both branches are cancel-safe.
    loop {
        tokio::select! {
            arrived = arrivals.recv() => {
                let Some((stream, permit)) = arrived else { break };
                let stream = match TcpStream::from_std(stream) {
                    Ok(stream) => stream,
                    Err(error) => {
                        warn!(%error, "a connection is lost");
                        continue;
                    }
                };
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "small packets stay delayed");
                }
                let watch = Arc::<Watch>::default();
                sweep.add(Arc::clone(&watch), Instant::now());
                let service = Answering { site: Arc::clone(&site), watch, limits };
                let (protocols, open) = (Arc::clone(&protocols), Open::new(&counts, permit));
                tokio::spawn(async move {
                    protocols.serve(stream, service).await;
                    drop(open);
                });
            }
            _ = look.tick() => {
                let cut = sweep.look(&limits.patience, Instant::now());
                counts.cut.fetch_add(cut as u64, Relaxed);
            }
        }
    }
    sweep.give(Order::Drain);
    let all_ended = async {
        while !sweep.all_ended() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if timeout(limits.drain, all_ended).await.is_err() {
        warn!("http cuts clients off");
    }
}

/// Counts a connection as open, and holds its place among those that may be, for as long as it exists.
struct Open {
    counts: Arc<ConnectionCounts>,
    _permit: OwnedSemaphorePermit,
}

impl Open {
    fn new(counts: &Arc<ConnectionCounts>, permit: OwnedSemaphorePermit) -> Self {
        counts.accepted.fetch_add(1, Relaxed);
        counts.open.fetch_add(1, Relaxed);
        Self {
            counts: Arc::clone(counts),
            _permit: permit,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Relaxed);
    }
}
