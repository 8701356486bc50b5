//! Requests with tokens to the endpoint.

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use reqwest::header::AUTHORIZATION;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{ChaosProxy, Process, RedisServer, bin, eventually, free_port};

use super::*;
use crate::world::PATIENCE;

const SPOT: &str = "/api/v1/symbols/spot";
/// What the endpoint may take: the branch and the exchange.
const IN_TIME: Duration = Duration::from_secs(10);

/// A `serve` whose lists live for a second, over a scene and a Redis.
struct Service {
    redis: RedisServer,
    db: MultiplexedConnection,
    process: Process,
    base_url: String,
    client: reqwest::Client,
}

/// What came back.
struct Answer {
    status: u16,
    headers: String,
    control: String,
    network: String,
    body: String,
}

impl Service {
    async fn start(environment: Environment) -> Self {
        let redis = RedisServer::start();
        let db = redis.connection().await;
        let url = redis.url();
        let environment = environment
            .with("REDIS_URL", &url)
            .with("CELERY_BROKER_URL", &url)
            .with("CELERY_RESULT_BACKEND", &url)
            .with("ENABLE_SPOT_WARMUP_ON_STARTUP", "0")
            .with("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0");
        let process = Process::builder(bin("tradebot-symbols"))
            .args(["serve", "--listen", "127.0.0.1:0", "--threads", "1"])
            .envs(&environment.0)
            .spawn();
        let line = process.wait_for_line("http.address=127.0.0.1:", PATIENCE);
        // Needed to make a client, though it only speaks plain HTTP. Fails if another test was faster.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (_, port) = line.split_once("http.address=127.0.0.1:").expect("an address");
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        Self {
            redis,
            db,
            process,
            base_url: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::builder().no_proxy().build().expect("a client"),
        }
    }

    async fn get(&self, path: &str, token: Option<&str>) -> Answer {
        let mut request = self.client.get(format!("{}{path}", self.base_url));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let answer = request.send().await.expect("an answer");
        let header = |name: &str| {
            let value = answer
                .headers()
                .get(name)
                .map(|value| value.to_str().expect("text"));
            value.unwrap_or_default().to_owned()
        };
        Answer {
            status: answer.status().as_u16(),
            headers: format!("{:?}", answer.headers()),
            control: header("cache-control"),
            network: header("x-symbols-network"),
            body: answer.text().await.expect("a body"),
        }
    }

    /// Waits until the list has expired, so that the next request misses.
    async fn expired(&self) {
        eventually("the list's end", PATIENCE, async || {
            let key = CacheKeys(Market::Spot).primary();
            let there: bool = self.db.clone().exists(key).await.expect("an answer");
            (!there).then_some(())
        })
        .await;
    }

    /// Everything in Redis, in one text.
    async fn stored(&self) -> String {
        let mut db = self.redis.connection().await;
        let keys: Vec<String> = db.keys("*").await.expect("keys");
        let mut all = keys.join(" ");
        for key in keys {
            let value: redis::Value = redis::cmd("DUMP")
                .arg(&key)
                .query_async(&mut db)
                .await
                .expect("a value");
            if let redis::Value::BulkString(bytes) = value {
                all.push_str(&String::from_utf8_lossy(&bytes));
            }
        }
        all
    }
}

fn short_lived(environment: Environment) -> Environment {
    environment
        .with("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "1")
        .with("SYMBOLS_MAX_STALE_SECONDS", "0")
        .with("SYMBOLS_REFRESH_AHEAD_PERCENT", "0")
}

/// A good token for a user, in an order.
fn token_of(email: &str) -> Value {
    json!({"claims": {"sub": email, "exp": 3600}, "key": SECRET_KEY})
}

fn assert_public(what: &str, answer: &Answer) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.body);
    assert!(
        answer.body.contains("MAINUSDT") && !answer.body.contains("TESTUSDT"),
        "{what}: {}",
        answer.body
    );
    assert!(!answer.control.contains("private"), "{what}: {}", answer.control);
    assert_eq!(answer.network, "mainnet", "{what}");
}

fn assert_private(what: &str, answer: &Answer) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.body);
    assert_eq!(
        answer.body,
        concat!(
            r#"[{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}, "#,
            r#"{"symbol": "ETHUSDT", "baseAsset": "ETH", "quoteAsset": "USDT", "status": "TRADING"}, "#,
            r#"{"symbol": "TESTUSDT", "baseAsset": "TEST", "quoteAsset": "USDT", "status": "TRADING"}]"#
        ),
        "{what}"
    );
    assert!(
        answer.control.starts_with("private"),
        "{what}: {}",
        answer.control
    );
    assert_eq!(answer.network, "testnet", "{what}");
}

/// Every bad token and every bad key: the public list, status 200, in time. Only who has a key of the testnet gets the
/// testnet's list, and no key of Redis ever holds it.
#[tokio::test(flavor = "multi_thread")]
async fn each_user_gets_a_list_in_time_and_shared_keys_hold_the_deployments_alone() {
    let users = [
        "no key",
        "undecryptable",
        "testnet",
        "mainnet",
        "neither",
        "format",
    ];
    let keys = |user: &str| match user {
        "no key" => json!([]),
        "undecryptable" => json!([key_with("lost", json!({"fernet_key": -1}))]),
        "format" => json!([{"api_key": "canary-short", "secret_key": "canary"}]),
        name => json!([key(name)]),
    };
    let mut rows: Vec<_> = users
        .iter()
        .map(|user| json!({"email": user, "keys": keys(user)}))
        .collect();
    rows.push(json!({"email": "inactive", "is_active": false, "keys": [key("testnet")]}));
    let mut tokens = serde_json::Map::new();
    for user in users.iter().chain(&["inactive", "unknown"]) {
        tokens.insert((*user).to_owned(), token_of(user));
    }
    tokens.insert(
        "expired".into(),
        json!({"claims": {"sub": "testnet", "exp": -1}, "key": SECRET_KEY}),
    );
    tokens.insert(
        "no expiry".into(),
        json!({"claims": {"sub": "testnet"}, "key": SECRET_KEY}),
    );
    tokens.insert(
        "forged".into(),
        json!({"claims": {"sub": "testnet", "exp": 3600}, "key": "canary"}),
    );
    tokens.insert(
        "other algorithm".into(),
        json!({"claims": {"sub": "testnet", "exp": 3600}, "key": SECRET_KEY, "algorithm": "HS512"}),
    );
    let scene = Scene::new(json!({"users": rows, "tokens": tokens})).await;
    know(&scene.testnet, "testnet");
    know(&scene.mainnet, "mainnet");
    let service = Service::start(short_lived(scene.environment())).await;
    let mut cases: Vec<(&str, Option<&str>)> = scene
        .filled
        .tokens
        .iter()
        .map(|(name, token)| (name.as_str(), Some(token.as_str())))
        .collect();
    cases.extend([("no token", None), ("garbage", Some("not.a.token"))]);
    for (what, token) in cases {
        service.expired().await;
        let answer = in_time(IN_TIME, service.get(SPOT, token)).await;
        if what == "testnet" {
            assert_private(what, &answer);
            // The next one, without a token, is a miss still: nothing was stored.
            assert_public("after testnet", &service.get(SPOT, None).await);
        } else {
            assert_public(what, &answer);
        }
        assert!(!service.stored().await.contains("TESTUSDT"), "{what}");
    }
}

/// A fresh list serves all clients, and costs neither a connection nor a request.
#[tokio::test(flavor = "multi_thread")]
async fn a_cache_hit_touches_neither_database_nor_exchange() {
    let scene = Scene::one_user().await;
    know(&scene.testnet, "one");
    let proxy = ChaosProxy::start(scene.filled.database.port());
    let url = scene.filled.database.url_via(proxy.port());
    let service = Service::start(scene.environment().with("DATABASE_URL", &url)).await;
    assert_public("the first", &service.get(SPOT, None).await);
    let asked = (scene.testnet.requests().len(), scene.mainnet.requests().len());
    for _ in 0..20 {
        assert_public("a hit", &service.get(SPOT, Some(scene.token("one"))).await);
    }
    let now = (scene.testnet.requests().len(), scene.mainnet.requests().len());
    assert_eq!((proxy.accepted(), now), (0, asked));
    // The other market is not there yet.
    assert_private(
        "a miss",
        &service
            .get("/api/v1/symbols/futures", Some(scene.token("one")))
            .await,
    );
    assert_eq!(proxy.accepted(), 1);
}

/// Where a stale list is served at once, a user with a key of another network gets that network's.
#[tokio::test(flavor = "multi_thread")]
async fn past_its_lifetime_a_list_is_the_answer_to_those_without_a_key() {
    let scene = Scene::new(json!({
        "users": [{"email": "testnet", "keys": [key("testnet")]}, {"email": "no key"}],
        "tokens": {"testnet": token_of("testnet"), "no key": token_of("no key")},
    }))
    .await;
    know(&scene.testnet, "testnet");
    let environment = short_lived(scene.environment()).with("SYMBOLS_MAX_STALE_SECONDS", "3600");
    let service = Service::start(environment).await;
    assert_public("the first", &service.get(SPOT, None).await);
    scene.mainnet.always(path(Market::Spot), Reply::status(503, "x"));
    service.expired().await;
    assert_public("no token", &service.get(SPOT, None).await);
    assert_public("no key", &service.get(SPOT, Some(scene.token("no key"))).await);
    assert_private("testnet", &service.get(SPOT, Some(scene.token("testnet"))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_down_or_slow_the_public_list_comes_in_time() {
    let scene = Scene::one_user().await;
    know(&scene.testnet, "one");
    let token = Some(scene.token("one"));
    let proxy = ChaosProxy::start(scene.filled.database.port());
    let environment = short_lived(scene.environment())
        .with("DATABASE_URL", &scene.filled.database.url_via(proxy.port()))
        .with("DATABASE_TIMEOUT_SECONDS", "1")
        .with("CREDENTIALS_TIMEOUT_SECONDS", "4");
    let service = Service::start(environment.clone()).await;
    for (what, trouble) in [
        ("down", ChaosProxy::cut as fn(&ChaosProxy)),
        ("slow", ChaosProxy::freeze),
    ] {
        trouble(&proxy);
        service.expired().await;
        assert_public(what, &in_time(IN_TIME, service.get(SPOT, token)).await);
    }
    proxy.restore();
    eventually("the database to be used again", PATIENCE, async || {
        service.expired().await;
        let answer = service.get(SPOT, token).await;
        answer.control.starts_with("private").then_some(())
    })
    .await;
    let told = |text: &str| service.process.output().matches(text).count();
    assert!(told("users get the public list until the database answers") >= 1);
    assert_eq!(told("the database answers again"), 1);
    // The testnet hangs, then it is gone.
    scene.testnet.always("/api/v3/account", Reply::json("").hang());
    let hanging = Service::start(environment.clone()).await;
    assert_public("testnet hangs", &in_time(IN_TIME, hanging.get(SPOT, token)).await);
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let gone = Service::start(environment.with("BINANCE_SPOT_TESTNET_BASE_URL", &nowhere)).await;
    assert_public("testnet is gone", &in_time(IN_TIME, gone.get(SPOT, token)).await);
}

/// Marked secrets wherever there is one: not in logs, answers, metrics, Redis, or the memory that `/proc` shows others.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_leaves_the_service_holds_a_secret() {
    let scene = Scene::new(json!({
        "users": [{"email": "testnet", "keys": [key("testnet")]}, {"email": "neither", "keys": [key("neither")]}],
        "tokens": {
            "testnet": token_of("testnet"),
            "neither": token_of("neither"),
            "forged": {"claims": {"sub": "testnet", "exp": 3600}, "key": "canary"},
        },
    }))
    .await;
    know(&scene.testnet, "testnet");
    let environment = short_lived(scene.environment()).with("LOG_LEVEL", "trace");
    let service = Service::start(environment).await;
    let mut answers = String::new();
    for token in scene.filled.tokens.values() {
        service.expired().await;
        let answer = service.get(SPOT, Some(token)).await;
        assert_eq!(answer.status, 200);
        answers.push_str(&format!("{}{}", answer.headers, answer.body));
    }
    // Nothing is left to serve: the error's body.
    scene
        .mainnet
        .always(path(Market::Futures), Reply::status(503, "x"));
    for path in [
        "/api/v1/symbols/futures",
        "/metrics",
        "/",
        "/readyz",
        "/livez",
        "/status",
        "/nowhere",
    ] {
        let answer = service.get(path, Some(scene.token("neither"))).await;
        answers.push_str(&format!("{}{}", answer.headers, answer.body));
    }
    for end in ["private", "networks", "token"] {
        let counted = format!("tradebot_symbols_own_keys_total{{end=\"{end}\"}}");
        assert!(answers.contains(&counted), "{counted} is missing:\n{answers}");
    }
    let stored = service.stored().await;
    service.process.signal(tradebot_test_support::Signal::SIGTERM);
    service.process.wait_exit(PATIENCE);
    let output = service.process.output();
    assert!(output.contains("serving lists by users' own keys"), "{output}");
    let signatures: Vec<&str> = scene
        .filled
        .tokens
        .values()
        .filter_map(|it| it.rsplit('.').next())
        .collect();
    let mut marks = vec![
        "canary",
        "p%40ss",
        "p@ss",
        scene.filled.fernet_keys.as_str(),
        "signature=",
    ];
    marks.extend(signatures);
    for (place, text) in [
        ("the output", &output),
        ("the answers", &answers),
        ("Redis", &stored),
    ] {
        for mark in &marks {
            assert!(!text.contains(mark), "`{mark}` in {place}:\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_says_whether_keys_are_used_and_production_insists() {
    let serve = |environment: &Environment| {
        Process::builder(bin("tradebot-symbols"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .envs(&environment.0)
            .spawn()
    };
    let off = serve(&Environment::default());
    let line = off.wait_for_line("users' own keys are not used", PATIENCE);
    assert!(line.contains("DATABASE_URL is not set"), "{line}");
    let production = Environment::default()
        .with("ENVIRONMENT", "production")
        .with("DATABASE_URL", "postgresql+asyncpg://u:canary@127.0.0.1:1/t");
    let refused = serve(&production);
    assert_eq!(refused.wait_exit(PATIENCE).code(), Some(64));
    for name in ["SECRET_KEY", "FERNET_KEY"] {
        let told = format!("{name} cannot be used: it is missing");
        assert!(refused.stderr().contains(&told), "{}", refused.stderr());
    }
    assert!(!refused.output().contains("canary"));
}
