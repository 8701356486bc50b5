//! Bodies larger than the sockets hold, to clients that take them in pieces.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tradebot_base::market::Market;
use tradebot_test_support::{eventually, stretched};

use super::client::{Answer, lasting_request, request};
use super::{Endpoint, route, serve, store};
use crate::world::{PATIENCE, World};

const SPOT: Market = Market::Spot;
/// Together more than the sockets between them hold.
const REQUESTS: usize = 400;

pub(super) fn list(letter: char, symbols: usize) -> String {
    let entry = |n| {
        format!(
            r#"{{"symbol": "{letter}{n}USDT", "baseAsset": "{letter}{n}", "quoteAsset": "USDT", "status": "TRADING"}}"#
        )
    };
    format!("[{}]", (0..symbols).map(entry).collect::<Vec<_>>().join(", "))
}

/// Asks for the list over and over in one write, reads the answers slowly, and gives their bodies. Adds a permit to
/// `begun` when the first bytes arrive.
async fn slow_client(endpoint: &Endpoint, begun: &Semaphore) -> Vec<String> {
    let mut socket = TcpStream::connect(endpoint.address).await.expect("a connection");
    let one = lasting_request("GET", route(SPOT), &[]);
    let all = one.repeat(REQUESTS - 1) + &request("GET", route(SPOT), &[]);
    socket.write_all(all.as_bytes()).await.expect("sent requests");
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 300_000]);
    loop {
        let read = timeout(stretched(PATIENCE), socket.read(&mut piece))
            .await
            .expect("an end");
        if bytes.is_empty() {
            begun.add_permits(1);
        }
        match read.expect("answers") {
            0 => break,
            read => bytes.extend_from_slice(&piece[..read]),
        }
        sleep(Duration::from_millis(5)).await;
    }
    let (mut bodies, mut rest) = (Vec::new(), &bytes[..]);
    while let Some((answer, after)) = Answer::first(rest, false) {
        bodies.push(String::from_utf8(answer.body).expect("UTF-8"));
        rest = after;
    }
    assert_eq!(rest, b"", "bytes that are no answer");
    bodies
}

async fn h2c_client(endpoint: &Endpoint) -> String {
    let socket = TcpStream::connect(endpoint.address).await.expect("a connection");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let uri = format!("http://{}{}", endpoint.address, route(SPOT));
    let request = hyper::Request::get(uri)
        .body(Empty::<Bytes>::new())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    drop(sender);
    connection.await.expect("a connection").expect("a good end");
    String::from_utf8(body.to_vec()).expect("UTF-8")
}

#[tokio::test]
async fn a_long_list_arrives_whole_while_another_takes_its_place() {
    let world = World::new().await;
    let (before, after) = (list('A', 900), list('B', 700));
    for market in Market::ALL {
        store(&world, market, &before).await;
    }
    let endpoint = Endpoint::start(serve(&world));
    endpoint.until_hit(SPOT).await;
    let begun = Semaphore::new(0);
    let replaced = async {
        let _both = begun.acquire_many(2).await.expect("answers");
        store(&world, SPOT, &after).await;
        eventually("the other list", PATIENCE, async || {
            (h2c_client(&endpoint).await == after).then_some(())
        })
        .await;
    };
    let (first, second, ()) = tokio::join!(
        slow_client(&endpoint, &begun),
        slow_client(&endpoint, &begun),
        replaced
    );
    for bodies in [first, second] {
        assert_eq!(bodies.len(), REQUESTS);
        let old = bodies.iter().take_while(|body| **body == before).count();
        assert!(old > 0, "no client got the first list");
        assert!(
            bodies[old..].iter().all(|body| *body == after),
            "a body of neither list"
        );
    }
    assert_eq!(h2c_client(&endpoint).await, after);
}
