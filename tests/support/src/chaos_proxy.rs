//! A TCP proxy that breaks connections on command.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc as answers};
use std::time::Duration;

use tokio::io::{self, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time;

use crate::background::Background;
use crate::port::listen;

/// A TCP proxy to a server on 127.0.0.1 that cuts, resets, freezes, delays or silences connections.
///
/// Every command has taken effect when its call returns.
#[derive(Debug)]
pub struct ChaosProxy {
    port: u16,
    accepted: Arc<AtomicUsize>,
    commands: mpsc::UnboundedSender<(Command, answers::Sender<()>)>,
    _server: Background,
}

#[derive(Clone, Copy, Debug)]
enum Command {
    Cut,
    Restore,
    Freeze,
    Delay(Duration),
    ResetAll,
    SilenceAll,
}

/// How bytes pass, for all connections.
#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    frozen: bool,
    delay: Duration,
}

/// How the connections of one generation end.
#[derive(Clone, Copy, Debug)]
enum End {
    Close,
    Reset,
    Silence,
}

struct Server {
    port: u16,
    upstream: u16,
    listener: Option<TcpListener>,
    connections: JoinSet<()>,
    /// Connections that stay open and carry nothing.
    silent: Vec<JoinSet<()>>,
    flow: watch::Sender<Flow>,
    end: watch::Sender<Option<End>>,
}

impl ChaosProxy {
    /// Starts a proxy to `upstream_port` that lets everything pass.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn start(upstream_port: u16) -> Self {
        let (listener, port) = listen();
        listener
            .set_nonblocking(true)
            .expect("a listener can be made non-blocking");
        let (commands, orders) = mpsc::unbounded_channel();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let server = Background::start("chaos-proxy", async move {
            let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
            Server::new(port, upstream_port, listener)
                .run(orders, &count)
                .await;
        });
        Self {
            port,
            accepted,
            commands,
            _server: server,
        }
    }

    /// The port on 127.0.0.1 to connect to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:PORT/0`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}:{}/0", Ipv4Addr::LOCALHOST, self.port)
    }

    /// How many connections it has accepted so far.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Closes all connections and refuses new ones.
    pub fn cut(&self) {
        self.command(Command::Cut);
    }

    /// Accepts connections again and forwards bytes at once, including those it held back.
    pub fn restore(&self) {
        self.command(Command::Restore);
    }

    /// Accepts connections but forwards nothing in either direction, like a network that drops packets.
    pub fn freeze(&self) {
        self.command(Command::Freeze);
    }

    /// Delays every byte by `delay`, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.command(Command::Delay(delay));
    }

    /// Resets the current connections (RST) and keeps accepting new ones.
    pub fn reset_all(&self) {
        self.command(Command::ResetAll);
    }

    /// Keeps the current connections open but never forwards another byte over them, like a firewall that has dropped
    /// their state. New connections work.
    pub fn silence_all(&self) {
        self.command(Command::SilenceAll);
    }

    fn command(&self, command: Command) {
        let (done, wait) = answers::channel();
        self.commands.send((command, done)).expect("the proxy is running");
        wait.recv().expect("the proxy carries out a command");
    }
}

impl Server {
    fn new(port: u16, upstream: u16, listener: TcpListener) -> Self {
        Self {
            port,
            upstream,
            listener: Some(listener),
            connections: JoinSet::new(),
            silent: Vec::new(),
            flow: watch::Sender::new(Flow::default()),
            end: watch::Sender::new(None),
        }
    }

    async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<(Command, answers::Sender<()>)>,
        accepted: &AtomicUsize,
    ) {
        loop {
            tokio::select! {
                Some((command, done)) = orders.recv() => {
                    self.obey(command).await;
                    // The test no longer waits if it has panicked.
                    let _ = done.send(());
                }
                client = accept(self.listener.as_ref()) => {
                    accepted.fetch_add(1, Ordering::Relaxed);
                    let connection = carry(client, self.upstream, self.flow.subscribe(), self.end.subscribe());
                    self.connections.spawn(connection);
                }
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Cut => {
                self.listener = None;
                self.end_all(End::Close).await;
            }
            Command::ResetAll => self.end_all(End::Reset).await,
            Command::SilenceAll => {
                self.end.send_replace(Some(End::Silence));
                self.end = watch::Sender::new(None);
                self.silent.push(std::mem::take(&mut self.connections));
            }
            Command::Freeze => self.flow.send_modify(|flow| flow.frozen = true),
            Command::Delay(delay) => self.flow.send_modify(|flow| flow.delay = delay),
            Command::Restore => {
                self.flow.send_replace(Flow::default());
                if self.listener.is_none() {
                    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await;
                    self.listener = Some(listener.expect("the port of the proxy is still free"));
                }
            }
        }
    }

    async fn end_all(&mut self, how: End) {
        self.end.send_replace(Some(how));
        while self.connections.join_next().await.is_some() {}
        self.end = watch::Sender::new(None);
    }
}

/// The next client; pending without a listener.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    match listener {
        Some(listener) => listener.accept().await.expect("a connection from this machine").0,
        None => std::future::pending().await,
    }
}

/// Forwards one connection until either side closes it or a command ends it.
async fn carry(
    mut client: TcpStream,
    upstream: u16,
    flow: watch::Receiver<Flow>,
    mut end: watch::Receiver<Option<End>>,
) {
    // If the server is down, close the client's connection too.
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else {
        return;
    };
    let moved = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                pump(from_client, to_server, flow.clone()),
                pump(from_server, to_client, flow.clone())
            )
        };
        tokio::select! {
            // Checked first, so that no byte passes after the command.
            biased;
            told = end.wait_for(Option::is_some) => Ok(told.map_or(None, |how| *how)),
            moved = both => moved.map(|_| None),
        }
    };
    match moved {
        Ok(Some(End::Reset)) => {
            // Without lingering, closing sends RST. Fails only for a side that is already gone.
            let _ = client.set_zero_linger();
            let _ = server.set_zero_linger();
        }
        Ok(Some(End::Silence)) => std::future::pending().await,
        _ => {}
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut flow: watch::Receiver<Flow>,
) -> io::Result<()> {
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut bytes).await?;
        let delay = flow.borrow().delay;
        time::sleep(delay).await;
        // Cannot fail: the sender lives as long as this runtime.
        let _ = flow.wait_for(|flow| !flow.frozen).await;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use redis::aio::MultiplexedConnection;

    use super::*;
    use crate::redis_server::RedisServer;

    const SHORT: Duration = Duration::from_millis(200);

    async fn connect(proxy: &ChaosProxy) -> redis::RedisResult<MultiplexedConnection> {
        redis::Client::open(proxy.url())?
            .get_multiplexed_async_connection()
            .await
    }

    async fn ping(connection: &mut MultiplexedConnection) -> redis::RedisResult<String> {
        redis::cmd("PING").query_async(connection).await
    }

    #[tokio::test]
    async fn cut_ends_and_refuses_until_restored() {
        let server = RedisServer::start();
        let proxy = ChaosProxy::start(server.port());
        let mut connection = connect(&proxy).await.expect("a connection");
        assert_eq!(ping(&mut connection).await.expect("PONG"), "PONG");
        proxy.cut();
        assert!(ping(&mut connection).await.is_err());
        let refused = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))
            .await
            .expect_err("a cut proxy");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        proxy.restore();
        let mut connection = connect(&proxy).await.expect("a new connection");
        assert_eq!(ping(&mut connection).await.expect("PONG"), "PONG");
        assert_eq!(proxy.accepted(), 2);
    }

    #[tokio::test]
    async fn frozen_bytes_arrive_after_the_thaw() {
        let server = RedisServer::start();
        let proxy = ChaosProxy::start(server.port());
        proxy.freeze();
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))
            .await
            .expect("accepted");
        socket.write_all(b"PING\r\n").await.expect("taken");
        let mut answer = [0; 7];
        assert!(time::timeout(SHORT, socket.read(&mut answer)).await.is_err());
        proxy.restore();
        socket.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"+PONG\r\n");
    }

    #[tokio::test]
    async fn delay_holds_up_each_direction() {
        let server = RedisServer::start();
        let proxy = ChaosProxy::start(server.port());
        let mut connection = connect(&proxy).await.expect("a connection");
        proxy.delay(SHORT / 2);
        let started = time::Instant::now();
        assert_eq!(ping(&mut connection).await.expect("PONG"), "PONG");
        assert!(started.elapsed() >= SHORT);
    }

    /// A socket through the proxy that has carried one command.
    async fn used_socket(proxy: &ChaosProxy) -> TcpStream {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))
            .await
            .expect("accepted");
        socket.write_all(b"PING\r\n").await.expect("taken");
        socket.read_exact(&mut [0; 7]).await.expect("an answer");
        socket
    }

    #[tokio::test]
    async fn silent_connections_stay_open_and_new_ones_work() {
        let server = RedisServer::start();
        let proxy = ChaosProxy::start(server.port());
        let mut socket = used_socket(&proxy).await;
        proxy.silence_all();
        socket.write_all(b"PING\r\n").await.expect("taken");
        assert!(time::timeout(SHORT, socket.read(&mut [0; 1])).await.is_err());
        let mut connection = connect(&proxy).await.expect("a connection");
        assert_eq!(ping(&mut connection).await.expect("PONG"), "PONG");
        proxy.reset_all();
        assert!(time::timeout(SHORT, socket.read(&mut [0; 1])).await.is_err());
    }

    #[tokio::test]
    async fn reset_ends_connections_and_goes_on_accepting() {
        let server = RedisServer::start();
        let proxy = ChaosProxy::start(server.port());
        let mut socket = used_socket(&proxy).await;
        proxy.reset_all();
        let error = socket.read(&mut [0; 1]).await.expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut connection = connect(&proxy).await.expect("a new connection");
        assert_eq!(ping(&mut connection).await.expect("PONG"), "PONG");
    }
}
