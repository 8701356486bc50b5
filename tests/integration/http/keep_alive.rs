//! Clients that repeat requests on one connection and get the right answer to each.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Signal, eventually, seeded_rng};

use super::client::{Answer, KeptAlive, lasting_request};
use super::{Endpoint, LIST, route, serve, store, upstream_fails};
use crate::world::{PATIENCE, World};

const SPOT: Market = Market::Spot;
const OTHER: &str =
    r#"[{"symbol": "ETHUSDT", "baseAsset": "ETH", "quoteAsset": "USDT", "status": "TRADING"}]"#;

/// All of an answer that is the same at another time.
fn lasting_parts(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let changing = ["date", "age", "cache-control", "cache-status", "connection"];
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !changing.contains(&name.as_str()));
    (answer.status, headers, answer.body.clone())
}

/// Requests of all kinds; the plain ones come first.
async fn kinds(endpoint: &Endpoint) -> Vec<String> {
    let tag = endpoint.get(route(SPOT)).await;
    let tag = tag.header("etag").expect("a tag");
    let get = |target: &str, headers: &[(&str, &str)]| lasting_request("GET", target, headers);
    vec![
        get(route(SPOT), &[]),
        get(route(SPOT), &[("if-none-match", tag)]),
        get(route(SPOT), &[("accept-encoding", "gzip")]),
        get(
            route(SPOT),
            &[("origin", "http://localhost:3000"), ("authorization", "Bearer x")],
        ),
        get(route(Market::Futures), &[]),
        lasting_request("HEAD", route(SPOT), &[]),
        get("/health", &[]),
        get("/nowhere", &[]),
        lasting_request("OPTIONS", route(SPOT), &[]),
        get(route(SPOT), &[("content-length", "5")]) + "12345",
        get(route(SPOT), &[("transfer-encoding", "chunked")]) + "0\r\n\r\n",
        get(route(SPOT), &[]).replace("\r\n", "\n"),
    ]
}
/// So many of them.
const PLAIN: usize = 9;

#[tokio::test]
async fn whatever_is_sent_in_whatever_pieces_each_request_gets_its_own_answer() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    eventually("a packed list", PATIENCE, async || {
        let answer = endpoint
            .ask("GET", route(SPOT), &[("accept-encoding", "gzip")])
            .await;
        answer.header("content-encoding").map(drop)
    })
    .await;
    let kinds = kinds(&endpoint).await;
    let mut expected = Vec::new();
    for kind in &kinds {
        let mut alone = KeptAlive::connect(endpoint.address).await;
        expected.push(lasting_parts(&alone.ask(kind).await));
    }
    assert_eq!(expected[9].2, LIST.as_bytes(), "a body is read and not used");
    let mut rng = seeded_rng();
    for connection in 0..30 {
        let (kinds, pipelining) = match connection % 3 {
            0 => (&kinds[..PLAIN], false),
            1 => (&kinds[..], false),
            _ => (&kinds[..], true),
        };
        let mut client = KeptAlive::connect(endpoint.address).await;
        let (mut kind, mut asked) = (0, VecDeque::new());
        for number in 0..60 {
            if rng.f32() < 0.3 {
                kind = rng.usize(..kinds.len());
            }
            let (whole, cut) = (&kinds[kind], rng.usize(..kinds[kind].len()));
            if rng.f32() < 0.3 {
                client.send(&whole[..cut]).await;
                sleep(Duration::from_millis(1)).await;
                client.send(&whole[cut..]).await;
            } else {
                client.send(whole).await;
            }
            asked.push_back(kind);
            if pipelining && rng.f32() < 0.5 && number < 59 {
                continue;
            }
            while let Some(kind) = asked.pop_front() {
                let answer = client.answer(kinds[kind].starts_with("HEAD ")).await;
                assert!(
                    lasting_parts(&answer) == expected[kind],
                    "connection {connection}, request {number}, {:?}: {answer:?}",
                    kinds[kind]
                );
            }
        }
    }
}

#[tokio::test]
async fn a_request_sent_again_gets_the_list_and_the_time_of_that_moment_and_is_counted() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let mut client = KeptAlive::connect(endpoint.address).await;
    let ask = lasting_request("GET", route(SPOT), &[]);
    let before = world.get(&CacheKeys(SPOT).last_refresh()).await.expect("a time");
    let refreshed: i64 = before.parse().expect("seconds");
    let (mut sent, mut ages) = (0, Vec::new());
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(2500) {
        let answer = client.ask(&ask).await;
        sent += 1;
        assert_eq!(answer.text(), LIST);
        let age: i64 = answer.header("age").expect("an age").parse().expect("seconds");
        let date = httpdate::parse_http_date(answer.header("date").expect("a date")).expect("a date");
        let date = date
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        let date = i64::try_from(date).expect("a date");
        assert_eq!(date - refreshed, age, "{answer:?}");
        let off = crate::world::now().timestamp() - date;
        assert!((0..=1).contains(&off), "{off} s old: {answer:?}");
        ages.push(age);
    }
    ages.dedup();
    assert!(ages.len() >= 3, "ages {ages:?}");

    // Another list takes its place.
    store(&world, SPOT, OTHER).await;
    eventually("the other list", PATIENCE, async || {
        let answer = client.ask(&ask).await;
        sent += 1;
        (answer.text() == OTHER).then_some(())
    })
    .await;
    for _ in 0..100 {
        assert_eq!(client.ask(&ask).await.text(), OTHER);
        sent += 1;
    }

    // It is gone, and nothing can be had: it is past its lifetime, and that shows.
    upstream_fails(&world);
    let deleted: Result<u64, _> = redis::AsyncCommands::del(&mut world.db(), CacheKeys(SPOT).primary()).await;
    assert_eq!(deleted.expect("an answer"), 1);
    let (hits, misses) = eventually("a stale list", PATIENCE, async || {
        let counted = sent;
        let answer = client.ask(&ask).await;
        sent += 1;
        assert_eq!(answer.text(), OTHER);
        let status = answer.header("cache-status").expect("a status");
        (status.contains("ttl=-") || status.contains("ttl=0")).then_some((counted, 1))
    })
    .await;
    // Each was counted once; what was asked until the list was warm, too.
    let warming = 1;
    endpoint.process.signal(Signal::SIGTERM);
    eventually("all counts", PATIENCE, async || {
        let counted = world.reads(SPOT).await;
        assert!(
            counted.0 <= hits + warming && counted.1 <= misses,
            "{counted:?} of {hits} and {misses}"
        );
        (counted == (hits + warming, misses)).then_some(())
    })
    .await;
}

/// A client that has asked for a long list more often than the sockets can hold answers, and has read none of them.
struct Unread {
    endpoint: Endpoint,
    client: KeptAlive,
    list: String,
    world: World,
}

/// More answers than a socket's largest send buffer holds (four megabytes). Their requests fit into one read of the server.
const UNREAD: usize = 80;

impl Unread {
    async fn new() -> Self {
        let world = World::new().await;
        let list = super::large::list('A', 900);
        for market in Market::ALL {
            store(&world, market, &list).await;
        }
        let endpoint = Endpoint::start(serve(&world));
        endpoint.until_hit(SPOT).await;
        // A stop waits until the list is packed, which takes a while without optimisation.
        eventually("a packed list", PATIENCE, async || {
            let accepted = [("accept-encoding", "br")];
            let answer = endpoint.ask("GET", route(SPOT), &accepted).await;
            answer.header("content-encoding").map(drop)
        })
        .await;
        let mut client = KeptAlive::with_small_buffer(endpoint.address).await;
        client
            .send(&lasting_request("GET", route(SPOT), &[]).repeat(UNREAD))
            .await;
        Self {
            endpoint,
            client,
            list,
            world,
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_all_answers_whole_once_it_does() {
    let mut unread = Unread::new().await;
    sleep(Duration::from_millis(300)).await;
    for number in 0..UNREAD {
        let answer = unread.client.answer(false).await;
        assert!(answer.text() == unread.list, "answer {number}");
    }
}

#[tokio::test]
async fn a_stop_sends_the_rest_of_the_answer_that_a_client_is_reading() {
    let mut unread = Unread::new().await;
    assert!(unread.client.answer(false).await.text() == unread.list);
    unread.endpoint.process.signal(Signal::SIGTERM);
    unread.endpoint.process.wait_for_line("warm stop", PATIENCE);
    sleep(Duration::from_millis(300)).await;
    let rest = unread.client.rest().await;
    let (mut answers, mut rest) = (1, &rest[..]);
    while let Some((answer, after)) = Answer::first(rest, false) {
        assert!(answer.text() == unread.list, "answer {answers}");
        answers += 1;
        rest = after;
    }
    assert_eq!(
        rest.len(),
        0,
        "an answer was cut short after {answers} whole ones"
    );
    assert!(answers < UNREAD, "the stop came after the last answer");
    assert_eq!(unread.endpoint.process.wait_exit(PATIENCE).code(), Some(0));
    assert!(
        unread.world.reads(SPOT).await.0 >= answers as u64,
        "uncounted answers"
    );
}

#[tokio::test]
async fn after_an_offer_to_upgrade_the_connection_goes_on_with_http_1() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let mut client = KeptAlive::connect(endpoint.address).await;
    let offer = [("connection", "upgrade"), ("upgrade", "h2c")];
    let answer = client.ask(&lasting_request("GET", route(SPOT), &offer)).await;
    assert_eq!((answer.status, answer.text()), (200, LIST));
    for _ in 0..20 {
        let answer = client.ask(&lasting_request("GET", route(SPOT), &[])).await;
        assert_eq!((answer.status, answer.text()), (200, LIST));
    }
}
