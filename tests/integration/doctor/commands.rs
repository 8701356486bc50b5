//! `status`, `adopt`, and `doctor --watch`.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{
    Process, RedisServer, Reply, ScriptedExchange, Signal, bin, free_port, stretched,
};

use super::Scene;
use crate::world::{GOOD_TEXT, PATIENCE, World, exchange_info, good_list, path, task};

#[tokio::test]
async fn status_shows_lists_queues_workers_and_beats() {
    let scene = Scene::healthy().await;
    let _: () = scene
        .ask(&[
            "MSET",
            "metrics:cache_hit:symbols_spot",
            "3",
            "metrics:cache_miss:symbols_spot",
            "1",
        ])
        .await;
    scene.world.enqueue(task("app.core.bot_tasks.run_bot_task")).await;
    let shown = scene.program(&["status"], &[]);
    assert_eq!(shown.wait_exit(PATIENCE).code(), Some(0));
    let text = shown.stdout();
    for part in [
        "broker+cache+results",
        "spot                 2 symbols, last good 2 symbols",
        "75.0 % hits",
        "celery               1 waiting, next app.core.bot_tasks.run_bot_task",
        "symbols@scene        ours, answers, queues celery",
        "\nbeat     ",
    ] {
        assert!(
            text.contains(part),
            "{part}
{text}"
        );
    }
    let picture: Value =
        serde_json::from_str(&scene.program(&["status", "--json"], &[]).stdout()).expect("JSON");
    assert_eq!(picture["lists"][1]["primary"]["count"], 2, "{picture:#}");
    assert_eq!(picture["fleet"]["workers"][0]["node"], "symbols@scene");
    assert_eq!(picture["broker"]["queues"][0]["messages"], 1);
}

#[test]
fn status_says_once_that_redis_does_not_answer() {
    let nowhere = format!("redis://127.0.0.1:{}/0", free_port());
    let status = Process::builder(bin("tradebot-symbols"))
        .arg("status")
        .envs(["REDIS_URL", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"].map(|name| (name, &nowhere)))
        .spawn();
    assert_eq!(status.wait_exit(PATIENCE).code(), Some(2), "{}", status.output());
    let text = status.stdout();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.starts_with("redis    broker+cache+results") && text.contains(&nowhere),
        "{text}"
    );
}

#[tokio::test]
async fn a_doctor_that_watches_looks_again_until_it_is_stopped() {
    let scene = Scene::healthy().await;
    let doctor = Process::builder(bin("tradebot-symbols"))
        .args(["doctor", "--watch", "--json", "--interval", "1"])
        .envs(&scene.environment)
        .spawn();
    doctor.wait_for_nth_line("\"healthy\":true", 2, PATIENCE);
    let _: u64 = scene.ask(&["DEL", &CacheKeys(Market::Spot).last_good()]).await;
    let line = doctor.wait_for_line("last-good-missing", PATIENCE);
    assert!(
        serde_json::from_str::<Value>(&line).is_ok(),
        "one object a line: {line}"
    );
    doctor.signal(Signal::SIGTERM);
    let code = doctor.wait_exit(PATIENCE).code();
    // Stopped between two examinations it ends with the exit code of the last.
    assert!(matches!(code, Some(0 | 2)), "{code:?}");
}

#[tokio::test]
async fn a_doctor_ends_in_time_whatever_hangs() {
    let scene = Scene::healthy().await;
    scene.world.redis.pause();
    scene
        .world
        .exchange
        .always("/api/v3/ping", Reply::json("").hang());
    let started = Instant::now();
    let report = scene.doctor(&[]);
    assert!(
        started.elapsed() < stretched(Duration::from_secs(15)),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        report.codes,
        ["redis-unreachable", "exchange-unreachable"],
        "{:#}",
        report.said
    );
    assert_eq!(report.exit, Some(3));
    scene.world.redis.resume();
}

#[test]
fn every_code_is_explained() {
    let doctor = Process::builder(bin("tradebot-symbols"))
        .args(["doctor", "--codes"])
        .spawn();
    assert_eq!(doctor.wait_exit(PATIENCE).code(), Some(0));
    let text = doctor.stdout();
    for kind in tradebot_symbols::internals::KINDS {
        assert!(
            text.contains(kind.code) && text.contains(kind.remedy),
            "{}",
            kind.code
        );
    }
}

/// The existing deployment's `.env` file, with the test's hosts.
fn env_file(redis: &RedisServer, exchange: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    let text = format!(
        r#"# TradeBot
export ENVIRONMENT=development
REDIS_URL="redis://:canary-31@127.0.0.1:{port}/0"
CELERY_BROKER_URL=redis://:canary-31@127.0.0.1:{port}/0   # the same server
CELERY_RESULT_BACKEND='redis://:canary-31@127.0.0.1:{port}/0'
SPOT_SYMBOLS_CACHE_TTL_SECONDS=300
FUTURES_SYMBOLS_CACHE_TTL_SECONDS=900
SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS=300
FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS=300
ENABLE_SPOT_WARMUP_ON_STARTUP=1
ENABLE_FUTURES_WARMUP_ON_STARTUP=1
TESTNET_URL=false
BINANCE_RETRY_MAX_ATTEMPTS=3
BINANCE_RETRY_BACKOFF_BASE=0.5
BINANCE_WEIGHT_THRESHOLD=1100
CELERY_TASK_TIME_LIMIT=180
CELERY_TASK_SOFT_TIME_LIMIT=150
SECRET_KEY=canary-32
ALGORITHM=HS512
FERNET_KEY=canary-33
FRONTEND_URL=http://localhost:3000
LOG_LEVEL=INFO
BINANCE_SPOT_BASE_URL={exchange}
BINANCE_FUTURES_BASE_URL={exchange}
BINANCE_SPOT_TESTNET_BASE_URL={exchange}
BINANCE_FUTURES_TESTNET_BASE_URL={exchange}
SMTP_PASSWORD=canary-34
MAIL_FROM=Trade Bot <bot@example.com>
"#,
        port = redis.port()
    );
    file.write_all(text.as_bytes()).expect("a written file");
    file
}

#[tokio::test]
async fn adopt_reports_what_is_used_and_unsafe_and_how_the_lists_compare() {
    let world = World::on(RedisServer::start_with(&["--appendonly", "yes"])).await;
    for market in Market::ALL {
        world.exchange_lists(market);
        world.exchange.always(super::ping(market), Reply::json("{}"));
    }
    // The first as Python's `json.dumps` writes it, the other without spaces.
    let compact: Value = serde_json::from_str(GOOD_TEXT).expect("JSON");
    for (market, text) in [
        (Market::Spot, GOOD_TEXT.to_owned()),
        (Market::Futures, compact.to_string()),
    ] {
        let keys = CacheKeys(market);
        world.set(&keys.primary(), &text).await;
        world.set(&keys.last_good(), &text).await;
        world
            .set(&keys.last_refresh(), &crate::world::now().timestamp().to_string())
            .await;
    }
    let set: Result<(), _> = redis::cmd("CONFIG")
        .arg(&["SET", "requirepass", "canary-31"])
        .query_async(&mut world.db())
        .await;
    set.expect("a password");
    let before: String = redis::cmd("DEBUG")
        .arg("DIGEST-VALUE")
        .arg(CacheKeys(Market::Spot).primary())
        .query_async(&mut world.db())
        .await
        .unwrap_or_default();
    let file = env_file(&world.redis, &world.exchange.base_url());
    let adopt = || {
        let program = Process::builder(bin("tradebot-symbols"))
            .args([
                "adopt",
                "--env-file",
                file.path().to_str().expect("a path of text"),
            ])
            .spawn();
        program.wait_exit(PATIENCE);
        program
    };
    let told = adopt();
    let text = told.stdout();
    for part in [
        "SPOT_SYMBOLS_CACHE_TTL_SECONDS = 300  (lifetime of the spot list",
        "REDIS_URL = redis://***@127.0.0.1:",
        "SECRET_KEY = (secret)",
        "ALGORITHM = HS512",
        "MAIL_FROM, SMTP_PASSWORD",
        "ttl-equals-interval (SPOT_SYMBOLS_CACHE_TTL_SECONDS)",
        "list-never-expires (spot)",
        "no-worker (celery)",
        "spot: 2 symbols, the same byte for byte",
        "futures: 2 symbols, the same after parsing",
        "To switch, one step at a time",
        "To switch back, ",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(!told.output().contains("canary"), "{text}");
    assert_eq!(told.wait_exit(PATIENCE).code(), Some(3), "no worker runs there");
    let after: String = redis::cmd("DEBUG")
        .arg("DIGEST-VALUE")
        .arg(CacheKeys(Market::Spot).primary())
        .query_async(&mut world.db())
        .await
        .unwrap_or_default();
    assert_eq!(before, after, "adopt writes no list");

    // A list that differs, and a slow exchange.
    world
        .set(
            &CacheKeys(Market::Spot).primary(),
            &GOOD_TEXT.replace("ETH", "DOGE"),
        )
        .await;
    world.exchange.always(
        path(Market::Spot),
        Reply::json(good_list()).delay(Duration::from_millis(2_500)),
    );
    let told = adopt();
    let text = told.stdout();
    for part in [
        "spot: 2 symbols are stored, 2 would be written",
        "1 not stored, and would be written: ETHUSDT",
        "1 stored, and would not be written: DOGEUSDT",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    assert!(
        told.stderr().contains("fetching the spot list from "),
        "{}",
        told.stderr()
    );
}

/// The variable in the file and the network that the Python containers really fetch.
#[tokio::test]
async fn adopt_withholds_its_steps_if_the_file_chooses_another_network_than_the_lists_are_of() {
    let world = World::new().await;
    let testnet = ScriptedExchange::start().await;
    let list = |bases: &[&str]| {
        let symbols: Vec<_> = bases.iter().map(|base| (*base, "USDT", "TRADING")).collect();
        Reply::json(exchange_info(&symbols))
    };
    let (mainnet_bases, testnet_bases) = (["BTC", "ETH", "SOL", "ADA", "XRP"], ["BTC", "ETH", "T1"]);
    for market in Market::ALL {
        world.exchange.always(path(market), list(&mainnet_bases));
        testnet.always(path(market), list(&testnet_bases));
        for exchange in [&world.exchange, &testnet] {
            exchange.always(super::ping(market), Reply::json("{}"));
        }
    }
    let stored = |bases: &[&str]| {
        let symbols: Vec<Value> = bases
            .iter()
            .map(|base| json!({"symbol": format!("{base}USDT"), "baseAsset": base, "quoteAsset": "USDT", "status": "TRADING"}))
            .collect();
        Value::from(symbols).to_string()
    };
    let cases = [
        (
            "true",
            &mainnet_bases[..],
            Some("5 symbols of the mainnet are stored, but the file chooses the testnet"),
        ),
        (
            "false",
            &testnet_bases[..],
            Some("3 symbols of the testnet are stored, but the file chooses the mainnet"),
        ),
        ("false", &mainnet_bases[..], None),
        ("true", &testnet_bases[..], None),
    ];
    for (variable, bases, contradiction) in cases {
        for market in Market::ALL {
            world.set(&CacheKeys(market).primary(), &stored(bases)).await;
        }
        let mut file = NamedTempFile::new().expect("a file");
        let (redis, main, test) = (world.redis.url(), world.exchange.base_url(), testnet.base_url());
        writeln!(
            file,
            "REDIS_URL={redis}\nCELERY_BROKER_URL={redis}\nCELERY_RESULT_BACKEND={redis}\nTESTNET_URL={variable}\n\
             BINANCE_SPOT_BASE_URL={main}\nBINANCE_FUTURES_BASE_URL={main}\n\
             BINANCE_SPOT_TESTNET_BASE_URL={test}\nBINANCE_FUTURES_TESTNET_BASE_URL={test}"
        )
        .expect("a written file");
        let adopt = Process::builder(bin("tradebot-symbols"))
            .args([
                "adopt",
                "--env-file",
                file.path().to_str().expect("a path of text"),
            ])
            .spawn();
        let code = adopt.wait_exit(PATIENCE).code();
        let text = adopt.stdout();
        match contradiction {
            Some(what) => {
                assert!(
                    text.contains(what) && text.contains("CRITICAL: after the switch"),
                    "{text}"
                );
                assert!(!text.contains("To switch"), "{text}");
                assert_eq!(code, Some(3), "{text}");
            }
            None => assert!(
                text.contains("To switch") && !text.contains("CRITICAL: after"),
                "{text}"
            ),
        }
    }
}

#[test]
fn a_file_that_cannot_be_used_is_refused_without_its_secrets() {
    let adopt = |path: &str| {
        let program = Process::builder(bin("tradebot-symbols"))
            .args(["adopt", "--env-file", path])
            .spawn();
        (program.wait_exit(PATIENCE).code(), program.output())
    };
    let (code, said) = adopt("/nowhere/.env");
    assert_eq!(code, Some(64));
    assert!(said.contains("cannot read the env file /nowhere/.env"), "{said}");
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(b"A=1\nthis is canary-35\n")
        .expect("a written file");
    let (code, said) = adopt(file.path().to_str().expect("a path of text"));
    assert_eq!(code, Some(64));
    assert!(
        said.contains("line 2: it is not `NAME=value`") && !said.contains("canary"),
        "{said}"
    );
    file.reopen()
        .and_then(|mut file| file.write_all(b"CELERY_TASK_TIME_LIMIT=soon\n\n\n\n\n\n"))
        .expect("a written file");
    let (code, said) = adopt(file.path().to_str().expect("a path of text"));
    assert_eq!(code, Some(64));
    assert!(said.contains("CELERY_TASK_TIME_LIMIT is `soon`"), "{said}");
}
