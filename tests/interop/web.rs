//! The HTTP endpoint beside the middleware that it replaces, with the front end in a real browser, and under a
//! tester that knows the routes only from their document.

use std::time::Duration;

use redis::AsyncCommands;
use serde_json::Value;
use tempfile::TempDir;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, Python, RedisServer, Reply, ScriptedExchange, bin, free_port};

const PATIENCE: Duration = Duration::from_secs(30);
const EXCHANGE_INFO: &str = r#"{"timezone": "UTC", "serverTime": 1791331200000, "symbols": [
    {"symbol": "ETHUSDT", "status": "TRADING", "baseAsset": "ETH", "quoteAsset": "USDT"},
    {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT"},
    {"symbol": "BTCUSDC", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDC"}]}"#;

/// A Redis, an exchange and endpoints over both.
struct Scene {
    redis: RedisServer,
    exchange: ScriptedExchange,
}

impl Scene {
    async fn new() -> Self {
        let exchange = ScriptedExchange::start().await;
        for path in ["/api/v3/exchangeInfo", "/fapi/v1/exchangeInfo"] {
            exchange.always(path, Reply::json(EXCHANGE_INFO));
        }
        Self {
            redis: RedisServer::start(),
            exchange,
        }
    }

    /// An endpoint, and its address as `http://…`.
    fn serve(&self, env: &[(&str, &str)]) -> (Process, String) {
        let (redis, exchange) = (self.redis.url(), self.exchange.base_url());
        let process = Process::builder(bin("tradebot-symbols"))
            .args(["serve", "--listen", "127.0.0.1:0", "--threads", "1"])
            .envs([
                ("REDIS_URL", redis.as_str()),
                ("CELERY_BROKER_URL", redis.as_str()),
                ("BINANCE_SPOT_BASE_URL", exchange.as_str()),
                ("BINANCE_FUTURES_BASE_URL", exchange.as_str()),
            ])
            .envs(env.iter().copied())
            .spawn();
        let line = process.wait_for_line("http is listening", PATIENCE);
        let address = line
            .split("http.address=")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next());
        (process, format!("http://{}", address.expect("an address")))
    }

    /// Waits until both lists are in Redis.
    async fn warm(&self) {
        let mut db = self.redis.connection().await;
        for market in Market::ALL {
            tradebot_test_support::eventually("a list", PATIENCE, async || {
                let there: bool = db
                    .clone()
                    .exists(CacheKeys(market).primary())
                    .await
                    .expect("a number");
                there.then_some(())
            })
            .await;
        }
        // A beat, as it says that it lives.
        let beat = r#"{"host": "beat-host", "pid": 7, "version": "0.1.0", "leader": true, "next_due": 1791331200.5}"#;
        let set: Result<(), _> = db.set("tradebot-symbols:beat:one", beat).await;
        set.expect("a key that was set");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_and_the_old_front_end_get_what_they_expect() {
    let scene = Scene::new().await;
    let port = free_port().to_string();
    let origin = format!("http://localhost:{port}");
    let (_endpoint, endpoint) = scene.serve(&[]);
    let (_production, production) =
        scene.serve(&[("ENVIRONMENT", "production"), ("FRONTEND_URL", origin.as_str())]);
    scene.warm().await;
    let report = tokio::task::spawn_blocking(move || {
        Python::WEB.script_within(
            Duration::from_secs(120),
            "web_front_end.py",
            &[&endpoint, &production, &port],
            &[],
        )
    });
    let report: Value = report.await.expect("a report");
    assert_eq!(
        report["differences"],
        Value::Array(vec![]),
        "{:#}",
        report["differences"]
    );
    let browser = &report["browser"];
    for call in ["plain", "token", "production"] {
        let answer = &browser["calls"][call];
        assert_eq!(answer["status"], 200, "{call}: {answer}");
        assert_eq!(
            answer["symbols"],
            serde_json::json!(["BTCUSDT", "ETHUSDT"]),
            "{call}"
        );
    }
    assert!(browser["calls"]["stranger"]["error"].is_string(), "{browser:#}");
    let figures = &browser["figures"];
    for market in Market::ALL {
        assert_eq!(figures[format!("{market}-count")], "2", "{figures:#}");
        assert_eq!(
            figures[format!("{market}-source")],
            scene.exchange.base_url().as_str()
        );
        for figure in ["age", "lifetime", "refreshed", "due", "hits"] {
            let text = figures[format!("{market}-{figure}")].as_str().unwrap_or_default();
            assert!(
                text.chars().any(|c| c.is_ascii_digit()) || figure == "hits",
                "{figure}: {text}"
            );
        }
    }
    let beats = figures["beats"].as_str().expect("beats");
    assert!(beats.contains("beat-host") && beats.contains("leads"), "{beats}");
    assert_eq!(figures["state"], "This endpoint is ready.");
    let state = &browser["state"];
    assert_eq!(
        (&state["lang"], &state["title"]),
        (&Value::from("en"), &Value::from("Symbol lists"))
    );
    assert!(
        state["width"].as_u64().is_some_and(|width| width <= 320),
        "{state:#}"
    );
    assert_eq!(state["style"], "grid", "the style was refused");
    assert_eq!(state["named"], true);
    assert_eq!(state["columns"], true);
    assert_eq!(browser["complaints"], Value::Array(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() {
    let scene = Scene::new().await;
    let (_endpoint, endpoint) = scene.serve(&[]);
    scene.warm().await;
    // It keeps what it found, and would begin with that.
    let directory = TempDir::new().expect("a directory");
    let run = Python::WEB.module(
        "schemathesis.cli",
        &[
            "run",
            &format!("{endpoint}/openapi.json"),
            "--checks",
            "all",
            "--mode",
            "all",
            "--max-examples",
            "40",
            "--seed",
            "1",
            "--no-color",
            "--request-timeout",
            "20",
        ],
        directory.path(),
    );
    let status = tokio::task::spawn_blocking(move || {
        let status = run.wait_exit(Duration::from_secs(170));
        (status, run.output())
    });
    let (status, output) = status.await.expect("a run");
    assert!(status.success(), "{output}");
}
