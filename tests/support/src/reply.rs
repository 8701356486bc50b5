//! One answer of a scripted exchange, well-formed or deliberately broken.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time;

const PIECE: usize = 16 * 1024;

/// One scripted answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Arc<[u8]>,
    times: usize,
    framing: Framing,
    truncated_at: Option<usize>,
    delay: Duration,
    pace: Option<Duration>,
    hang: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
    Raw,
}

impl Reply {
    /// Status 200 with a JSON body.
    #[must_use]
    pub fn json(body: impl AsRef<[u8]>) -> Self {
        Self::status(200, body)
    }

    /// Any status with any body. The content type is JSON unless [`header`](Self::header) says otherwise.
    #[must_use]
    pub fn status(code: u16, body: impl AsRef<[u8]>) -> Self {
        Self {
            status: code,
            headers: vec![(
                "Content-Type".to_owned(),
                "application/json;charset=UTF-8".to_owned(),
            )],
            body: Arc::from(body.as_ref()),
            times: 1,
            framing: Framing::Length,
            truncated_at: None,
            delay: Duration::ZERO,
            pace: None,
            hang: false,
        }
    }

    /// Sends exactly these bytes, status line and all.
    #[must_use]
    pub fn raw(bytes: impl AsRef<[u8]>) -> Self {
        Self {
            framing: Framing::Raw,
            ..Self::status(200, bytes)
        }
    }

    /// Status 200 with a gzip body that unpacks to `unpacked` blanks, from about a thousandth of that on the wire.
    ///
    /// # Panics
    /// When memory runs out.
    #[must_use]
    pub fn gzip_bomb(unpacked: u64) -> Self {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        io::copy(&mut io::repeat(b' ').take(unpacked), &mut packed).expect("writing to memory cannot fail");
        let body = packed.finish().expect("writing to memory cannot fail");
        Self::json(body).header("Content-Encoding", "gzip")
    }

    /// Sets a header, replacing one of the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Compresses the body with gzip, whatever the client accepts.
    ///
    /// # Panics
    /// When memory runs out.
    #[must_use]
    pub fn gzip(mut self) -> Self {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed
            .write_all(&self.body)
            .expect("writing to memory cannot fail");
        self.body = packed.finish().expect("writing to memory cannot fail").into();
        self.header("Content-Encoding", "gzip")
    }

    /// The reply to a request with this query: as at the exchange, `symbolStatus` leaves symbols of other statuses out. A
    /// body that is no list stays as it is.
    pub(crate) fn for_query(mut self, query: &str) -> Self {
        let status = query
            .split('&')
            .find_map(|parameter| parameter.strip_prefix("symbolStatus="));
        let document = serde_json::from_slice::<serde_json::Value>(&self.body);
        if let (Some(status), Ok(mut document)) = (status, document)
            && let Some(symbols) = document["symbols"].as_array_mut()
        {
            symbols.retain(|symbol| symbol["status"] == status);
            self.body = document.to_string().into_bytes().into();
        }
        self
    }

    /// Sends headers for the whole body, then `n` bytes of it, and closes.
    #[must_use]
    pub fn truncated_at(mut self, n: usize) -> Self {
        self.truncated_at = Some(n);
        self
    }

    /// Sends the body `times` times over: a huge answer from little memory.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    /// Sends the body in chunks, without `Content-Length`. With [`truncated_at`](Self::truncated_at) the last chunk
    /// is missing.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.framing = Framing::Chunked;
        self
    }

    /// Sends no `Content-Length`: the body ends when the connection closes.
    #[must_use]
    pub fn without_length(mut self) -> Self {
        self.framing = Framing::UntilClose;
        self
    }

    /// Waits before sending the headers.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Reads the request and never answers.
    #[must_use]
    pub fn hang(mut self) -> Self {
        self.hang = true;
        self
    }

    /// Sends the headers at once and then the body byte by byte, waiting `pace` before each.
    #[must_use]
    pub fn drip(mut self, pace: Duration) -> Self {
        self.pace = Some(pace);
        self
    }

    fn head(&self) -> Vec<u8> {
        if self.framing == Framing::Raw {
            return Vec::new();
        }
        let mut head = format!("HTTP/1.1 {} Scripted\r\nConnection: close\r\n", self.status);
        let mut headers = self.headers.clone();
        match self.framing {
            Framing::Length => {
                headers.push((
                    "Content-Length".to_owned(),
                    (self.body.len() * self.times).to_string(),
                ));
            }
            Framing::Chunked => headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned())),
            Framing::UntilClose | Framing::Raw => {}
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    pub(crate) async fn send(&self, socket: &mut TcpStream) -> io::Result<()> {
        if self.hang {
            // Reading ends when the client gives up and closes.
            while socket.read(&mut [0; 512]).await? > 0 {}
            return Ok(());
        }
        time::sleep(self.delay).await;
        socket.write_all(&self.head()).await?;
        let mut left = self.truncated_at.unwrap_or(usize::MAX);
        let piece = if self.pace.is_some() { 1 } else { PIECE };
        for bytes in (0..self.times).flat_map(|_| self.body.chunks(piece)) {
            let bytes = &bytes[..bytes.len().min(left)];
            if bytes.is_empty() {
                break;
            }
            left -= bytes.len();
            if let Some(pace) = self.pace {
                time::sleep(pace).await;
            }
            self.send_piece(socket, bytes).await?;
        }
        if self.framing == Framing::Chunked && self.truncated_at.is_none() {
            socket.write_all(b"0\r\n\r\n").await?;
        }
        socket.shutdown().await
    }

    async fn send_piece(&self, socket: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        if self.framing == Framing::Chunked {
            socket
                .write_all(format!("{:x}\r\n", bytes.len()).as_bytes())
                .await?;
            socket.write_all(bytes).await?;
            return socket.write_all(b"\r\n").await;
        }
        socket.write_all(bytes).await
    }
}
