//! A client that sends given bytes and returns the bytes that come back.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tradebot_test_support::stretched;

use crate::world::PATIENCE;

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// In their order, the names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The value of a header that comes at most once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} twice: {:?}", self.headers);
        value
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// Takes the first of several answers off, if it is there as a whole. What is left is the rest.
    pub(super) fn first(bytes: &[u8], to_head: bool) -> Option<(Self, &[u8])> {
        let mut answer = Self::parse(bytes)?;
        let length = match answer.header("content-length") {
            Some(length) if !to_head => length.parse().expect("a number"),
            _ => 0,
        };
        let rest = bytes.len() - answer.body.len() + length;
        answer.body.truncate(length);
        (rest <= bytes.len()).then(|| (answer, &bytes[rest..]))
    }

    /// Takes an answer apart; without a length the rest is the body.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self {
            status,
            headers,
            body: bytes[end + 4..].to_vec(),
        })
    }
}

/// A connection that stays, as a client that polls or a proxy has it.
pub(super) struct KeptAlive {
    socket: TcpStream,
    /// What has come of answers that have not been taken.
    bytes: Vec<u8>,
}

impl KeptAlive {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        let socket = TcpStream::connect(address).await.expect("a connection");
        socket.set_nodelay(true).expect("small packets");
        let bytes = Vec::new();
        Self { socket, bytes }
    }

    /// A connection whose socket holds little of what the client does not read.
    pub(super) async fn with_small_buffer(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(32 * 1024).expect("a buffer size");
        let socket = socket.connect(address).await.expect("a connection");
        let bytes = Vec::new();
        Self { socket, bytes }
    }

    pub(super) async fn send(&mut self, text: &str) {
        self.socket
            .write_all(text.as_bytes())
            .await
            .expect("a sent request");
    }

    /// The next answer.
    pub(super) async fn answer(&mut self, to_head: bool) -> Answer {
        loop {
            if let Some((answer, rest)) = Answer::first(&self.bytes, to_head) {
                self.bytes = rest.to_vec();
                return answer;
            }
            let read = timeout(stretched(PATIENCE), self.socket.read_buf(&mut self.bytes)).await;
            let read = read.expect("more of an answer").expect("a connection");
            assert!(read > 0, "the end: {}", String::from_utf8_lossy(&self.bytes));
        }
    }

    /// Everything that has not been taken, until the server closes the connection.
    pub(super) async fn rest(mut self) -> Vec<u8> {
        self.bytes.extend(read_all(&mut self.socket).await);
        self.bytes
    }

    /// Sends a request and takes its answer.
    pub(super) async fn ask(&mut self, text: &str) -> Answer {
        self.send(text).await;
        self.answer(text.starts_with("HEAD ")).await
    }
}

/// The text of a request without a body, after which the connection stays.
pub(super) fn lasting_request(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut text = format!("{method} {target} HTTP/1.1\r\nhost: test\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text + "\r\n"
}

/// The text of a request without a body, after which the connection closes.
pub(super) fn request(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    lasting_request(method, target, &[&[("connection", "close")], headers].concat())
}

/// Sends bytes, and gives all that comes back until the connection ends.
pub(super) async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.expect("a connection");
    socket.write_all(bytes).await.expect("a sent request");
    read_all(&mut socket).await
}

/// Everything until the other side closes.
pub(super) async fn read_all(socket: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    let read = timeout(stretched(PATIENCE), socket.read_to_end(&mut answer)).await;
    // A reset is an end, too.
    let _ = read.expect("an end of the connection");
    answer
}

pub(super) async fn ask(address: SocketAddr, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let bytes = exchange(address, request(method, target, headers).as_bytes()).await;
    Answer::parse(&bytes).unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&bytes)))
}
