//! What no client can do to the others.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;
use tradebot_base::market::Market;
use tradebot_test_support::{Reply, Signal, eventually};

use super::client::{Answer, exchange, lasting_request, read_all, request};
use super::{Endpoint, LIST, route, serve};
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

#[tokio::test]
async fn what_is_too_large_is_refused_and_a_small_body_is_not_used() {
    let world = World::new().await;
    let endpoint = limited(&world, &[("HTTP_MAX_BODY_BYTES", "1000")]).await;
    let long = "x".repeat(20_000);
    let answer = endpoint.ask("GET", route(SPOT), &[("x-long", &long)]).await;
    assert_eq!(answer.status, 431);
    let with_body = |length: usize, sent: usize| {
        let head = format!(
            "GET {} HTTP/1.1\r\nhost: t\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n",
            route(SPOT)
        );
        head + &"x".repeat(sent)
    };
    let status = async |text: String| {
        let bytes = exchange(endpoint.address, text.as_bytes()).await;
        Answer::parse(&bytes).expect("an answer").status
    };
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
async fn clients_that_dawdle_are_cut_off_and_hold_nobody_up() {
    let world = World::new().await;
    let limits = [
        ("HTTP_HEADER_TIMEOUT_SECONDS", "1"),
        ("HTTP_IDLE_TIMEOUT_SECONDS", "2"),
        ("HTTP_SEND_TIMEOUT_SECONDS", "1"),
        ("HTTP_MAX_CONNECTIONS", "60"),
    ];
    let endpoint = limited(&world, &limits).await;
    // Fifty that send a byte of a header now and then, as long as they are let.
    let slow = (0..50).map(|_| {
        let address = endpoint.address;
        tokio::spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("a connection");
            let began = Instant::now();
            let text = request("GET", "/health", &[("x-slow", "a")]);
            for byte in text.bytes() {
                if socket.write_all(&[byte]).await.is_err() || began.elapsed() > PATIENCE {
                    break;
                }
                sleep(Duration::from_millis(150)).await;
            }
            began.elapsed()
        })
    });
    let slow: Vec<_> = slow.collect();
    for _ in 0..20 {
        let answer = endpoint.get(route(SPOT)).await;
        assert_eq!((answer.status, answer.text()), (200, LIST));
        sleep(Duration::from_millis(20)).await;
    }
    for client in slow {
        assert!(client.await.expect("a client") < PATIENCE);
    }
    // One that sends nothing, and one that comes back in time.
    let (mut silent, mut lively) = (connect(&endpoint).await, connect(&endpoint).await);
    let request = lasting_request("GET", "/health", &[]);
    for _ in 0..4 {
        lively
            .write_all(request.as_bytes())
            .await
            .expect("a sent request");
        let mut buffer = [0; 4096];
        assert!(lively.read(&mut buffer).await.expect("an answer") > 0);
        sleep(Duration::from_millis(700)).await;
    }
    assert!(read_all(&mut silent).await.is_empty());
    drop(read_all(&mut lively).await);
    // One that asks and asks and takes nothing: what it is sent has to wait, but not for ever.
    let mut greedy = connect(&endpoint).await;
    let many = request.replace("/health", "/openapi.json").repeat(50);
    let began = Instant::now();
    while greedy.write_all(many.as_bytes()).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "it is never cut off");
    }
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
    drop(open);
    endpoint.until_hit(SPOT).await;
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
    assert_eq!(endpoint.process.wait_exit(PATIENCE).code(), Some(0));
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let address = endpoint.address.to_string();
    let second = tradebot_test_support::Process::builder(tradebot_test_support::bin("tradebot-symbols"))
        .args(["serve", "--listen", &address])
        .envs(world.environment())
        .spawn();
    assert_eq!(second.wait_exit(PATIENCE).code(), Some(1));
    assert!(
        second.stderr().contains("cannot listen on"),
        "{}",
        second.stderr()
    );
    let nowhere = tradebot_test_support::Process::builder(tradebot_test_support::bin("tradebot-symbols"))
        .arg("serve")
        .envs(world.environment())
        .spawn();
    assert_eq!(nowhere.wait_exit(PATIENCE).code(), Some(64));
    assert!(nowhere.stderr().contains("HTTP_LISTEN"), "{}", nowhere.stderr());
}
