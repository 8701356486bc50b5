//! A list that only looks wrong: the retry of the warm-up fetches it again, which confirms or corrects it.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::Reply;

use crate::world::{PATIENCE, World, connected, exchange_info, now, path, warmup};

/// The anchors and so many others, at a time of the exchange's clock.
fn list(others: usize, server_time: i64) -> Reply {
    let names: Vec<String> = (0..others).map(|number| format!("COIN{number}")).collect();
    let symbols: Vec<_> = ["BTC", "ETH"]
        .into_iter()
        .chain(names.iter().map(String::as_str))
        .map(|base| (base, "USDT", "TRADING"))
        .collect();
    Reply::json(exchange_info(&symbols).replace("1791331200000", &server_time.to_string()))
}

#[tokio::test]
async fn a_list_that_has_shrunk_is_written_by_the_retry_if_it_still_has() {
    let world = World::new().await;
    let worker = connected(world.worker(&[]).env("SYMBOLS_CONFIRM_AFTER_SECONDS", "2"));
    let spot = path(Market::Spot);
    for confirmed in [false, true] {
        world.exchange.always(spot, list(98, 1_000));
        let id = world.enqueue(warmup(Market::Spot)).await.id().to_owned();
        world.result(&id, "SUCCESS").await;
        let before = world.lists(Market::Spot).await;

        let second = list(if confirmed { 49 } else { 98 }, 9_000);
        world.exchange.reply(spot, list(49, 5_000));
        world.exchange.reply(spot, second);
        let started = now();
        let id = world.enqueue(warmup(Market::Spot)).await.id().to_owned();
        let retry = world.result(&id, "RETRY").await;
        assert_eq!(retry["result"]["exc_type"], "ValueError", "{retry}");
        let message = retry["result"]["exc_message"][0].as_str().unwrap_or_default();
        assert!(
            message.contains("held back until a second fetch confirms it: it has lost more"),
            "{message}"
        );
        assert_eq!(world.lists(Market::Spot).await, before);

        let result = world.result(&id, "SUCCESS").await;
        let count = if confirmed { 51 } else { 100 };
        assert_eq!(result["result"], format!("WARMUP_OK:{count}"));
        let done: DateTime<Utc> = result["date_done"]
            .as_str()
            .expect("a time")
            .parse()
            .expect("a time");
        assert!(done - started >= TimeDelta::seconds(2), "{result}");
        let stored = world.lists(Market::Spot).await.primary.expect("a list");
        let stored: Vec<Value> = serde_json::from_str(&stored).expect("JSON");
        assert_eq!(stored.len(), count);
        assert_eq!(world.get(&CacheKeys(Market::Spot).held_back()).await, None);
        // Put back for the next round, and for the next fetch's clock.
        let gone: Result<(), _> = redis::cmd("FLUSHALL").query_async(&mut world.db()).await;
        gone.expect("an empty server");
    }
    worker.wait_for_line("a second fetch confirmed the held-back list", PATIENCE);
}

#[tokio::test]
async fn a_list_of_another_network_than_the_one_in_place_waits_for_a_second_fetch() {
    let world = World::new().await;
    let spot = path(Market::Spot);
    let worker = world.start_worker(&[]);
    world.exchange.always(spot, list(8, 1_000));
    let id = world.enqueue(warmup(Market::Spot)).await.id().to_owned();
    world.result(&id, "SUCCESS").await;
    drop(worker);
    let mainnet = world.lists(Market::Spot).await;

    let exchange = world.exchange.base_url();
    let worker = world
        .worker(&[])
        .env("SYMBOLS_CONFIRM_AFTER_SECONDS", "1")
        .env("TESTNET_URL", "1")
        .env("BINANCE_SPOT_TESTNET_BASE_URL", exchange);
    let _worker = connected(worker);
    world.exchange.always(spot, list(8, 2_000));
    let (_, result) = world.run_last_try(Market::Spot).await;
    let message = result["result"]["exc_message"][0].as_str().unwrap_or_default();
    assert!(
        message.contains("it describes Testnet, but the current list describes Mainnet"),
        "{message}"
    );
    assert_eq!(world.lists(Market::Spot).await, mainnet);

    world.exchange.always(spot, list(8, 9_000));
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    assert_eq!(world.run_last_try(Market::Spot).await.1["result"], "WARMUP_OK:10");
    let source: Value =
        serde_json::from_str(&world.lists(Market::Spot).await.source.expect("a source")).expect("JSON");
    assert_eq!(source["network"], "testnet");
}
