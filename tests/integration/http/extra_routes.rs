//! Routes and options that the Python backend does not have.

use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::{Reply, eventually};

use super::client::Answer;
use super::{Endpoint, detail, route, serve};
use crate::world::{PATIENCE, World, exchange_info, path, warmup};

const SPOT: Market = Market::Spot;

pub(super) fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()))
}

pub(super) fn names(answer: &Answer) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_slice(&answer.body).expect("a list");
    let names = list
        .iter()
        .map(|symbol| symbol["symbol"].as_str().expect("a name").to_owned());
    names.collect()
}

/// Symbols of several quote assets, one of them not trading.
pub(super) fn several() -> String {
    exchange_info(&[
        ("ETH", "USDT", "TRADING"),
        ("BTC", "USDT", "TRADING"),
        ("BTC", "USDC", "TRADING"),
        ("ETH", "FDUSD", "TRADING"),
        ("币", "USDT", "TRADING"),
        ("LUNA", "USDC", "BREAK"),
    ])
}

/// A `serve` that has fetched both lists itself.
pub(super) async fn fetched(world: &World) -> Endpoint {
    for market in Market::ALL {
        world.exchange.always(path(market), Reply::json(several()));
    }
    let endpoint = Endpoint::start(serve(world));
    for market in Market::ALL {
        endpoint.until_hit(market).await;
    }
    endpoint
}

#[tokio::test]
async fn other_quote_assets_and_single_symbols_can_be_asked_for() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    for (query, expected) in [
        ("?quote=USDC,FDUSD", &["BTCUSDC", "ETHFDUSD"][..]),
        ("?quote=USDC", &["BTCUSDC"]),
        (
            "?quote=*",
            &["BTCUSDT", "BTCUSDC", "ETHUSDT", "ETHFDUSD", "币USDT"],
        ),
        ("?base=ETH", &["ETHUSDT"]),
        ("?quote=*&base=ETH,%E5%B8%81", &["ETHUSDT", "ETHFDUSD", "币USDT"]),
        ("?quote=NONE", &[]),
        ("", &["BTCUSDT", "ETHUSDT", "币USDT"]),
    ] {
        let answer = endpoint.get(&format!("{}{query}", route(SPOT))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut found = names(&answer);
        // Popular bases first; among equal ones upstream's order, of which this is not about.
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{query}");
        let tag = answer.header("etag").expect("a tag").to_owned();
        let again = endpoint
            .ask(
                "GET",
                &format!("{}{query}", route(SPOT)),
                &[("if-none-match", &tag)],
            )
            .await;
        assert_eq!(again.status, 304);
        assert!(
            answer
                .header("cache-control")
                .expect("a Cache-Control")
                .starts_with("public, max-age=")
        );
    }
    let first = endpoint.get(&format!("{}?quote=*", route(SPOT))).await;
    assert_eq!(names(&first)[..2], ["BTCUSDT", "BTCUSDC"], "popular bases lead");
    for query in ["?quote=", "?quote=A,,B", "?base=A&base=B"] {
        let answer = endpoint.get(&format!("{}{query}", route(SPOT))).await;
        assert_eq!(answer.status, 422, "{query}");
        detail(&answer);
    }
    let symbol = endpoint.get("/api/v1/symbols/spot/LUNAUSDC").await;
    assert_eq!(
        symbol.text(),
        r#"{"symbol": "LUNAUSDC", "baseAsset": "LUNA", "quoteAsset": "USDC", "status": "BREAK"}"#
    );
    let symbol = endpoint.get("/api/v1/symbols/futures/%E5%B8%81USDT").await;
    assert_eq!(body(&symbol)["baseAsset"], "币");
    for unknown in ["/api/v1/symbols/spot/NOPE", "/api/v1/symbols/coinm/BTCUSDT"] {
        assert_eq!(endpoint.get(unknown).await.status, 404);
    }
}

#[tokio::test]
async fn what_only_python_has_written_can_be_narrowed_but_not_widened() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    assert_eq!(
        names(&endpoint.get(&format!("{}?base=BTC", route(SPOT))).await),
        ["BTCUSDT"]
    );
    let answer = endpoint.get(&format!("{}?quote=*", route(SPOT))).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(
        body(&endpoint.get("/api/v1/symbols/spot/BTCUSDT").await)["status"],
        "TRADING"
    );
}

/// The list is the same in both refreshes, only a symbol of another quote asset changes.
#[tokio::test]
async fn a_symbol_asked_between_two_refreshes_within_one_second_is_that_of_the_second_one_afterwards() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    let _worker = world.start_worker(&[]);
    let status_becomes = async |status: &str| {
        let list = several().replace("BREAK", status);
        world.exchange.always(path(SPOT), Reply::json(list));
        assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS");
        eventually(status, PATIENCE, async || {
            let symbol = endpoint.get("/api/v1/symbols/spot/LUNAUSDC").await;
            (body(&symbol)["status"] == status).then_some(())
        })
        .await;
        let other = endpoint.get(&format!("{}?quote=USDC", route(SPOT))).await;
        let expected: &[&str] = if status == "TRADING" {
            &["BTCUSDC", "LUNAUSDC"]
        } else {
            &["BTCUSDC"]
        };
        assert_eq!(names(&other), expected);
        world.lists(SPOT).await.last_refresh.expect("a time")
    };
    let mut same_second = 0;
    for _ in 0..10 {
        let times = [status_becomes("TRADING").await, status_becomes("HALT").await];
        same_second += usize::from(times[0] == times[1]);
    }
    assert!(same_second > 0, "the refreshes never fell into one second");
}

/// The exchange leaves out symbols of other statuses if it is asked to, as the scripted one does.
#[tokio::test]
async fn a_symbol_that_stops_trading_says_so_and_is_not_taken_for_removed() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    let _worker = world.start_worker(&[]);
    let list = |status| {
        Reply::json(exchange_info(&[
            ("BTC", "USDT", "TRADING"),
            ("ETH", "USDT", "TRADING"),
            ("SOL", "USDT", "TRADING"),
            ("DOT", "USDT", "TRADING"),
            ("ADA", "USDT", "TRADING"),
            ("XRP", "USDT", status),
            ("LUNA", "USDC", "BREAK"),
        ]))
    };
    for market in Market::ALL {
        for (status, count) in [("TRADING", 6), ("BREAK", 5)] {
            world.exchange.always(path(market), list(status));
            let (_, result) = world.run_last_try(market).await;
            assert_eq!(result["result"], format!("WARMUP_OK:{count}"));
            eventually(status, PATIENCE, async || {
                let symbol = endpoint.get(&format!("/api/v1/symbols/{market}/XRPUSDT")).await;
                (symbol.status == 200 && body(&symbol)["status"] == status).then_some(())
            })
            .await;
        }
        let symbol = endpoint.get(&format!("/api/v1/symbols/{market}/LUNAUSDC")).await;
        assert_eq!(body(&symbol)["status"], "BREAK");
        let unknown = endpoint.get(&format!("/api/v1/symbols/{market}/NOPE")).await;
        assert_eq!(unknown.status, 404);
        let changes = body(&endpoint.get("/api/v1/symbols/changes").await);
        let last = changes["changes"]
            .as_array()
            .expect("changes")
            .last()
            .expect("a change")
            .clone();
        assert_eq!(
            (&last["market"], &last["removed"]),
            (&json!(market.name()), &json!([]))
        );
        let told = json!([{"symbol": "XRPUSDT", "from": "TRADING", "to": "BREAK"}]);
        assert_eq!(last["status_changed"], told);
    }
}

#[tokio::test]
async fn changes_are_told_from_where_a_client_left_off() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    let after = exchange_info(&[
        ("ETH", "USDT", "TRADING"),
        ("BTC", "USDT", "TRADING"),
        ("币", "USDT", "TRADING"),
        ("SOL", "USDT", "TRADING"),
    ]);
    let before = body(&endpoint.get("/api/v1/symbols/changes").await);
    world.exchange.always(path(SPOT), Reply::json(after));
    let worker = world.start_worker(&[]);
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.result(&id, "SUCCESS").await;
    let since = before["next"]
        .as_str()
        .map_or(String::new(), |id| format!("?since={id}"));
    let changes = body(&endpoint.get(&format!("/api/v1/symbols/changes{since}")).await);
    let last = changes["changes"]
        .as_array()
        .expect("changes")
        .last()
        .expect("a change")
        .clone();
    assert_eq!(last["market"], "spot");
    assert_eq!(last["added"][0]["symbol"], "SOLUSDT");
    assert_eq!(changes["next"], last["id"]);
    let nothing = body(
        &endpoint
            .get(&format!(
                "/api/v1/symbols/changes?since={}",
                last["id"].as_str().expect("an id")
            ))
            .await,
    );
    assert_eq!(
        nothing,
        json!({"changes": [], "complete": true, "more": false, "next": last["id"]})
    );
    for query in ["?since=x", "?limit=0", "?limit=1001"] {
        assert_eq!(
            endpoint
                .get(&format!("/api/v1/symbols/changes{query}"))
                .await
                .status,
            422
        );
    }
    drop(worker);
    world.redis.pause();
    let answer = endpoint.get("/api/v1/symbols/changes").await;
    world.redis.resume();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
}
