//! A small HTTP listener for `GET /metrics` and `GET /healthz`.
//!
//! An HTTP library would double the size of this binary. These two routes need one request per connection, its
//! first line and `Accept`: read it within a size limit and a deadline, answer, close.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, warn};
use tradebot_base::clock::SharedClock;
use tradebot_base::exposition::TextFormat;
use tradebot_base::said::Repeated;

use crate::metrics::Metrics;

/// How long a connection may take from request to answer.
const DEADLINE: Duration = Duration::from_secs(5);
const LONGEST_REQUEST: usize = 8 * 1024;
const MAX_CONNECTIONS: usize = 16;
/// How long to wait before accepting again after a failure, such as too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(500);

/// Answers requests until the process ends.
pub(crate) async fn serve(listener: TcpListener, metrics: Metrics, clock: SharedClock) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut errors = Repeated::default();
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = errors.report(Instant::now()) {
                    warn!(%error, times, "cannot accept connections");
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (metrics, clock) = (metrics.clone(), Arc::clone(&clock));
        tokio::spawn(async move {
            match timeout(DEADLINE, answer(stream, &metrics, &clock)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%peer, %error, "could not answer a request"),
                Err(_) => debug!(%peer, "closed a connection that took too long"),
            }
            drop(permit);
        });
    }
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
    let healthy = metrics.is_healthy(clock.now().timestamp_micros());
    let accept = request.lines().filter_map(|line| line.split_once(':'));
    let accept = accept.filter(|(name, _)| name.eq_ignore_ascii_case("accept"));
    let format = TextFormat::accepted(accept.map(|(_, value)| value));
    let text = |text: &str| ("text/plain", text.to_owned());
    let (status, (content_type, body)) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => ("200 OK", (format.content_type(), format.write(metrics.text()))),
        ("GET" | "HEAD", "/healthz") if healthy => ("200 OK", text("ok\n")),
        ("GET" | "HEAD", "/healthz") => ("503 Service Unavailable", text("the broker does not answer\n")),
        ("GET" | "HEAD", _) => ("404 Not Found", text("try /metrics or /healthz\n")),
        _ => ("405 Method Not Allowed", text("use GET\n")),
    };
    let length = body.len();
    let body = if method == "HEAD" { "" } else { &body };
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}
