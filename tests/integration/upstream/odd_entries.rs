//! Odd entries in a good list cost themselves, not the list.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::Reply;

use crate::world::{PATIENCE, World, connected, exchange_info, good_list, path, warmup};

/// A list of two hundred good symbols, the anchors first, with `odd` entries among them.
fn list_with(odd: &[Value]) -> String {
    let anchors = ["BTC", "ETH"].map(str::to_owned).into_iter();
    let names: Vec<String> = anchors
        .chain((0..198).map(|number| format!("COIN{number:03}")))
        .collect();
    let symbols: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), "USDT", "TRADING"))
        .collect();
    let mut document: Value = serde_json::from_str(&exchange_info(&symbols)).expect("JSON");
    let entries = document["symbols"].as_array_mut().expect("a list");
    for (number, entry) in odd.iter().enumerate() {
        entries.insert(number * 70, entry.clone());
    }
    document.to_string()
}

async fn listed(world: &World, market: Market) -> usize {
    let id = world.enqueue(warmup(market)).await.id().to_owned();
    let result = world.ended(&id).await;
    assert_eq!(result["status"], "SUCCESS", "{result}");
    let text = world.lists(market).await.primary.expect("a list");
    let list: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(result["result"], format!("WARMUP_OK:{}", list.len()));
    assert!(list.iter().all(|symbol| symbol["status"] == "TRADING"));
    list.len()
}

#[tokio::test]
async fn an_unreadable_entry_is_left_out_and_the_rest_is_listed() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    let spot = path(Market::Spot);
    let entries = [
        json!({"symbol": "X1USDT", "status": "TRADING", "baseAsset": "X1"}),
        json!({"symbol": "X2USDT", "status": "TRADING", "baseAsset": "X2", "quoteAsset": null}),
        json!({"symbol": 12345, "status": "TRADING", "baseAsset": "X3", "quoteAsset": "USDT"}),
        json!({"symbol": "X4USDT", "status": 1, "baseAsset": "X4", "quoteAsset": "USDT"}),
        json!({"symbol": "", "status": "TRADING", "baseAsset": "", "quoteAsset": "USDT"}),
        json!(null),
        json!("X6USDT"),
        json!(["X7USDT"]),
    ];
    for (number, entry) in entries.iter().enumerate() {
        world
            .exchange
            .always(spot, Reply::json(list_with(std::slice::from_ref(entry))));
        assert_eq!(listed(&world, Market::Spot).await, 200, "{entry}");
        let line = worker.wait_for_nth_line("left out entries of the list", number + 1, PATIENCE);
        assert!(
            line.contains("malformed=1") && line.contains("market=spot"),
            "{line}"
        );
    }
    world.exchange.always(spot, Reply::json(list_with(&entries[..3])));
    let (_, result) = world.run_last_try(Market::Spot).await;
    let message = result["result"]["exc_message"][0].as_str().unwrap_or_default();
    assert!(
        message.contains("3 of 203 entries"),
        "more than a few are another document: {message}"
    );
    assert_eq!(world.lists(Market::Spot).await.successes, 8);
}

#[tokio::test]
async fn unknown_statuses_and_kinds_are_not_listed_and_do_no_harm() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    let symbol = |name: &str, status: &str, kind: &str| {
        json!({"symbol": format!("{name}USDT"), "status": status, "baseAsset": name, "quoteAsset": "USDT",
            "contractType": kind, "filters": {"not": "a list"}, "deliveryDate": 1e300})
    };
    let odd = [
        symbol("A", "TRADING_HALT", "PERPETUAL"),
        symbol("B", "", "CURRENT_QUARTER DELIVERING"),
        symbol("C", "trading", "PERPETUAL"),
    ];
    for market in Market::ALL {
        world.exchange.always(path(market), Reply::json(list_with(&odd)));
        assert_eq!(listed(&world, market).await, 200, "{market}");
    }
    let kinds = [
        symbol("D", "TRADING", ""),
        symbol("E", "TRADING", "TRADIFI_PERPETUAL"),
    ];
    world
        .exchange
        .always(path(Market::Futures), Reply::json(list_with(&kinds)));
    assert_eq!(listed(&world, Market::Futures).await, 202);
}

#[tokio::test]
async fn a_name_that_comes_twice_is_listed_once_and_only_if_both_are_trading() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    let symbols = [
        ("BTC", "USDT", "TRADING"),
        ("ETH", "USDT", "TRADING"),
        ("BTC", "USDT", "TRADING"),
        ("SOL", "USDT", "TRADING"),
        ("SOL", "USDT", "BREAK"),
    ];
    world
        .exchange
        .always(path(Market::Spot), Reply::json(exchange_info(&symbols)));
    assert_eq!(listed(&world, Market::Spot).await, 2);
    let text = world.lists(Market::Spot).await.primary.unwrap_or_default();
    assert!(text.contains("BTCUSDT") && !text.contains("SOLUSDT"), "{text}");
}

#[tokio::test]
async fn a_byte_order_mark_and_blanks_around_the_list_do_no_harm() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    let body = format!(
        "\u{feff}\r\n {}\n\n",
        exchange_info(&[("BTC", "USDT", "TRADING"), ("ETH", "USDT", "TRADING")])
    );
    world.exchange.always(path(Market::Spot), Reply::json(body));
    assert_eq!(listed(&world, Market::Spot).await, 2);
}

#[tokio::test]
async fn an_entry_with_half_a_surrogate_pair_or_an_endless_number_costs_only_itself() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    let entry = |name: &str, status: &str| {
        format!(r#"{{"symbol":"{name}USDT","status":{status},"baseAsset":"{name}","quoteAsset":"USDT"}}"#)
    };
    for odd in [entry(r"\ud800", r#""TRADING""#), entry("ODD", "1e999")] {
        let list = good_list().replace(r#""symbols":["#, &format!(r#""code":"000000","symbols":[{odd},"#));
        assert!(list.contains(&odd), "{list}");
        world.exchange.always(path(Market::Spot), Reply::json(list));
        let (_, result) = world.run_last_try(Market::Spot).await;
        assert_eq!(result["result"], "WARMUP_OK:2", "{odd}: {result}");
        let line = worker.wait_for_line("left out entries of the list", PATIENCE);
        assert!(line.contains("malformed=1"), "{line}");
    }
}

#[tokio::test]
async fn content_encodings_are_read_as_http_writes_them() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    let list = good_list();
    let (first, second) = list.split_at(20);
    let gzip = |text: &str| {
        let mut packed = GzEncoder::new(Vec::new(), Compression::default());
        packed.write_all(text.as_bytes()).expect("gzip");
        packed.finish().expect("gzip")
    };
    let whole = gzip(&good_list());
    let members = [gzip(first), gzip(second)].concat();
    for (encoding, body) in [
        ("GZIP", &whole),
        ("x-gzip", &whole),
        ("X-GZip", &whole),
        (" gzip ", &whole),
        ("identity, gzip", &whole),
        ("gzip", &members),
        ("", &good_list().into_bytes()),
        ("Identity", &good_list().into_bytes()),
    ] {
        let answer = Reply::json(body).header("Content-Encoding", encoding);
        world.exchange.always(path(Market::Spot), answer);
        let (_, result) = world.run_last_try(Market::Spot).await;
        assert_eq!(result["result"], "WARMUP_OK:2", "{encoding}: {result}");
    }
    let stacked = Reply::json(gzip("x")).header("Content-Encoding", "gzip, gzip");
    world.exchange.always(path(Market::Spot), stacked);
    assert_eq!(world.run_last_try(Market::Spot).await.1["status"], "FAILURE");
}

#[tokio::test]
async fn the_quote_asset_itself_is_no_anchor() {
    let world = World::new().await;
    let list = exchange_info(&[("ETH", "BTC", "TRADING"), ("BNB", "BTC", "TRADING")]);
    world.exchange.always(path(Market::Spot), Reply::json(list));
    let worker = world.worker(&[]).env("SYMBOLS_QUOTE_ASSET", "BTC");
    let _worker = connected(worker);
    let (_, result) = world.run_last_try(Market::Spot).await;
    assert_eq!(result["result"], "WARMUP_OK:2", "{result}");
}
