//! Limits of connections, requests and time, which protect clients from each other.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tradebot_base::market::Market;
use tradebot_test_support::{Process, Reply, Signal, bin, eventually, stretched};

use super::client::{Answer, KeptAlive, exchange, lasting_request, read_all, request};
use super::{Endpoint, LIST, route, sample, serve, store};
use crate::world::{GOOD_TEXT, PATIENCE, World, good_list, path};

const SPOT: Market = Market::Spot;

async fn limited(world: &World, limits: &[(&str, &str)]) -> Endpoint {
    Endpoint::warmed(world, serve(world).envs(limits.iter().copied())).await
}

async fn connect(endpoint: &Endpoint) -> TcpStream {
    TcpStream::connect(endpoint.address).await.expect("a connection")
}

#[tokio::test]
async fn h2c_and_pipelined_requests_are_answered() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let io = TokioIo::new(connect(&endpoint).await);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    for method in ["GET", "HEAD"] {
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("http://{}{}", endpoint.address, route(SPOT)))
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(
            (answer.status().as_u16(), answer.version()),
            (200, hyper::Version::HTTP_2)
        );
        assert_eq!(answer.headers()["content-length"], LIST.len().to_string());
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        assert_eq!(body, if method == "GET" { LIST } else { "" });
    }
    drop(sender);
    connection.await.expect("a connection").expect("a good end");
    let one = lasting_request("GET", "/health", &[]);
    let two = one.clone() + &request("GET", route(SPOT), &[]);
    let text = String::from_utf8(exchange(endpoint.address, two.as_bytes()).await).expect("UTF-8");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert!(text.find("healthy") < text.find("BTCUSDT"), "{text}");
}

fn with_body(length: usize, sent: usize) -> String {
    let length = length.to_string();
    request("GET", route(SPOT), &[("content-length", &length)]) + &"x".repeat(sent)
}

async fn status(endpoint: &Endpoint, text: String) -> u16 {
    let bytes = exchange(endpoint.address, text.as_bytes()).await;
    Answer::parse(&bytes).expect("an answer").status
}

#[tokio::test]
async fn what_is_too_large_is_refused_and_a_small_body_is_not_used() {
    let world = World::new().await;
    let endpoint = limited(&world, &[("HTTP_MAX_BODY_BYTES", "1000")]).await;
    let long = "x".repeat(20_000);
    let answer = endpoint.ask("GET", route(SPOT), &[("x-long", &long)]).await;
    assert_eq!(answer.status, 431);
    let status = async |text: String| status(&endpoint, text).await;
    assert_eq!(status(with_body(1000, 1000)).await, 200);
    assert_eq!(status(with_body(1001, 0)).await, 413);
    let chunk = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n",
        route(SPOT)
    );
    assert_eq!(status(format!("{head}{chunk}0\r\n\r\n")).await, 200);
    assert_eq!(status(format!("{head}{chunk}{chunk}0\r\n\r\n")).await, 413);
    assert_eq!(status("GARBAGE\r\n\r\n".to_owned()).await, 400);
}

#[tokio::test]
async fn without_settings_a_body_may_have_16_kib() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    assert_eq!(status(&endpoint, with_body(16_384, 16_384)).await, 200);
    assert_eq!(status(&endpoint, with_body(16_385, 0)).await, 413);
}

/// Enough for a busy machine, and below ten times the limit even with `TEST_PATIENCE=3`: a limit ten times as long fails.
fn soon(limit: Duration) -> Duration {
    stretched(limit * 3)
}

const LIMIT: Duration = Duration::from_secs(1);

/// Reads until the server closes the connection, and asserts that this takes as long as the limit says.
async fn closed_after(limit: Duration, socket: &mut TcpStream) {
    let began = Instant::now();
    let mut bytes = Vec::new();
    let closed = timeout(soon(limit), socket.read_to_end(&mut bytes)).await;
    assert!(
        closed.is_ok(),
        "open after {:?}, the limit is {limit:?}",
        began.elapsed()
    );
    assert!(
        began.elapsed() * 10 > limit * 9,
        "closed after {:?}",
        began.elapsed()
    );
}

/// Settings of which one limit of time is short and the others are too long to matter.
fn only_short(short: &'static str) -> [(&'static str, &'static str); 4] {
    [
        "HTTP_HEADER_TIMEOUT_SECONDS",
        "HTTP_IDLE_TIMEOUT_SECONDS",
        "HTTP_SEND_TIMEOUT_SECONDS",
        "HTTP_REQUEST_TIMEOUT_SECONDS",
    ]
    .map(|name| (name, if name == short { "1" } else { "300" }))
}

#[tokio::test]
async fn clients_that_send_a_header_byte_by_byte_are_cut_off_and_delay_no_others() {
    let world = World::new().await;
    let endpoint = limited(&world, &only_short("HTTP_HEADER_TIMEOUT_SECONDS")).await;
    let slow = (0..50).map(|_| {
        let address = endpoint.address;
        tokio::spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("a connection");
            let began = Instant::now();
            socket
                .write_all(b"GET /health HTTP/1.1\r\nx-slow: ")
                .await
                .expect("half a header");
            while began.elapsed() < soon(LIMIT) {
                if socket.write_all(b"a").await.is_err() {
                    return began.elapsed();
                }
                sleep(Duration::from_millis(150)).await;
            }
            panic!("open after {:?}, the limit is {LIMIT:?}", began.elapsed());
        })
    });
    let slow: Vec<_> = slow.collect();
    let mut preface = connect(&endpoint).await;
    preface.write_all(b"PRI * HTTP/2").await.expect("half a preface");
    for _ in 0..20 {
        let answer = endpoint.get(route(SPOT)).await;
        assert_eq!((answer.status, answer.text()), (200, LIST));
        sleep(Duration::from_millis(20)).await;
    }
    for client in slow {
        assert!(client.await.expect("a client") >= LIMIT);
    }
    // It was sent before the others were waited for.
    let mut bytes = Vec::new();
    let closed = timeout(soon(LIMIT), preface.read_to_end(&mut bytes)).await;
    assert!(closed.is_ok(), "half a preface keeps a connection open");
}

#[tokio::test]
async fn idle_connections_are_closed_and_lively_ones_are_not() {
    let world = World::new().await;
    let endpoint = limited(&world, &only_short("HTTP_IDLE_TIMEOUT_SECONDS")).await;
    closed_after(LIMIT, &mut connect(&endpoint).await).await;
    let mut lively = connect(&endpoint).await;
    let request = lasting_request("GET", "/health", &[]);
    for _ in 0..4 {
        lively
            .write_all(request.as_bytes())
            .await
            .expect("a sent request");
        let mut buffer = [0; 4096];
        assert!(lively.read(&mut buffer).await.expect("an answer") > 0);
        sleep(LIMIT / 2).await;
    }
    closed_after(LIMIT / 2, &mut lively).await;
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_cut_off() {
    let world = World::new().await;
    let endpoint = limited(&world, &only_short("HTTP_SEND_TIMEOUT_SECONDS")).await;
    let mut greedy = connect(&endpoint).await;
    let many = lasting_request("GET", "/openapi.json", &[]).repeat(50);
    let fill = async { while greedy.write_all(many.as_bytes()).await.is_ok() {} };
    // Filling the sockets takes a moment before the limit begins.
    let ended = timeout(soon(LIMIT), fill).await;
    assert!(ended.is_ok(), "a client that reads nothing is never cut off");
    let metrics = endpoint.get("/metrics").await;
    let cut = sample(
        metrics.text(),
        "tradebot_symbols_http_connections_total{fate=\"cut\"}",
    );
    assert_eq!(cut, 1.0);
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_a_504() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let endpoint = Endpoint::start(
        serve(&world)
            .envs(only_short("HTTP_REQUEST_TIMEOUT_SECONDS"))
            .envs([
                ("SYMBOLS_READ_TIMEOUT_SECONDS", "300"),
                ("ENABLE_SPOT_WARMUP_ON_STARTUP", "0"),
                ("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0"),
            ]),
    );
    let half_a_body = lasting_request("GET", "/health", &[("content-length", "9")]) + "half";
    for text in [request("GET", route(SPOT), &[]), half_a_body] {
        let began = Instant::now();
        let mut client = KeptAlive::connect(endpoint.address).await;
        let answer = timeout(soon(LIMIT), client.ask(&text)).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer to {text} in time"));
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (504, Some("1")),
            "{text}"
        );
        assert!(began.elapsed() >= LIMIT);
    }
}

/// What the server tells an HTTP/2 client about itself, by the identifiers of RFC 9113, 6.5.2.
#[tokio::test]
async fn an_http_2_client_gets_the_limits_of_headers_and_streams() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let mut socket = connect(&endpoint).await;
    let empty_settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let hello = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &empty_settings].concat();
    // The preface may come in pieces.
    for piece in [&hello[..1], &hello[1..20], &hello[20..]] {
        socket.write_all(piece).await.expect("a sent piece");
        sleep(Duration::from_millis(20)).await;
    }
    let mut head = [0; 9];
    let read = timeout(stretched(PATIENCE), socket.read_exact(&mut head)).await;
    read.expect("a frame in time").expect("a frame");
    assert_eq!((head[0], head[1], head[3]), (0, 0, 4), "settings come first");
    let mut settings = vec![0; usize::from(head[2])];
    socket.read_exact(&mut settings).await.expect("settings");
    let setting = |wanted: u16| {
        let mut found = settings
            .chunks_exact(6)
            .filter(|entry| entry[..2] == wanted.to_be_bytes());
        let value = found
            .next()
            .unwrap_or_else(|| panic!("no setting {wanted} in {settings:?}"));
        u32::from_be_bytes([value[2], value[3], value[4], value[5]])
    };
    let (max_concurrent_streams, max_header_list_size) = (3, 6);
    assert_eq!(setting(max_concurrent_streams), 128);
    assert_eq!(setting(max_header_list_size), 16384);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_at_once() {
    let world = World::new().await;
    let endpoint = limited(&world, &[("HTTP_MAX_CONNECTIONS", "3")]).await;
    // The connections of the warm-up may still be on their way out.
    let open = eventually("three connections", PATIENCE, async || {
        let mut open = Vec::new();
        for _ in 0..3 {
            let mut socket = connect(&endpoint).await;
            let text = lasting_request("GET", "/health", &[]);
            socket.write_all(text.as_bytes()).await.ok()?;
            let mut buffer = [0; 4096];
            let read = socket.read(&mut buffer).await.ok()?;
            if !String::from_utf8_lossy(&buffer[..read]).starts_with("HTTP/1.1 200") {
                return None;
            }
            open.push(socket);
        }
        Some(open)
    })
    .await;
    let answer = endpoint.get(route(SPOT)).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(super::detail(&answer), "Too many connections.");
    // A refused client that neither reads nor closes does not hold its connection for long.
    let mut silent = connect(&endpoint).await;
    let began = Instant::now();
    while silent.write_all(b"x").await.is_ok() {
        assert!(began.elapsed() < soon(LIMIT), "a refused connection stays open");
        sleep(Duration::from_millis(100)).await;
    }
    drop(open);
    endpoint.until_hit(SPOT).await;
}

#[tokio::test]
async fn only_so_many_refused_clients_are_answered_at_a_time() {
    let world = World::new().await;
    let limits = [("HTTP_MAX_CONNECTIONS", "1"), ("HTTP_IDLE_TIMEOUT_SECONDS", "2")];
    let endpoint = limited(&world, &limits).await;
    let mut refused = Vec::new();
    for _ in 0..300 {
        refused.push(connect(&endpoint).await);
    }
    let mut unanswered = 0;
    for mut socket in refused {
        if read_all(&mut socket).await.is_empty() {
            unanswered += 1;
        }
    }
    // 64 at a time, for up to a second each; and the one that is served is closed as idle.
    assert!(unanswered > 50, "only {unanswered} of 300 clients got no answer");
}

#[tokio::test]
async fn a_stop_answers_what_was_asked_and_ends_idle_connections() {
    let world = World::new().await;
    let endpoint = Endpoint::start(serve(&world).envs([
        ("ENABLE_SPOT_WARMUP_ON_STARTUP", "0"),
        ("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0"),
    ]));
    world
        .exchange
        .always(path(SPOT), Reply::json(good_list()).delay(Duration::from_secs(1)));
    let mut idle = connect(&endpoint).await;
    let (address, text) = (endpoint.address, request("GET", route(SPOT), &[]));
    let asked = tokio::spawn(async move { exchange(address, text.as_bytes()).await });
    world.asked(SPOT, 1).await;
    endpoint.process.signal(Signal::SIGTERM);
    assert!(read_all(&mut idle).await.is_empty());
    let answer = Answer::parse(&asked.await.expect("a client")).expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, GOOD_TEXT));
    assert_eq!(endpoint.process.wait_exit(PATIENCE).code(), Some(0));
    assert!(TcpStream::connect(endpoint.address).await.is_err());
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let endpoint = Endpoint::start(serve(&world).envs([
        ("WORKER_SHUTDOWN_TIMEOUT_SECONDS", "1"),
        ("HTTP_REQUEST_TIMEOUT_SECONDS", "300"),
        ("SYMBOLS_READ_TIMEOUT_SECONDS", "300"),
        ("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0"),
    ]));
    world.asked(SPOT, 1).await;
    let mut asked = connect(&endpoint).await;
    asked
        .write_all(request("GET", route(SPOT), &[]).as_bytes())
        .await
        .expect("a sent request");
    // It was read once an answer comes to another of the same connection's thread.
    for _ in 0..4 {
        assert_eq!(endpoint.get("/health").await.status, 200);
    }
    endpoint.process.signal(Signal::SIGTERM);
    closed_after(LIMIT, &mut asked).await;
    assert_eq!(endpoint.process.wait_exit(PATIENCE).code(), Some(0));
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let address = endpoint.address.to_string();
    let second = Process::builder(bin("tradebot-symbols"))
        .args(["serve", "--listen", &address])
        .envs(world.environment())
        .spawn();
    assert_eq!(second.wait_exit(PATIENCE).code(), Some(1));
    assert!(
        second.stderr().contains("cannot listen on"),
        "{}",
        second.stderr()
    );
    let nowhere = Process::builder(bin("tradebot-symbols"))
        .arg("serve")
        .envs(world.environment())
        .spawn();
    assert_eq!(nowhere.wait_exit(PATIENCE).code(), Some(64));
    assert!(nowhere.stderr().contains("HTTP_LISTEN"), "{}", nowhere.stderr());
}

/// A figure of a process's memory, in KiB.
fn memory(endpoint: &Endpoint, name: &str) -> u64 {
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", endpoint.process.pid())).expect("a Linux machine");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.trim().strip_suffix(" kB"));
    figure.and_then(|figure| figure.parse().ok()).expect("a figure")
}

/// Stores a list, waits until it is served in brotli, the slowest coding, and returns how long that took.
async fn packed(world: &World, endpoint: &Endpoint, list: &str) -> Duration {
    let began = Instant::now();
    store(world, SPOT, list).await;
    eventually("a list in brotli", stretched(PATIENCE) * 6, async || {
        let plain = endpoint.get(route(SPOT)).await;
        let packed = endpoint
            .ask("GET", route(SPOT), &[("accept-encoding", "br")])
            .await;
        let is_packed = packed.header("content-encoding") == Some("br");
        (plain.text() == list && is_packed).then_some(())
    })
    .await;
    began.elapsed()
}

#[tokio::test]
async fn lists_that_change_all_the_time_are_packed_one_at_a_time_and_the_last_one_soon() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let long =
        |number: usize| super::large::list(char::from(b'A' + u8::try_from(number).expect("small")), 3300);
    let idle = memory(&endpoint, "VmRSS:");
    let alone = packed(&world, &endpoint, &long(0)).await;
    for number in 1..20 {
        store(&world, SPOT, &long(number)).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(125) {
            endpoint.get(route(SPOT)).await;
            sleep(Duration::from_millis(10)).await;
        }
    }
    let last = packed(&world, &endpoint, &long(20)).await;
    // What a list before it has begun is given up after a piece of it.
    assert!(last < alone * 3, "{last:?}, one list alone takes {alone:?}");
    let grown = memory(&endpoint, "VmHWM:") - idle;
    assert!(grown < 64 * 1024, "{grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_clients_leave_open_files_for_redis() {
    let world = World::new().await;
    let limited = Process::builder("sh")
        .args(["-c", "ulimit -n 160 && exec \"$0\" serve --listen 127.0.0.1:0"])
        .arg(bin("tradebot-symbols"))
        .envs(world.environment());
    let endpoint = Endpoint::warmed(&world, limited).await;
    endpoint
        .process
        .wait_for_line("allows fewer connections than HTTP_MAX_CONNECTIONS", PATIENCE);
    endpoint
        .process
        .wait_for_line("http.max_connections=32", PATIENCE);
    let mut client = KeptAlive::connect(endpoint.address).await;
    let ask = lasting_request("GET", route(SPOT), &[]);
    assert_eq!(client.ask(&ask).await.status, 200);
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(connect(&endpoint).await);
    }
    // It has to connect again, and to fetch the new list.
    let mut kill = redis::cmd("CLIENT");
    kill.arg("KILL")
        .arg("SKIPME")
        .arg("yes")
        .arg("TYPE")
        .arg("normal");
    let killed: i64 = kill
        .query_async(&mut world.db())
        .await
        .expect("killed connections");
    assert!(killed > 0);
    let list = super::large::list('N', 2);
    store(&world, SPOT, &list).await;
    eventually("the new list", PATIENCE, async || {
        (client.ask(&ask).await.text() == list).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_accept_says_so_once_and_goes_on_when_it_can() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let open_files = |limit: &str| {
        let process = endpoint.process.pid().to_string();
        let limited = Process::builder("prlimit")
            .args(["--pid", &process, &format!("--nofile={limit}:")])
            .spawn();
        assert!(limited.wait_exit(PATIENCE).success(), "{}", limited.output());
    };
    open_files("8");
    let waiting = connect(&endpoint).await;
    endpoint
        .process
        .wait_for_line("cannot accept connections", PATIENCE);
    // Time for a few more attempts.
    sleep(Duration::from_secs(2)).await;
    let said = endpoint.process.output();
    assert_eq!(said.matches("cannot accept connections").count(), 1, "{said}");
    open_files("1000");
    drop(waiting);
    endpoint.until_hit(SPOT).await;
}
