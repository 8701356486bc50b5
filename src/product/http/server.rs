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

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::service::Service;
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::site::{Answer, Reply, Site};
use super::socket::Socket;
use super::watch::{Order, Patience, Sweep, Watch};

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

/// How often connections are looked at.
const LOOK: Duration = Duration::from_millis(250);
const ACCEPT_RETRY: Duration = Duration::from_millis(250);
/// Connections that are being told that there are too many; beyond these they are closed without a word.
const MAX_REFUSALS: usize = 64;
const REFUSAL: Duration = Duration::from_secs(1);
const MAX_STREAMS: u32 = 128;
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

/// One of the threads that serve.
struct Lane {
    inbox: mpsc::UnboundedSender<(std::net::TcpStream, OwnedSemaphorePermit)>,
    thread: std::thread::JoinHandle<()>,
}

impl Lane {
    fn start<S: Site>(number: usize, server: &Server, site: Arc<S>) -> io::Result<Self> {
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

    fn give(&self, stream: TcpStream, permit: OwnedSemaphorePermit) {
        match stream.into_std() {
            // A lane ends only after its sender.
            Ok(stream) => drop(self.inbox.send((stream, permit))),
            Err(error) => warn!(%error, "a connection is lost"),
        }
    }

    fn end(self) -> std::thread::JoinHandle<()> {
        self.thread
    }
}

async fn serve<S: Site>(
    mut arrivals: mpsc::UnboundedReceiver<(std::net::TcpStream, OwnedSemaphorePermit)>,
    site: Arc<S>,
    limits: Limits,
    counts: Arc<ConnectionCounts>,
) {
    let http = Arc::new(builder(&limits));
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
                let socket = Socket::new(stream, Arc::clone(&watch));
                let service = Answering { site: Arc::clone(&site), watch, limits };
                tokio::spawn(connection(Arc::clone(&http), socket, service, permit, Arc::clone(&counts)));
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

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    // hyper's smallest buffer.
    http.http1().max_buf_size(limits.header_bytes.max(8192));
    http.http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(MAX_STREAMS);
    http
}

async fn connection<S: Site>(
    http: Arc<auto::Builder<TokioExecutor>>,
    socket: Socket,
    service: Answering<S>,
    permit: OwnedSemaphorePermit,
    counts: Arc<ConnectionCounts>,
) {
    counts.accepted.fetch_add(1, Relaxed);
    counts.open.fetch_add(1, Relaxed);
    let watch = Arc::clone(&service.watch);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service));
    let mut draining = false;
    let ended = std::future::poll_fn(|cx| {
        match watch.order(cx) {
            Order::Cut => return Poll::Ready(Ok(())),
            Order::Drain if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Order::Serve | Order::Drain => {}
        }
        connection.as_mut().poll(cx)
    });
    if let Err(error) = ended.await {
        debug!(%error, "a client broke off");
    }
    counts.open.fetch_sub(1, Relaxed);
    drop(permit);
}

/// A site behind one connection.
struct Answering<S: Site> {
    site: Arc<S>,
    watch: Arc<Watch>,
    limits: Limits,
}

impl<S: Site> Service<Request<Incoming>> for Answering<S> {
    type Response = Answer;
    type Error = Infallible;
    type Future = Answered;

    fn call(&self, request: Request<Incoming>) -> Answered {
        self.watch.request(request.version() == Version::HTTP_2);
        let reply = if request.body().is_end_stream() {
            Arc::clone(&self.site).respond(request.map(drop))
        } else {
            Reply::Later(Box::pin(without_body(
                Arc::clone(&self.site),
                request,
                self.limits.body_bytes,
            )))
        };
        match reply {
            Reply::Now(answer) => Answered::Now(Some(answer)),
            Reply::Later(making) => {
                let (site, limit) = (Arc::clone(&self.site), self.limits.request);
                let in_time = Box::pin(async move {
                    match timeout(limit, making).await {
                        Ok(answer) => answer,
                        Err(_) => site.refuse(StatusCode::GATEWAY_TIMEOUT),
                    }
                });
                Answered::Later(in_time, InFlight::new(Arc::clone(&self.watch)))
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
    match Arc::clone(&site).respond(Request::from_parts(head, ())) {
        Reply::Now(answer) => answer,
        Reply::Later(making) => making.await,
    }
}

/// The future of an answer.
enum Answered {
    Now(Option<Answer>),
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>, InFlight),
}

impl Future for Answered {
    type Output = Result<Answer, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Now(answer) => answer
                .take()
                .map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer))),
            Self::Later(making, _in_flight) => making.as_mut().poll(cx).map(Ok),
        }
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
