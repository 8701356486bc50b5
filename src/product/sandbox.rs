//! A local stand-in for the exchange, so that the service can be tried without it.
//!
//! It serves `exchangeInfo`, `time` and `ping` of the spot and the USD-M futures market over plain HTTP/1.1, with documents
//! as large and as varied as the real ones ([`Catalog`]) and with the real headers, compression and parameter errors
//! ([`SandboxServer`]). Every answer has the header `X-Sandbox`, and every generated one `"sandbox": true`, so that no
//! client mistakes it for the real exchange.
//!
//! There are no signed calls, prices, order books, streams or accounts. The sandbox counts request weight, but never
//! returns 429 or 418 or simulates faults. It has neither TLS nor a login and is meant for the local machine.

mod catalog;
mod server;

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};

pub(crate) use self::catalog::Catalog;
pub(crate) use self::server::SandboxServer;

/// Largest capture that is read. The largest real answer has about 16 MB.
const CAPTURE_LIMIT_BYTES: usize = 128 * 1024 * 1024;

/// Why the sandbox cannot start. Each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SandboxError {
    /// A capture could not be read.
    #[error("cannot read {}: give the path of a captured exchangeInfo answer", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A capture is not an `exchangeInfo` answer.
    #[error("{} is not an exchangeInfo answer ({reason}): save the body of one as JSON", path.display())]
    NotExchangeInfo {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Listening on the address failed.
    #[error("cannot listen on {address}: choose a free port of this machine, or port 0 for any")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

/// Values of `symbolStatus` that the exchange documents.
const SYMBOL_STATUSES: [&str; 3] = ["TRADING", "HALT", "BREAK"];

/// The spot parameters that the sandbox understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SpotQuery {
    /// One of [`SYMBOL_STATUSES`].
    status: Option<&'static str>,
    permission_sets: bool,
}

impl SpotQuery {
    const EVERYTHING: Self = Self {
        status: None,
        permission_sets: true,
    };

    fn wants(self, status: &str) -> bool {
        self.status.is_none_or(|wanted| wanted == status)
    }
}

/// Unix milliseconds by the local clock, at least 0.
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Deserialize)]
struct Shape {
    #[expect(dead_code, reason = "only its presence and its type matter")]
    symbols: Vec<IgnoredAny>,
}

/// Reads a captured answer and checks its shape.
fn read_capture(path: &Path) -> Result<Bytes, SandboxError> {
    let mut body = Vec::new();
    let limit = CAPTURE_LIMIT_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut body))
        .map_err(|source| SandboxError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    let refuse = |reason| SandboxError::NotExchangeInfo {
        path: path.to_owned(),
        reason,
    };
    if body.len() > CAPTURE_LIMIT_BYTES {
        return Err(refuse(format!("more than {CAPTURE_LIMIT_BYTES} bytes")));
    }
    // serde would also read the struct from a JSON array.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(refuse("not a JSON object".to_owned()));
    }
    serde_json::from_slice::<Shape>(&body).map_err(|error| refuse(error.to_string()))?;
    Ok(Bytes::from(body))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use flate2::read::GzDecoder;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;

    const SPOT: &str = "/api/v3/exchangeInfo";
    const GZIP: &str = "Accept-Encoding: gzip\r\n";

    fn symbols(document: &[u8]) -> Vec<Value> {
        let mut document: Value = serde_json::from_slice(document).unwrap();
        document["symbols"].as_array_mut().unwrap().split_off(0)
    }

    fn texts<'a>(symbols: &'a [Value], field: &str) -> BTreeSet<&'a str> {
        symbols.iter().map(|s| s[field].as_str().unwrap()).collect()
    }

    fn assert_market(symbols: &[Value], at_least: usize, open_in_usdt: std::ops::Range<usize>) {
        assert!(symbols.len() >= at_least, "{} symbols", symbols.len());
        assert_eq!(texts(symbols, "symbol").len(), symbols.len(), "all unique");
        let open = |s: &&Value| s["status"] == "TRADING" && s["quoteAsset"] == "USDT";
        let open: Vec<Value> = symbols.iter().filter(open).cloned().collect();
        assert!(open_in_usdt.contains(&open.len()), "{} open", open.len());
        for base in "BTC ETH BNB SOL ADA AVAX DOT MATIC LINK UNI 币安人生".split(' ') {
            let symbol = format!("{base}USDT");
            assert!(texts(&open, "symbol").contains(&*symbol), "{symbol}");
        }
    }

    #[test]
    fn generated_markets_are_full_size() {
        let catalog = Catalog::generate();
        let spot = catalog.spot_answer(SpotQuery::EVERYTHING);
        let futures = catalog.futures_answer();
        assert!((12_000_000..18_000_000).contains(&spot.len()), "{}", spot.len());
        assert!((900_000..1_300_000).contains(&futures.len()), "{}", futures.len());

        let spot = symbols(&spot);
        assert_market(&spot, 3_300, 400..600);
        let statuses = "BREAK CANCEL_ONLY END_OF_DAY HALT TRADING".split(' ');
        assert!(texts(&spot, "status").into_iter().eq(statuses));
        assert!(texts(&spot, "symbol").contains("这是测试币456"));
        assert_eq!(spot[0]["permissionSets"][0].as_array().unwrap().len(), 222);

        let futures = symbols(&futures);
        assert_market(&futures, 900, 500..700);
        let statuses = "CLOSE DELIVERED DELIVERING PENDING_TRADING PRE_DELIVERING PRE_SETTLE \
            SANDBOX_UNHEARD_OF SETTLING TRADING TRADING_HALT";
        assert!(texts(&futures, "status").into_iter().eq(statuses.split(' ')));
        let kinds = ["", "CURRENT_QUARTER DELIVERING", "TRADIFI_PERPETUAL"].into();
        assert!(texts(&futures, "contractType").is_superset(&kinds));
    }

    fn start(
        catalog: Catalog,
    ) -> (
        SocketAddr,
        CancellationToken,
        JoinHandle<Result<(), SandboxError>>,
    ) {
        let any_port = "127.0.0.1:0".parse().unwrap();
        let server = SandboxServer::bind(any_port, catalog).unwrap();
        let (to, stop) = (server.local_addr(), CancellationToken::new());
        assert_eq!(server.base_url(), format!("http://{to}"));
        (to, stop.clone(), tokio::spawn(server.run(stop)))
    }

    async fn send(to: SocketAddr, start: &str, headers: &str) -> TcpStream {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let request = format!("{start} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    /// The head of the answer, in lower case, and the body, unpacked.
    async fn ask(to: SocketAddr, start: &str, headers: &str) -> (String, Vec<u8>) {
        let mut answer = Vec::new();
        let mut stream = send(to, start, headers).await;
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let mut body = answer.split_off(end + 4);
        let head = String::from_utf8(answer).unwrap().to_lowercase();
        if head.contains("content-encoding: gzip") {
            let packed = std::mem::take(&mut body);
            GzDecoder::new(&packed[..]).read_to_end(&mut body).unwrap();
        }
        (head, body)
    }

    #[tokio::test]
    async fn answers_like_the_exchange() {
        let (to, stop, running) = start(Catalog::generate());
        let both = format!("GET {SPOT}?symbolStatus=TRADING&showPermissionSets=false");
        let (head, body) = ask(to, &both, GZIP).await;
        for part in [
            "http/1.1 200",
            "-encoding: gzip",
            "x-sandbox: tradebot",
            "-1m: 20\r\n",
        ] {
            assert!(head.contains(part), "{part}: {head}");
        }
        let open = symbols(&body);
        assert!(texts(&open, "status").into_iter().eq(["TRADING"]) && open.len() > 1_000);
        assert!(
            open.iter()
                .all(|s| s["permissionSets"].as_array().unwrap().is_empty())
        );
        let (head, plain) = ask(to, &both, "").await;
        let length = format!("content-length: {}\r\n", plain.len());
        assert!(head.contains(&length) && plain.starts_with(br#"{"timezone":"UTC","sandbox":true,"#));
        assert!(symbols(&plain) == open);
        let (head, nothing) = ask(to, &both.replace("GET", "HEAD"), "").await;
        assert!(head.contains(&length) && nothing.is_empty());

        let body = "Content-Length: 1\r\n";
        for (request, headers, status, code) in [
            ("POST /api/v3/ping", "", "405", "-5000"),
            ("GET /api/v3/ping", body, "413", "-1101"),
            ("GET /api/v3/exchangeInfo?symbolStatus=X", "", "400", "-1122"),
            ("GET /api/v3/exchangeInfo?symbol=X", "", "400", "-1101"),
            ("GET /api/v1/exchangeInfo", "", "404", "-5000"),
        ] {
            let (head, body) = ask(to, request, headers).await;
            let body = String::from_utf8(body).unwrap();
            assert!(head.contains(&format!("1.1 {status}")), "{request}: {head}");
            assert!(body.contains(&format!("\"code\":{code},")), "{request}: {body}");
            assert_eq!(head.contains("allow: get, head"), status == "405");
        }
        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn captures_are_checked_and_served_byte_for_byte() {
        let path = std::env::temp_dir().join(format!("sandbox-capture-{}", std::process::id()));
        let load = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Catalog::from_files(None, Some(&path))
        };
        for wrong in [
            "",
            "[[]]",
            "{}",
            "{\"symbols\":{}}",
            "{\"symbols\":[]",
            "{\"code\":0}",
        ] {
            let error = load(wrong).unwrap_err();
            assert!(matches!(error, SandboxError::NotExchangeInfo { .. }), "{error}");
            assert!(error.to_string().contains("sandbox-capture-"), "{error}");
        }
        let capture = r#" {"symbols" : [{"symbol":"BTCUSDT"}], "serverTime":1} "#;
        let (to, ..) = start(load(capture).unwrap());
        for headers in ["", GZIP] {
            let (head, body) = ask(to, "GET /fapi/v1/exchangeInfo?symbol=X", headers).await;
            assert!(body == capture.as_bytes() && head.contains("x-sandbox"));
        }
        std::fs::remove_file(&path).unwrap();
        let error = Catalog::from_files(Some(&path), None).unwrap_err();
        assert!(matches!(error, SandboxError::Unreadable { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_stop_lets_the_request_in_flight_end() {
        let (to, stop, running) = start(Catalog::generate());
        let _idle = TcpStream::connect(to).await.unwrap();
        let mut busy = send(to, &format!("GET {SPOT}"), "").await;
        busy.read_u8().await.unwrap();
        stop.cancel();
        let (stopped, mut answer) = (Instant::now(), Vec::new());
        busy.read_to_end(&mut answer).await.unwrap();
        assert!(answer.ends_with(b"}]}"));
        running.await.unwrap().unwrap();
        assert!(stopped.elapsed() < Duration::from_secs(4));
        assert!(TcpStream::connect(to).await.is_err());
    }
}
