//! The sandbox exchange: what comes from it says so everywhere, and never takes a real list's place.

use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, bin};

use crate::world::{GOOD_TEXT, Lists, PATIENCE, World, connected, good_list, now, warmup};

const SPOT: Market = Market::Spot;

/// A sandbox exchange on a free port, and its address.
fn sandbox(arguments: &[&str]) -> (Process, String) {
    let sandbox = Process::builder(bin("tradebot-symbols"))
        .args(["sandbox", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .spawn();
    let line = sandbox.wait_for_line("nothing it serves is real", PATIENCE);
    let url = line
        .split_once("url=\"")
        .expect("an address")
        .1
        .trim_end_matches('"')
        .to_owned();
    (sandbox, url)
}

fn worker_of(world: &World, exchange: &str) -> Process {
    let worker = world.worker(&[]);
    connected(
        worker
            .env("BINANCE_SPOT_BASE_URL", exchange)
            .env("BINANCE_FUTURES_BASE_URL", exchange),
    )
}

fn network(lists: &Lists) -> Value {
    let source: Value = serde_json::from_str(lists.source.as_deref().unwrap_or("{}")).expect("JSON");
    source["network"].clone()
}

#[tokio::test]
async fn a_list_of_the_sandbox_is_marked_in_redis_and_in_the_log() {
    let world = World::new().await;
    let (sandbox, exchange) = sandbox(&[]);
    let worker = worker_of(&world, &exchange);
    for (number, market) in Market::ALL.into_iter().enumerate() {
        let (_, result) = world.run_last_try(market).await;
        assert_eq!(result["status"], "SUCCESS", "{result}");
        let lists = world.lists(market).await;
        assert_eq!(network(&lists), "sandbox");
        let list: Vec<Value> = serde_json::from_str(lists.primary.as_deref().unwrap_or("[]")).expect("JSON");
        assert!(list.len() > 400, "{} symbols", list.len());
        assert_eq!(list[0]["symbol"], "BTCUSDT");
        assert_eq!(result["result"], format!("WARMUP_OK:{}", list.len()));
        let line = worker.wait_for_nth_line("SANDBOX", number + 1, PATIENCE);
        assert!(line.contains(" WARN ") && line.contains(market.name()), "{line}");
    }
    sandbox.signal(tradebot_test_support::Signal::SIGTERM);
    assert_eq!(sandbox.wait_exit(PATIENCE).code(), Some(0));
}

#[tokio::test]
async fn a_sandbox_list_never_replaces_one_whose_origin_is_not_the_sandbox() {
    let (_sandbox, exchange) = sandbox(&[]);
    let keys = CacheKeys(SPOT);
    let mainnet = r#"{"network": "mainnet", "host": "h", "fetched_at": 7, "count": 2}"#;
    // As Python leaves it, with the primary list expired or still there, and as we leave it.
    let cases: [&[(String, &str)]; 4] = [
        &[(keys.last_good(), GOOD_TEXT), (keys.last_refresh(), "7")],
        &[(keys.primary(), GOOD_TEXT)],
        &[(keys.primary(), GOOD_TEXT), (keys.last_good(), GOOD_TEXT)],
        &[
            (keys.last_good(), GOOD_TEXT),
            (keys.last_refresh(), "7"),
            (keys.source(), mainnet),
        ],
    ];
    for stored in cases {
        let world = World::new().await;
        let worker = worker_of(&world, &exchange);
        for (key, value) in stored {
            world.set(key, value).await;
        }
        let before = world.lists(SPOT).await;
        let (id, result) = world.run_last_try(SPOT).await;
        assert_eq!(result["status"], "FAILURE", "{result}");
        let message = result["result"]["exc_message"][0].as_str().unwrap_or_default();
        for part in [
            "refused to put sandbox data over the real spot list",
            &world.redis.url(),
            "up --sandbox --private-redis",
            "delete the spot list first",
        ] {
            assert!(message.contains(part), "`{part}` is missing: {message}");
        }
        worker.wait_for_line(&id, PATIENCE);
        assert_eq!(world.lists(SPOT).await, before);
        assert_eq!(world.errors(SPOT).await, 1);
    }
}

#[tokio::test]
async fn a_list_that_python_wrote_after_the_sandbox_is_a_real_one() {
    let world = World::new().await;
    let (_sandbox, exchange) = sandbox(&[]);
    let _worker = worker_of(&world, &exchange);
    assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS");
    // Python knows nothing of the source key: it stays, and describes a list that is gone.
    let keys = CacheKeys(SPOT);
    world.set(&keys.primary(), GOOD_TEXT).await;
    world.set(&keys.last_good(), GOOD_TEXT).await;
    world
        .set(&keys.last_refresh(), &(now().timestamp() + 1).to_string())
        .await;
    let real = world.lists(SPOT).await;
    let (_, result) = world.run_last_try(SPOT).await;
    assert_eq!(result["status"], "FAILURE", "{result}");
    assert_eq!(world.lists(SPOT).await, real);
}

#[tokio::test]
async fn a_sandbox_list_replaces_a_sandbox_list_and_a_real_one_replaces_both() {
    let world = World::new().await;
    let (_sandbox, exchange) = sandbox(&[]);
    let worker = worker_of(&world, &exchange);
    for successes in 1..=2 {
        assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS");
        assert_eq!(world.lists(SPOT).await.successes, successes);
    }
    drop(worker);
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.result(&id, "SUCCESS").await;
    let lists = world.lists(SPOT).await;
    assert_eq!(lists.primary.as_deref(), Some(GOOD_TEXT));
    assert_eq!(network(&lists), "mainnet");
}

#[tokio::test]
async fn a_real_answer_that_the_sandbox_plays_back_is_sandbox_data_as_well() {
    let world = World::new().await;
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), good_list()).expect("a written file");
    let (_sandbox, exchange) = sandbox(&["--spot-file", file.path().to_str().expect("UTF-8")]);
    let _worker = worker_of(&world, &exchange);
    let (_, result) = world.run_last_try(SPOT).await;
    assert_eq!(result["result"], "WARMUP_OK:2");
    assert_eq!(network(&world.lists(SPOT).await), json!("sandbox"));
}
