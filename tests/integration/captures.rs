//! Recorded answers of the exchange become the same list that Python makes of them.

use std::collections::BTreeSet;

use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{self as support, Capture, Python, Reply, captures};

use crate::world::{Lists, World, now, path, warmup};

fn market_of(capture: &Capture) -> Market {
    match capture.market {
        support::Market::Spot => Market::Spot,
        support::Market::Futures => Market::Futures,
    }
}

/// The list that Python computes from a captured file: its text and its length.
fn computed(capture: &Capture) -> (String, u64) {
    let path = capture.path.to_str().expect("a UTF-8 path");
    let market = market_of(capture).name();
    let prepared = Python::CELERY_5_5_2.script("prepare.py", &[market, path], &[]);
    let text = prepared["text"].as_str().expect("text").to_owned();
    (text, prepared["count"].as_u64().expect("a number"))
}

/// Removes all that earlier refreshes of the market left.
async fn forget(world: &World, market: Market) {
    let keys = CacheKeys(market);
    let keys = [
        keys.primary(),
        keys.last_good(),
        keys.last_refresh(),
        keys.source(),
        keys.success_counter(),
        keys.error_counter(),
        keys.held_back(),
        keys.not_trading(),
    ];
    let deleted: Result<u64, _> = world.db().del(&keys).await;
    deleted.expect("deleted keys");
}

#[tokio::test]
async fn every_captured_list_is_stored_as_python_would_store_it() {
    let Some(captures) = captures() else { return };
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    let real = captures
        .files()
        .iter()
        .filter(|capture| !capture.name.contains("testnet"));
    for capture in real {
        assert_stored(&world, capture, "mainnet").await;
    }
}

#[tokio::test]
async fn a_captured_list_of_the_testnet_is_stored_where_that_is_configured_and_nowhere_else() {
    let Some(captures) = captures() else { return };
    let capture = captures
        .files()
        .iter()
        .find(|capture| capture.name.contains("testnet"))
        .expect("a capture of the testnet");
    let world = World::new().await;
    let market = market_of(capture);
    let worker = world.start_worker(&[]);
    world.exchange.always(path(market), Reply::json(capture.bytes()));
    let (id, result) = world.run_last_try(market).await;
    let message = result["result"]["exc_message"][0].as_str().expect("a text");
    assert!(message.contains("it is a list of the testnet"), "{message}");
    assert_eq!(world.lists(market).await, Lists::NONE);
    worker.wait_for_line(&id, crate::world::PATIENCE);
    drop(worker);

    let exchange = world.exchange.base_url();
    let worker = world
        .worker(&[])
        .env("TESTNET_URL", "true")
        .env("BINANCE_FUTURES_TESTNET_BASE_URL", exchange);
    let _worker = crate::world::connected(worker);
    assert_stored(&world, capture, "testnet").await;
}

/// Has a worker refresh from a captured answer, and compares what is stored with what Python would have stored.
async fn assert_stored(world: &World, capture: &Capture, network: &str) {
    let (name, market) = (&capture.name, market_of(capture));
    let (text, count) = computed(capture);
    assert!(count > 0, "{name}");
    forget(world, market).await;
    world
        .exchange
        .always(path(market), Reply::json(capture.bytes()).gzip());
    let started = now().timestamp();
    let id = world.enqueue(warmup(market)).await.id().to_owned();
    let result = world.ended(&id).await;
    assert_eq!(result["status"], "SUCCESS", "{name}: {result}");
    assert_eq!(result["result"], format!("WARMUP_OK:{count}"), "{name}");

    let lists = world.lists(market).await;
    assert!(lists.primary.as_ref() == Some(&text), "{name}: another text");
    assert_eq!(lists.last_good, lists.primary, "{name}");
    let refreshed: i64 = lists
        .last_refresh
        .expect("a time")
        .parse()
        .expect("a JSON integer");
    assert!(
        (started..=now().timestamp()).contains(&refreshed),
        "{name}: {refreshed}"
    );
    assert_eq!((lists.successes, world.errors(market).await), (1, 0), "{name}");
    let source: Value = serde_json::from_str(&lists.source.expect("a source")).expect("JSON");
    assert_eq!(
        (&source["network"], &source["count"]),
        (&json!(network), &json!(count)),
        "{name}"
    );
    let ttl: i64 = world.db().ttl(CacheKeys(market).primary()).await.expect("a TTL");
    assert!((200..=300).contains(&ttl), "{name}: {ttl}");
}

#[tokio::test]
async fn an_answer_of_another_market_or_a_blocked_location_changes_nothing() {
    let Some(captures) = captures() else { return };
    let blocked = captures.read("http451-2022-12-07.json");
    let cases = [
        // COIN-M contracts have a `contractStatus` in place of the status.
        (
            Reply::json(captures.read("coinm-2025-08-07-first25.json")),
            "cannot be read",
        ),
        (Reply::status(451, &blocked), "does not serve this location"),
        (Reply::json(&blocked), "does not serve this location"),
    ];
    for (reply, reason) in cases {
        // A refusal pauses all requests to these hosts.
        let world = World::new().await;
        let worker = world.start_worker(&[]);
        for market in Market::ALL {
            world.exchange.always(path(market), reply.clone());
            let (id, result) = world.run_last_try(market).await;
            assert_eq!(result["status"], "FAILURE", "{result}");
            let message = result["result"]["exc_message"][0].as_str().expect("a text");
            assert!(message.contains(reason), "{message}");
            assert_eq!(world.lists(market).await, Lists::NONE, "{reason}");
            assert_eq!(world.errors(market).await, 1, "{reason}");
            worker.wait_for_line(&id, crate::world::PATIENCE);
        }
    }
}

#[tokio::test]
async fn the_existing_reader_sees_four_text_members_in_their_order() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    for market in Market::ALL {
        let body = crate::world::exchange_info(&[
            ("BTC", "USDT", "TRADING"),
            ("币安人生", "USDT", "TRADING"),
            ("1000SATS", "USDT", "TRADING"),
            ("ETH", "USDT", "TRADING"),
        ]);
        world.exchange.always(path(market), Reply::json(body));
        let id = world.enqueue(warmup(market)).await.id().to_owned();
        world.result(&id, "SUCCESS").await;
    }
    let url = world.redis.url();
    for python in Python::ALL {
        let seen = python.script("read_lists.py", &[&url], &[]);
        for market in Market::ALL {
            for key in [CacheKeys(market).primary(), CacheKeys(market).last_good()] {
                let list = &seen[&key];
                let members = ["symbol", "baseAsset", "quoteAsset", "status"];
                assert_eq!(list["members"], json!([members]), "{key}");
                let types = list["types"].as_object().expect("types");
                let members: BTreeSet<_> = members.into();
                assert_eq!(types.keys().map(String::as_str).collect::<BTreeSet<_>>(), members);
                assert!(types.values().all(|types| *types == json!(["str"])), "{types:?}");
                let symbols = list["value"].as_array().expect("a list");
                let names: Vec<_> = symbols.iter().map(|symbol| &symbol["symbol"]).collect();
                assert_eq!(
                    names,
                    ["BTCUSDT", "ETHUSDT", "1000SATSUSDT", "币安人生USDT"],
                    "{}",
                    python.name()
                );
            }
            assert_eq!(seen[CacheKeys(market).last_good()]["ttl"], -1);
            let refreshed = &seen[CacheKeys(market).last_refresh()]["value"];
            assert!(refreshed.is_i64(), "{refreshed}");
            assert_eq!(seen[CacheKeys(market).success_counter()]["value"], 1);
            assert_eq!(seen[CacheKeys(market).error_counter()], Value::Null);
        }
    }
}
