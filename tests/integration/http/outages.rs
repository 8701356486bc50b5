//! Redis and the exchange in trouble, and many clients at once: a warm endpoint returns no errors.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tradebot_base::market::Market;
use tradebot_test_support::Reply;

use super::client::{Answer, read_all, request};
use super::{Endpoint, LIST, route, serve, upstream_fails};
use crate::world::{GOOD_TEXT, World, good_list, path};

const SPOT: Market = Market::Spot;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_cold_requests_to_four_processes_ask_the_exchange_once() {
    let world = World::new().await;
    world.exchange.always(
        path(SPOT),
        Reply::json(good_list()).delay(Duration::from_millis(500)),
    );
    let cold = || {
        Endpoint::start(serve(&world).envs([
            ("ENABLE_SPOT_WARMUP_ON_STARTUP", "0"),
            ("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0"),
        ]))
    };
    let endpoints = [cold(), cold(), cold(), cold()];
    // All are connected before the first one asks.
    let mut sockets = Vec::new();
    for number in 0..1000 {
        let address = endpoints[number % 4].address;
        sockets.push(TcpStream::connect(address).await.expect("a connection"));
    }
    let text = request("GET", route(SPOT), &[]);
    for socket in &mut sockets {
        socket.write_all(text.as_bytes()).await.expect("a sent request");
    }
    let mut answers = JoinSet::new();
    for mut socket in sockets {
        answers.spawn(async move { read_all(&mut socket).await });
    }
    while let Some(bytes) = answers.join_next().await {
        let bytes = bytes.expect("a client");
        let answer = Answer::parse(&bytes).expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, GOOD_TEXT));
    }
    assert_eq!(world.exchange.count(path(SPOT)), 1);
}

/// Both lists stay what they are, whatever happens.
async fn steady(endpoint: &Endpoint, times: usize) {
    for _ in 0..times {
        for market in Market::ALL {
            let answer = endpoint.get(route(market)).await;
            assert_eq!((answer.status, answer.text()), (200, LIST));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_redis_that_stops_goes_comes_back_and_loses_all_costs_no_answer() {
    let world = World::new().await;
    upstream_fails(&world);
    let endpoint = Endpoint::warmed(&world, serve(&world).env("BINANCE_RETRY_MAX_ATTEMPTS", "1")).await;
    world.redis.pause();
    steady(&endpoint, 20).await;
    world.redis.resume();
    steady(&endpoint, 5).await;
    world.redis.kill();
    steady(&endpoint, 20).await;
    // It comes back with nothing.
    world.redis.restart();
    let world = world.reconnected().await;
    steady(&endpoint, 20).await;
    let flushed: Result<(), _> = redis::cmd("FLUSHALL").query_async(&mut world.db()).await;
    flushed.expect("an empty Redis");
    steady(&endpoint, 20).await;
}

#[tokio::test]
async fn a_redis_that_is_full_costs_no_answer() {
    let world = World::new().await;
    upstream_fails(&world);
    let endpoint = Endpoint::warmed(&world, serve(&world).env("BINANCE_RETRY_MAX_ATTEMPTS", "1")).await;
    for (name, value) in [("maxmemory-policy", "noeviction"), ("maxmemory", "1")] {
        let set: Result<(), _> = redis::cmd("CONFIG")
            .arg("SET")
            .arg(name)
            .arg(value)
            .query_async(&mut world.db())
            .await;
        set.expect("a setting");
    }
    steady(&endpoint, 20).await;
    // A list that is fetched and cannot be written is answered all the same.
    for market in Market::ALL {
        world.exchange_lists(market);
    }
    let cold = Endpoint::start(serve(&world));
    for market in Market::ALL {
        assert_eq!(cold.get(route(market)).await.status, 200);
    }
}

/// A worker's refusal concerns the endpoint as well, which never asked the exchange itself.
#[tokio::test]
async fn a_pause_of_the_exchange_is_told_to_readers_and_probes() {
    let world = World::new().await;
    for market in Market::ALL {
        world
            .exchange
            .always(path(market), Reply::status(451, "location"));
    }
    let worker = world.start_worker(&[]);
    for market in Market::ALL {
        world.run_last_try(market).await;
    }
    drop(worker);
    let endpoints = [Endpoint::start(serve(&world)), Endpoint::start(serve(&world))];
    for endpoint in &endpoints {
        for market in Market::ALL {
            let answer = endpoint.get(route(market)).await;
            assert_eq!(answer.status, 503);
            let status = answer.header("cache-status");
            assert_eq!(status, Some("tradebot-symbols; fwd=miss; detail=exchange-paused"));
            let wait: u64 = answer
                .header("retry-after")
                .expect("a Retry-After")
                .parse()
                .expect("seconds");
            assert!((500..=600).contains(&wait), "{wait}");
        }
        let ready = endpoint.get("/readyz").await;
        assert_eq!(
            ready.text().matches("every host refused with status 451").count(),
            2,
            "{}",
            ready.text()
        );
    }
    for market in Market::ALL {
        assert_eq!(world.exchange.count(path(market)), 1);
    }
}
