//! The HTTP endpoint as a process, between a real Redis and a scripted exchange, compared byte by byte.

mod caching;
mod client;
mod extra_routes;
mod keep_alive;
mod large;
mod limits;
mod operators;
mod outages;
mod readers;
mod routes;

use std::net::SocketAddr;

use serde_json::Value;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, ProcessBuilder, Reply, bin, eventually};

use self::client::{Answer, ask};
use crate::world::{PATIENCE, World, path};

/// The path of a market's list.
fn route(market: Market) -> &'static str {
    match market {
        Market::Spot => "/api/v1/symbols/spot",
        Market::Futures => "/api/v1/symbols/futures",
    }
}

/// A `serve` that has not been started, over a world's Redis and exchange.
fn serve(world: &World) -> ProcessBuilder {
    Process::builder(bin("tradebot-symbols"))
        .args(["serve", "--listen", "127.0.0.1:0", "--threads", "2"])
        .envs(world.environment())
}

/// A running `serve` and its address.
struct Endpoint {
    process: Process,
    address: SocketAddr,
}

impl Endpoint {
    fn start(serve: ProcessBuilder) -> Self {
        let process = serve.spawn();
        let address = listening(&process);
        Self { process, address }
    }

    /// A `serve` that has both lists in its memory.
    async fn warm(world: &World) -> Self {
        Self::warmed(world, serve(world)).await
    }

    async fn warmed(world: &World, serve: ProcessBuilder) -> Self {
        for market in Market::ALL {
            store(world, market, LIST).await;
        }
        let endpoint = Self::start(serve);
        for market in Market::ALL {
            endpoint.until_hit(market).await;
        }
        endpoint
    }

    /// Waits until a market's list is answered.
    async fn until_hit(&self, market: Market) {
        eventually(&format!("a {market} list"), PATIENCE, async || {
            let answer = self.get(route(market)).await;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    async fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[]).await
    }

    async fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        ask(self.address, method, target, headers).await
    }
}

fn listening(process: &Process) -> SocketAddr {
    let line = process.wait_for_line("http is listening", PATIENCE);
    let address = line.split("http.address=").nth(1).expect("an address");
    let address = address.split_whitespace().next().expect("an address");
    address.parse().expect("an address and port")
}

/// Writes a list as Python does: each key by itself, and no source.
async fn store(world: &World, market: Market, list: &str) {
    let keys = CacheKeys(market);
    world.set(&keys.last_good(), list).await;
    let now = crate::world::now().timestamp().to_string();
    world.set(&keys.last_refresh(), &now).await;
    let set: Result<(), _> = redis::AsyncCommands::set_ex(&mut world.db(), keys.primary(), list, 300).await;
    set.expect("a key that was set");
}

/// The exchange is in trouble.
fn upstream_fails(world: &World) {
    for market in Market::ALL {
        world
            .exchange
            .always(path(market), Reply::status(500, r#"{"msg":"trouble"}"#));
    }
}

/// The value of a sample of `/metrics`.
fn sample(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}"))
        .parse()
        .expect("a number")
}

fn detail(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
    let members: Vec<&str> = body
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(members, ["detail"]);
    body["detail"].as_str().expect("a text").to_owned()
}

/// Not as we would write it, so that a body that was parsed and written anew would show.
const LIST: &str = concat!(
    r#"[ {"symbol":"BTCUSDT", "baseAsset":"BTC", "quoteAsset":"USDT", "status":"TRADING"},"#,
    r#"  {"symbol":"\u5e01USDT","baseAsset": "\u5e01","quoteAsset": "USDT","status": "TRADING" } ]"#
);
