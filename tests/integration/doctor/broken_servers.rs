//! Broken servers and settings. The scene itself stays healthy: the broken server is the one for results.

use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime};

use redis::AsyncCommands;
use tradebot_base::market::Market;
use tradebot_test_support::{
    ChaosProxy, Database, PostgresServer, Process, RedisServer, Reply, bin, eventually, free_port, stretched,
};

use super::{GOOD_KEYS, Report, Scene, ping};
use crate::credentials::database::connect;
use crate::world::PATIENCE;

const RESULTS: &str = "CELERY_RESULT_BACKEND";

async fn config(server: &RedisServer, name: &str, value: &str) {
    let set: Result<(), _> = redis::cmd("CONFIG")
        .arg(&["SET", name, value])
        .query_async(&mut server.connection().await)
        .await;
    set.unwrap_or_else(|error| panic!("{name} {value}: {error}"));
}

/// A server that failed to save because its directory is gone.
async fn without_a_directory(more: &[&str]) -> RedisServer {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("a path of text").to_owned();
    let server = RedisServer::start_with(&[&["--dir", &path, "--save", "3600", "1000000"], more].concat());
    directory.close().expect("a directory that is gone");
    let mut db = server.connection().await;
    let _: () = db.set("k", 1).await.expect("SET");
    let _: String = redis::cmd("BGSAVE").query_async(&mut db).await.expect("BGSAVE");
    eventually("a save that failed", PATIENCE, async || {
        let info: String = redis::cmd("INFO")
            .arg("persistence")
            .query_async(&mut db)
            .await
            .expect("INFO");
        info.contains("rdb_last_bgsave_status:err").then_some(())
    })
    .await;
    server
}

/// A database with the columns of the deployment's two tables that the service reads.
pub(super) async fn with_tables() -> Database {
    let database = PostgresServer::shared().database();
    let tables = "CREATE TABLE users(id integer PRIMARY KEY, email varchar UNIQUE, is_active boolean, \
        created_at timestamptz, updated_at timestamptz); \
        CREATE TABLE api_keys(id integer PRIMARY KEY, user_id integer REFERENCES users, encrypted_api_key varchar, \
        encrypted_secret_key varchar, label varchar, is_valid boolean, created_at timestamptz, updated_at timestamptz)";
    let made = connect(&database).await.batch_execute(tables).await;
    made.expect("the tables");
    database
}

#[tokio::test]
async fn servers_in_trouble_are_named() {
    let scene = Scene::healthy().await;
    scene.doctor(&[]).assert_healthy();
    let named = |code: &str, url: &str| scene.assert_named(code, &[(RESULTS, url)]);

    let server = RedisServer::start();
    server.kill();
    named("redis-unreachable", &server.url());

    let server = RedisServer::start();
    server.pause();
    named("redis-unreachable", &server.url());
    server.resume();

    config(&server, "requirepass", "a password").await;
    named("redis-auth-refused", &server.url());
    let wrong = format!("redis://:canary-77@127.0.0.1:{}/0", server.port());
    named("redis-auth-refused", &wrong);
    let shown = scene.program(&["doctor"], &[(RESULTS, &wrong)]);
    assert!(!shown.output().contains("canary-77"), "{}", shown.output());

    let primary = scene.world.redis.port().to_string();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {primary}")]);
    named("redis-read-only", &replica.url());
    drop(replica);

    let server = RedisServer::start();
    config(&server, "maxmemory", "1").await;
    named("redis-full", &server.url());

    named("redis-disk-trouble", &without_a_directory(&[]).await.url());
    let server = without_a_directory(&["--stop-writes-on-bgsave-error", "no"]).await;
    named("redis-persistence-failing", &server.url());

    let server = RedisServer::start();
    let acl: Result<(), _> = redis::cmd("ACL")
        .arg(&["SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-set"])
        .query_async(&mut server.connection().await)
        .await;
    acl.expect("a user");
    named(
        "redis-refuses",
        &format!("redis://limited:pw@127.0.0.1:{}/0", server.port()),
    );

    let server = RedisServer::start();
    let users = [
        ("blind", "~* &* +@all -info", "redis-unchecked"),
        ("keyless", "~tradebot-symbols:* &* +@all", "redis-refuses"),
        ("mute", "~* resetchannels +@all", "redis-refuses"),
        ("scriptless", "~* &* +@all -evalsha", "redis-refuses"),
    ];
    for (user, rules, code) in users {
        named(code, &server.user(user, rules).await);
    }

    let proxy = ChaosProxy::start(server.port());
    proxy.delay(Duration::from_millis(100));
    named("redis-slow", &proxy.url());
}

#[tokio::test]
async fn servers_that_are_set_up_badly_are_named() {
    let scene = Scene::healthy().await;
    let named = |code: &str, url: &str| scene.assert_named(code, &[(RESULTS, url)]);

    let server = RedisServer::start_with(&["--maxmemory", "500mb", "--maxmemory-policy", "allkeys-lru"]);
    named("redis-may-evict", &server.url());

    let server = RedisServer::start();
    let mut db = server.connection().await;
    let _: () = db.set("k", "x".repeat(30_000_000)).await.expect("SET");
    drop(db);
    let mut before = 0;
    let used = eventually(
        "the server to free what it took for the command",
        PATIENCE,
        async || {
            let info: String = redis::cmd("INFO")
                .arg("memory")
                .query_async(&mut server.connection().await)
                .await
                .expect("INFO");
            let used = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
            let used: u64 = used
                .and_then(|used| used.trim().parse().ok())
                .expect("used memory");
            let same = used.abs_diff(std::mem::replace(&mut before, used)) < 50_000 && used < 45_000_000;
            same.then_some(used)
        },
    )
    .await;
    config(&server, "maxmemory", &(used + used / 20).to_string()).await;
    named("redis-memory-high", &server.url());

    let server = RedisServer::start_with(&["--bind", "0.0.0.0", "--protected-mode", "no"]);
    named("redis-without-password", &server.url());

    let server = RedisServer::start_with(&["--maxclients", "10"]);
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(server.connection().await);
    }
    named("redis-clients-high", &server.url());
    drop(held);

    // Only the broker's data must survive a restart.
    let _: () = scene.ask(&["CONFIG", "SET", "appendonly", "no"]).await;
    scene.assert_named("redis-not-persistent", &[]);
}

#[tokio::test]
async fn clocks_that_disagree_are_named() {
    let scene = Scene::healthy().await;
    // The clock of the doctor's machine is ahead.
    let doctor = Process::builder("faketime")
        .args(["-f", "+1h"])
        .arg(bin("tradebot-symbols"))
        .args(["doctor", "--json"])
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .envs(&scene.environment)
        .spawn();
    doctor.wait_exit(PATIENCE);
    Report::of(&doctor).assert_named("clock-skew");
    // Now the exchange's clock is behind.
    let late = SystemTime::now() - Duration::from_secs(90);
    let answer = Reply::json("{}").header("Date", &httpdate::fmt_http_date(late));
    scene.world.exchange.always(ping(Market::Futures), answer);
    scene.assert_named("clock-skew", &[]);
}

#[tokio::test]
async fn an_exchange_and_an_endpoint_that_do_not_answer_are_named() {
    let scene = Scene::healthy().await;
    let exchange = scene.world.exchange.base_url();
    let closed = format!("http://127.0.0.1:{}", free_port());
    let spot = "BINANCE_SPOT_BASE_URL";
    scene.assert_named("exchange-unreachable", &[(spot, &closed)]);
    scene.assert_named(
        "exchange-host-unreachable",
        &[(spot, &format!("{exchange},{closed}"))],
    );
    for (status, code) in [
        (418, "exchange-banned"),
        (429, "exchange-banned"),
        (451, "exchange-refuses"),
        (503, "exchange-unreachable"),
    ] {
        scene
            .world
            .exchange
            .always("/api/v3/ping", Reply::status(status, "{}"));
        scene.assert_named(code, &[]);
    }
    scene
        .world
        .exchange
        .always("/api/v3/ping", Reply::json("{}").hang());
    scene.assert_named("exchange-unreachable", &[]);
    scene.world.exchange.always("/api/v3/ping", Reply::json("{}"));
    // While the ban key that all processes share exists, the doctor does not ask.
    let pings = scene.world.exchange.count("/api/v3/ping");
    let ban = "cache:symbols:spot:ban:mainnet";
    let _: () = scene.ask(&["SET", ban, "1", "PX", "60000"]).await;
    scene.assert_named("exchange-banned", &[]);
    assert_eq!(scene.world.exchange.count("/api/v3/ping"), pings);
    // So does a refusal of these hosts, not of others.
    for (hosts, code) in [
        (exchange.as_str(), Some("exchange-refuses")),
        ("https://other.example", None),
    ] {
        let _: () = scene
            .ask(&["SET", ban, &format!("451 {hosts}"), "PX", "600000"])
            .await;
        match code {
            Some(code) => {
                let report = scene.doctor(&[]);
                report.assert_named(code);
                assert!(
                    report.said.to_string().contains("is asked again in"),
                    "{:#}",
                    report.said
                );
            }
            None => scene.doctor(&[]).assert_healthy(),
        }
    }
    assert_eq!(scene.world.exchange.count("/api/v3/ping"), pings + 1);
    let _: u64 = scene.ask(&["DEL", ban]).await;

    let listen = |url: &str| url.trim_start_matches("http://").to_owned();
    scene.assert_named("endpoint-unreachable", &[("HTTP_LISTEN", &listen(&closed))]);
    scene
        .world
        .exchange
        .always("/readyz", Reply::status(503, r#"{"reasons": ["redis"]}"#));
    scene.assert_named("endpoint-not-ready", &[("HTTP_LISTEN", &listen(&exchange))]);
    scene.world.exchange.always("/readyz", Reply::json("{}"));
    scene
        .doctor(&[("HTTP_LISTEN", &listen(&exchange))])
        .assert_healthy();
}

#[tokio::test]
async fn unsafe_settings_are_named() {
    let scene = Scene::healthy().await;
    let exchange = scene.world.exchange.base_url();
    let users = with_tables().await;
    let database = &*users.url();
    for (code, settings) in [
        (
            "ttl-below-interval",
            &[("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "299")][..],
        ),
        (
            "ttl-equals-interval",
            &[("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "300")],
        ),
        ("ttl-never", &[("FUTURES_SYMBOLS_CACHE_TTL_SECONDS", "0")]),
        ("schedule-off", &[("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")]),
        (
            "visibility-below-time-limit",
            &[("CELERY_VISIBILITY_TIMEOUT", "180")],
        ),
        (
            "soft-limit-not-below-hard",
            &[("CELERY_TASK_SOFT_TIME_LIMIT", "180")],
        ),
        ("results-kept-forever", &[("CELERY_RESULT_EXPIRES", "0")]),
        (
            "testnet-in-production",
            &[
                ("ENVIRONMENT", "production"),
                ("TESTNET_URL", "true"),
                ("BINANCE_SPOT_TESTNET_BASE_URL", &exchange),
                ("BINANCE_FUTURES_TESTNET_BASE_URL", &exchange),
            ],
        ),
        (
            "secret-key-unsafe",
            &[
                ("ENVIRONMENT", "production"),
                ("DATABASE_URL", database),
                ("SECRET_KEY", "your-secret-key-change-in-production"),
                ("FERNET_KEY", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="),
            ],
        ),
        (
            "fernet-key-unusable",
            &[
                ("ENVIRONMENT", "production"),
                ("DATABASE_URL", database),
                ("SECRET_KEY", "0f8fad5bd9cb469fa16570867728950e7c6f4b1a"),
            ],
        ),
        ("setting-unusable", &[("HTTP_MAX_CONNECTIONS", "lots")]),
        ("variable-unknown", &[("ENVIROMENT", "production")]),
        ("user-lists-off", &[("DATABASE_URL", database), GOOD_KEYS[0]]),
        (
            "key-weak",
            &[("DATABASE_URL", database), ("SECRET_KEY", "short"), GOOD_KEYS[1]],
        ),
    ] {
        scene.assert_named(code, settings);
    }
}

#[tokio::test]
async fn a_database_that_cannot_be_used_is_named() {
    let scene = Scene::healthy().await;
    let users = with_tables().await;
    let url = users.url();
    let doctor = |url| scene.doctor(&[("DATABASE_URL", url), GOOD_KEYS[0], GOOD_KEYS[1]]);
    doctor(&url).assert_healthy();
    let closed = format!("postgresql+asyncpg://u:canary-78@127.0.0.1:{}/d", free_port());
    for (code, url) in [
        ("database-unreachable", &*closed),
        ("database-refuses", &url.replace("canary-", "canary-78-")),
        ("database-other-tables", &url.replace(users.name(), "template1")),
    ] {
        let report = doctor(url);
        report.assert_named(code);
        assert!(
            !report.said.to_string().contains("canary-78"),
            "{:#}",
            report.said
        );
    }
}

/// A server that accepts connections and never answers.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

/// Each probe ends within five seconds. The limit is below ten times that, even with `TEST_PATIENCE=3`.
#[tokio::test]
async fn a_part_that_hangs_is_named_within_seconds() {
    let scene = Scene::healthy().await;
    let (_listener, address) = silent();
    let mut late = Vec::new();
    for (code, setting, url) in [
        (
            "exchange-unreachable",
            "BINANCE_SPOT_BASE_URL",
            format!("http://{address}"),
        ),
        ("endpoint-unreachable", "HTTP_LISTEN", address.clone()),
        ("redis-unreachable", RESULTS, format!("redis://{address}")),
        (
            "database-unreachable",
            "DATABASE_URL",
            format!("postgresql://u@{address}/d?sslmode=disable"),
        ),
    ] {
        let began = Instant::now();
        scene.assert_named(code, &[(setting, &url), GOOD_KEYS[0], GOOD_KEYS[1]]);
        if began.elapsed() > stretched(Duration::from_secs(13)) {
            late.push((code, began.elapsed()));
        }
    }
    assert_eq!(late, []);
}
