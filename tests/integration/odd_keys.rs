//! Other programs write to the same Redis: any key of ours may hold anything. Neither a refresh nor a reader stops at
//! that, and the doctor names the key.

use redis::{AsyncCommands, Value};
use tradebot_base::market::{Market, Network};
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::Level;
use tradebot_test_support::{Process, Reply, bin};

use crate::reads::readers;
use crate::world::{GOOD_TEXT, PATIENCE, World, now, path};

const SPOT: Market = Market::Spot;
const STREAM: &str = "cache:symbols:changes";
/// A list as it was before, so that each refresh has a change to write.
const OLD_LIST: &str =
    r#"[{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}]"#;

/// All keys of one market, and the stream.
fn all_keys() -> Vec<String> {
    let keys = CacheKeys(SPOT);
    vec![
        keys.primary(),
        keys.last_good(),
        keys.last_refresh(),
        keys.source(),
        keys.lock(),
        keys.fence(),
        keys.failure(),
        keys.held_back(),
        keys.everything(),
        keys.not_trading(),
        keys.ban(Network::Mainnet),
        keys.hit_counter(),
        keys.miss_counter(),
        keys.success_counter(),
        keys.error_counter(),
        STREAM.to_owned(),
    ]
}

/// Commands after which a key holds something of another type, or an absurd value.
fn odd_values(key: &str) -> Vec<Vec<String>> {
    let huge = format!("1{}", "0".repeat(400));
    let source = |server_time: &str| {
        format!(
            r#"{{"network": "mainnet", "host": "h", "fetched_at": 7, "count": 1, "server_time": {server_time}}}"#
        )
    };
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["LPUSH", key, "x"],
        vec!["HSET", key, "x", "y"],
        vec!["SADD", key, "x"],
        vec!["ZADD", key, "1", "x"],
        vec!["XADD", key, "5-5", "x", "y"],
    ];
    let far = [
        "9223372036854775807",
        "-9223372036854775808",
        "-5",
        &huge,
        "1e400",
        "many",
        "\u{fffd}",
    ];
    commands.extend(far.map(|value| vec!["SET", key, value]));
    // Absurd lifetimes.
    commands.push(vec!["SET", key, "x", "PX", "99999999999999"]);
    let keys = CacheKeys(SPOT);
    if key == keys.fence() {
        for field in ["issued", "written"] {
            commands.extend(far.map(|value| vec!["HSET", key, field, value]));
        }
        commands.push(vec![
            "HSET",
            key,
            "issued",
            "999999999999998",
            "written",
            "999999999999999",
        ]);
    }
    if key == STREAM {
        commands.push(vec![
            "XADD",
            key,
            "18446744073709551615-18446744073709551615",
            "x",
            "y",
        ]);
        commands.push(vec!["XADD", key, "18446744073709551614-5", "x", "y"]);
    }
    let held_back = r#"{"concerns": [{"kind": "shrunk"}], "count": 18446744073709551615, "server_time": null, "first_seen_ms": -9223372036854775808}"#;
    if key == keys.held_back() {
        commands.push(vec!["SET", key, held_back]);
    }
    let sources = ["9223372036854775807", "-9223372036854775808"].map(source);
    if key == keys.source() {
        // Valid for the list in place, with a time of the exchange that cannot be.
        for source in &sources {
            commands.push(vec!["SET", key, source]);
        }
    }
    let owned = commands
        .into_iter()
        .map(|words| words.into_iter().map(str::to_owned).collect());
    owned.collect()
}

async fn run(world: &World, words: &[String]) -> Value {
    let mut command = redis::cmd(&words[0]);
    command.arg(&words[1..]);
    let answer = command.query_async(&mut world.db()).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// An old list that was fetched at the time that the sources above name, and nothing else.
async fn reset(world: &World) {
    let keys = CacheKeys(SPOT);
    let mut all = vec!["DEL".to_owned()];
    all.extend(all_keys());
    run(world, &all).await;
    world.set(&keys.last_good(), OLD_LIST).await;
    world.set(&keys.last_refresh(), "7").await;
}

async fn assert_refreshed(world: &World, what: &str) {
    let lists = world.lists_alone(SPOT).await;
    assert_eq!(lists.primary.as_deref(), Some(GOOD_TEXT), "{what}");
    assert_eq!(lists.last_good.as_deref(), Some(GOOD_TEXT), "{what}");
    let at: i64 = lists.last_refresh.expect("a time").parse().expect("seconds");
    assert!((now().timestamp() - at).abs() < 60, "{what}: {at}");
}

#[tokio::test]
async fn a_refresh_writes_its_list_whatever_the_keys_hold() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    for key in all_keys() {
        for odd in odd_values(&key) {
            reset(&world).await;
            run(&world, &["DEL".to_owned(), key.clone()]).await;
            run(&world, &odd).await;
            let what = format!("{odd:?}");
            let (_, result) = world.run_last_try(SPOT).await;
            assert_eq!(result["result"], "WARMUP_OK:2", "{what}: {result}");
            assert_refreshed(&world, &what).await;
        }
    }
}

#[tokio::test]
async fn a_reader_gets_a_new_list_whatever_the_keys_hold() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let keys = CacheKeys(SPOT);
    // What a reader consults before it fetches.
    for key in [
        keys.lock(),
        keys.fence(),
        keys.failure(),
        keys.ban(Network::Mainnet),
        keys.held_back(),
    ] {
        for odd in odd_values(&key) {
            reset(&world).await;
            run(&world, &odd).await;
            let readers = readers(&world, &[("SYMBOLS_MAX_STALE_SECONDS", "0")]);
            let reading = readers
                .read(SPOT)
                .await
                .unwrap_or_else(|error| panic!("{odd:?}: {error}"));
            assert_eq!(reading.level, Level::Upstream, "{odd:?}");
            readers.stop().await;
            assert_refreshed(&world, &format!("{odd:?}")).await;
        }
    }
}

/// A counter that cannot be incremented costs its count, and the others are counted.
#[tokio::test]
async fn reads_are_counted_beside_a_counter_that_is_none() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let keys = CacheKeys(SPOT);
    run(&world, &["LPUSH".to_owned(), keys.miss_counter(), "x".to_owned()]).await;
    let readers = readers(&world, &[]);
    readers.read(SPOT).await.expect("a list");
    readers.read(SPOT).await.expect("a list");
    readers.stop().await;
    assert_eq!(world.get(&keys.hit_counter()).await.as_deref(), Some("1"));
}

/// Who has read changes of a stream that is gone is told that some are missing.
#[tokio::test]
async fn changes_of_a_new_stream_are_not_complete_for_readers_of_the_old_one() {
    let world = World::new().await;
    let last = "18446744073709551615-18446744073709551615";
    reset(&world).await;
    run(&world, &["XADD", STREAM, last, "x", "y"].map(str::to_owned)).await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    world.run_last_try(SPOT).await;
    let readers = readers(&world, &[]);
    let changes = readers.changes(Some(last), 10).await.expect("changes");
    assert!(!changes.complete && changes.changes.is_empty(), "{changes:?}");
    let changes = readers.changes(None, 10).await.expect("changes");
    assert_eq!((changes.complete, changes.changes.len()), (true, 1));
    readers.stop().await;
}

#[tokio::test]
async fn the_doctor_and_the_log_name_the_keys() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    for path in ["/api/v3/ping", "/fapi/v1/ping"] {
        world.exchange.always(path, Reply::json("{}"));
    }
    let worker = world.start_worker(&[]);
    let doctor = || {
        let doctor = Process::builder(bin("tradebot-symbols"))
            .arg("doctor")
            .envs(world.environment())
            .spawn();
        doctor.wait_exit(PATIENCE);
        doctor.stdout()
    };
    for (kind, words) in [
        ("list", vec!["LPUSH", "x"]),
        (
            "stream",
            vec!["XADD", "18446744073709551615-18446744073709551615", "x", "y"],
        ),
        ("text", vec!["SET", "many"]),
    ] {
        reset(&world).await;
        let mut odd = Vec::new();
        for key in all_keys() {
            run(&world, &["DEL".to_owned(), key.clone()]).await;
            let mut command: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            command.insert(1, key.clone());
            run(&world, &command).await;
            // The doctor does not read all symbols, and looks at the time of a list only if there is one.
            let keys = CacheKeys(SPOT);
            if key != keys.last_refresh() && (kind, &key) != ("text", &keys.everything()) {
                odd.push(key);
            }
        }
        let said = doctor();
        for key in odd {
            assert!(said.contains(&key), "{key} holds a {kind}: {said}");
        }
        world.run_last_try(SPOT).await;
        let counter = CacheKeys(SPOT).success_counter();
        worker.wait_for_line(&format!("key=\"{counter}"), PATIENCE);
    }
    reset(&world).await;
    run(&world, &["LPUSH", STREAM, "x"].map(str::to_owned)).await;
    world.run_last_try(SPOT).await;
    worker.wait_for_line(&format!("key=\"{STREAM}"), PATIENCE);
}

/// The exchange is away, so that only what Redis holds could be served.
#[tokio::test]
async fn texts_that_are_no_list_are_neither_transferred_nor_served() {
    let world = World::new().await;
    for path in [path(SPOT), "/api/v3/ping", "/fapi/v1/ping"] {
        world.exchange.always(path, Reply::status(500, "away"));
    }
    let keys = CacheKeys(SPOT);
    let entry = r#"{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}"#;
    let huge = format!("[{}]", vec![entry; 98_000_000 / entry.len()].join(", ")).into_bytes();
    let invalid = GOOD_TEXT.replace("ETHUSDT", "ETH\u{1}USDT").into_bytes();
    let invalid: Vec<u8> = invalid
        .into_iter()
        .map(|byte| if byte == 1 { 0xff } else { byte })
        .collect();
    let mut db = world.db();
    for (bad, reason) in [(huge, "more than any list of symbols"), (invalid, "Syntax error")] {
        for key in [keys.primary(), keys.last_good()] {
            let _: () = db.set(key, &bad).await.expect("a key that was set");
        }
        world
            .set(&keys.last_refresh(), &now().timestamp().to_string())
            .await;
        let sent = transferred(&world).await;
        let readers = readers(&world, &[]);
        let unavailable = readers.read(SPOT).await.expect_err("no list");
        assert!(unavailable.reason.contains("status 500"), "{unavailable}");
        readers.stop().await;
        assert!(transferred(&world).await - sent < 1_000_000);
        let doctor = Process::builder(bin("tradebot-symbols"))
            .arg("doctor")
            .envs(world.environment())
            .spawn();
        doctor.wait_exit(PATIENCE);
        assert!(doctor.stdout().contains(reason), "{reason}: {}", doctor.stdout());
        // A good list replaces it.
        world.set(&keys.last_good(), GOOD_TEXT).await;
        let readers = crate::reads::readers(&world, &[]);
        assert_eq!(readers.read(SPOT).await.expect("a list").list.json(), GOOD_TEXT);
        readers.stop().await;
    }
}

/// How many bytes Redis has sent so far.
async fn transferred(world: &World) -> u64 {
    let info: String = redis::cmd("INFO")
        .arg("stats")
        .query_async(&mut world.db())
        .await
        .expect("statistics");
    let sent = info
        .lines()
        .find_map(|line| line.strip_prefix("total_net_output_bytes:"));
    sent.expect("a number").trim().parse().expect("a number")
}

/// A time before 1970 is none: neither `Last-Modified` nor an age follows from it.
#[tokio::test]
async fn a_time_that_is_none_gives_a_list_no_age() {
    let world = World::new().await;
    let keys = CacheKeys(SPOT);
    for key in [keys.primary(), keys.last_good()] {
        world.set(&key, GOOD_TEXT).await;
    }
    world.set(&keys.last_refresh(), "-5").await;
    let readers = readers(&world, &[]);
    let reading = readers.read(SPOT).await.expect("a list");
    assert_eq!((reading.age, reading.list.fetched_at()), (None, None));
    readers.stop().await;
}
