//! A listener for `GET /metrics` and `GET /healthz`, and nothing else.
//!
//! An HTTP library would be half of this binary. What is needed here is one request per connection, of which only the
//! first line matters: it is read within a bound and a deadline, answered, and the connection closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};
use tradebot_base::clock::SharedClock;

use crate::metrics::{Metrics, is_healthy};

const DEADLINE: Duration = Duration::from_secs(5);
const LONGEST_REQUEST: usize = 8 * 1024;
const CONNECTIONS: usize = 16;

/// Answers until the process ends.
pub(crate) async fn serve(listener: TcpListener, metrics: Metrics, clock: SharedClock) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Too many open files, most likely: that may pass.
                warn!(%error, "no connection could be taken");
                tokio::time::sleep(Duration::from_millis(500)).await;
                continue;
            }
        };
        let (metrics, clock) = (metrics.clone(), Arc::clone(&clock));
        tokio::spawn(async move {
            if let Err(error) = timeout(DEADLINE, answer(stream, &metrics, &clock))
                .await
                .unwrap_or(Ok(()))
            {
                debug!(%peer, %error, "a request was not answered");
            }
            drop(place);
        });
    }
}

/// Opens the listener.
pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

async fn answer(mut stream: TcpStream, metrics: &Metrics, clock: &SharedClock) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST_REQUEST {
        if stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let request = String::from_utf8_lossy(&request);
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => (
            "200 OK",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            metrics.text(),
        ),
        ("GET" | "HEAD", "/healthz") if is_healthy(&metrics.heard, clock.now().timestamp()) => {
            ("200 OK", "text/plain", "ok\n".to_owned())
        }
        ("GET" | "HEAD", "/healthz") => (
            "503 Service Unavailable",
            "text/plain",
            "the broker does not answer\n".to_owned(),
        ),
        ("GET" | "HEAD", _) => (
            "404 Not Found",
            "text/plain",
            "there are /metrics and /healthz\n".to_owned(),
        ),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".to_owned()),
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { &body };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    stream.shutdown().await
}
