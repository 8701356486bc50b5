//! Recorded answers of the exchange: a Python client asks for a refresh, a Python reader reads the list, and Python
//! computes the expected list from the same bytes, to compare symbol by symbol.

use redis::cmd;
use serde_json::{Value, json};
use tradebot_test_support::{Capture, Captures, Market, Python, Reply, captures};

use crate::fleet::{FUTURES_PATH, Fleet, SPOT_PATH, WARMUP_FUTURES, WARMUP_SPOT};

/// The list that the contract's rule makes of a captured file, computed by Python alone.
fn computed(python: Python, capture: &Capture) -> Vec<Value> {
    let path = capture.path.to_str().expect("a UTF-8 path");
    let prepared = python.script("prepare.py", &[capture.market.as_str(), path], &[]);
    let text = prepared["text"].as_str().expect("the list as text");
    serde_json::from_str(text).expect("a list")
}

/// Removes what earlier lists left: each one here would be held back beside the one before, of another year.
async fn forget(fleet: &Fleet) {
    let mut db = fleet.redis.connection().await;
    let keys: Vec<String> = cmd("KEYS")
        .arg("cache:symbols:*")
        .query_async(&mut db)
        .await
        .expect("keys");
    if !keys.is_empty() {
        let deleted: Result<u64, _> = cmd("DEL").arg(&keys).query_async(&mut db).await;
        deleted.expect("deleted keys");
    }
}

async fn compare_all(python: Python, captures: &Captures) {
    let fleet = Fleet::start(python).await;
    let of_testnet = |capture: &&Capture| capture.name.contains("testnet");
    let worker = fleet.worker();
    let real = captures.files().iter().filter(|capture| !of_testnet(capture));
    compare(python, &fleet, real).await;
    drop(worker);
    let url = fleet.exchange.base_url();
    let testnet = [
        ("TESTNET_URL", "true"),
        ("BINANCE_SPOT_TESTNET_BASE_URL", url.as_str()),
        ("BINANCE_FUTURES_TESTNET_BASE_URL", url.as_str()),
    ];
    let _worker = fleet.worker_with("celery", &testnet);
    compare(python, &fleet, captures.files().iter().filter(of_testnet)).await;
}

async fn compare(python: Python, fleet: &Fleet, captures: impl Iterator<Item = &Capture>) {
    for capture in captures {
        forget(fleet).await;
        let name = &capture.name;
        let (path, task) = match capture.market {
            Market::Spot => (SPOT_PATH, WARMUP_SPOT),
            Market::Futures => (FUTURES_PATH, WARMUP_FUTURES),
        };
        fleet.exchange.always(path, Reply::json(capture.bytes()));
        let answer = fleet.send(&[json!({"name": task, "wait": 60})]).remove(0);
        let expected = computed(python, capture);
        assert_eq!(
            answer["result"],
            format!("WARMUP_OK:{}", expected.len()),
            "{name}"
        );

        let lists = fleet.lists();
        for key in ["v1", "last_good"] {
            let read = &lists[format!("cache:symbols:{}:{key}", capture.market.as_str())];
            let listed = read["value"].as_array().expect("a list");
            assert_eq!(listed.len(), expected.len(), "{name} {key}");
            for (place, (one, other)) in listed.iter().zip(&expected).enumerate() {
                assert_eq!(one, other, "{name} {key}, symbol {place}");
            }
            let members = json!(["symbol", "baseAsset", "quoteAsset", "status"]);
            assert_eq!(
                read["members"],
                json!([members]),
                "{name} {key}: members and their order"
            );
            let text = json!(["str"]);
            let types = json!({"symbol": text, "baseAsset": text, "quoteAsset": text, "status": text});
            assert_eq!(read["types"], types, "{name} {key}: types");
        }
    }
}

#[tokio::test]
async fn a_client_of_celery_5_5_2_gets_every_captured_list_as_python_would_have_made_it() {
    if let Some(captures) = captures() {
        compare_all(Python::CELERY_5_5_2, &captures).await;
    }
}

#[tokio::test]
async fn a_client_of_the_newest_celery_gets_every_captured_list_as_python_would_have_made_it() {
    if let Some(captures) = captures() {
        compare_all(Python::CELERY_NEWEST, &captures).await;
    }
}
