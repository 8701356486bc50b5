//! Clients that send the same request again and again on one connection, and never get but what it is for.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tradebot_base::market::Market;
use tradebot_symbols::product::symbols::cache::CacheKeys;
use tradebot_test_support::{Signal, eventually};

use super::client::{Answer, KeptAlive, lasting_request};
use super::{Endpoint, LIST, route, sample, serve, store, upstream_fails};
use crate::world::{PATIENCE, World};

const SPOT: Market = Market::Spot;
const OTHER: &str =
    r#"[{"symbol": "ETHUSDT", "baseAsset": "ETH", "quoteAsset": "USDT", "status": "TRADING"}]"#;

/// How many answers were given again without their request being read.
async fn repeated(endpoint: &Endpoint) -> u64 {
    let answer = endpoint.get("/metrics").await;
    let count = sample(answer.text(), "tradebot_symbols_http_answers_repeated_total");
    format!("{count}").parse().expect("a whole number")
}

/// All of an answer that is the same at another time.
fn lasting_parts(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let changing = ["date", "age", "cache-control", "cache-status", "connection"];
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !changing.contains(&name.as_str()));
    (answer.status, headers, answer.body.clone())
}

/// Requests of all kinds; those that a connection can be followed through come first.
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
const FOLLOWED: usize = 9;

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
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    for connection in 0..30 {
        // Some connections are sent nothing that ends their being followed.
        let (kinds, pipelining) = match connection % 3 {
            0 => (&kinds[..FOLLOWED], false),
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
                    "seed {seed}, connection {connection}, request {number}, {:?}: {answer:?}",
                    kinds[kind]
                );
            }
        }
    }
    let again = repeated(&endpoint).await;
    assert!(again > 100, "only {again} answers were given again");
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
    let again = repeated(&endpoint).await;
    assert!(again * 10 > sent * 9, "{again} of {sent} were given again");

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

/// A client that has asked for a long list again and again, one request at a time so that each comes by itself, and has
/// taken no answer but the first, until one did not go through.
struct Stuck {
    endpoint: Endpoint,
    client: KeptAlive,
    ask: String,
    list: String,
    /// How often it asked again. The last request waits behind the answer that does not go through.
    asked: usize,
    _world: World,
}

impl Stuck {
    async fn new(limits: &[(&str, &str)]) -> Self {
        let world = World::new().await;
        let list = super::large::list('A', 4000);
        for market in Market::ALL {
            store(&world, market, &list).await;
        }
        let endpoint = Endpoint::start(serve(&world).envs(limits.iter().copied()));
        endpoint.until_hit(SPOT).await;
        let ask = lasting_request("GET", route(SPOT), &[]);
        let mut client = KeptAlive::connect(endpoint.address).await;
        assert_eq!(client.ask(&ask).await.text(), list);
        let mut asked = 0;
        let mut taken = true;
        while taken {
            let before = repeated(&endpoint).await;
            client.send(&ask).await;
            asked += 1;
            assert!(asked < 1000, "the sockets hold everything");
            let deadline = Instant::now() + Duration::from_millis(700);
            taken = false;
            while !taken && Instant::now() < deadline {
                taken = repeated(&endpoint).await > before;
            }
        }
        assert!(repeated(&endpoint).await > 1, "nothing was given again");
        Self {
            endpoint,
            client,
            ask,
            list,
            asked,
            _world: world,
        }
    }

    /// Takes so many answers.
    async fn take(&mut self, answers: usize) {
        for number in 0..answers {
            let answer = self.client.answer(false).await;
            assert!(answer.text() == self.list, "answer {number} of {answers}");
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_all_answers_whole_once_it_does() {
    let mut stuck = Stuck::new(&[]).await;
    let more = stuck.ask.repeat(5);
    stuck.client.send(&more).await;
    stuck.take(stuck.asked + 5).await;
}

#[tokio::test]
async fn a_client_that_does_not_take_what_it_asked_for_again_is_cut_off() {
    let stuck = Stuck::new(&[("HTTP_SEND_TIMEOUT_SECONDS", "2")]).await;
    eventually("a cut", PATIENCE, async || {
        let answer = stuck.endpoint.get("/metrics").await;
        let cut = sample(
            answer.text(),
            "tradebot_symbols_http_connections_total{fate=\"cut\"}",
        );
        (cut >= 1.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stop_sends_the_rest_of_an_answer_that_is_given_again() {
    let mut stuck = Stuck::new(&[]).await;
    stuck.endpoint.process.signal(Signal::SIGTERM);
    stuck.endpoint.process.wait_for_line("warm stop", PATIENCE);
    sleep(Duration::from_millis(300)).await;
    // The request that waits is not answered any more.
    stuck.take(stuck.asked - 1).await;
    assert_eq!(stuck.endpoint.process.wait_exit(PATIENCE).code(), Some(0));
}

#[tokio::test]
async fn after_an_offer_to_upgrade_nothing_is_given_again() {
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
    assert_eq!(repeated(&endpoint).await, 0);
}
