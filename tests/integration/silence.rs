//! Redis connections that stay open and carry nothing: a firewall forgot them, or the server's machine went away.
//!
//! Only a time limit ends such a connection. Each test fails if its limit is ten times longer.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use redis::{AsyncCommands, cmd};
use tokio::time::Instant;
use tradebot_base::config::Vars;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::market::Market;
use tradebot_base::secret::RedisUrl;
use tradebot_symbols::internals::CacheKeys;
use tradebot_symbols::symbols::{ReadsSettings, SymbolReads};
use tradebot_test_support::{ChaosProxy, RedisServer, eventually, stretched};

use crate::world::{GOOD_TEXT, World, connected, now, path, warmup};

const SPOT: Market = Market::Spot;

/// Runs `attempt`, which has to fail within `limit`.
async fn gives_up_within(limit: Duration, attempt: impl Future<Output = Result<String, RedisTrouble>>) {
    let limit = stretched(limit);
    let began = Instant::now();
    let outcome = tokio::time::timeout(limit, attempt).await;
    assert!(
        matches!(outcome, Ok(Err(_))),
        "{outcome:?} after {:?}",
        began.elapsed()
    );
}

/// Readers that reach Redis through a proxy and fetch nothing before the first read.
fn readers_through(world: &World, proxy: &ChaosProxy) -> SymbolReads {
    let mut environment: BTreeMap<&str, String> = world.environment().into_iter().collect();
    environment.insert("REDIS_URL", proxy.url());
    for switch in [
        "ENABLE_SPOT_WARMUP_ON_STARTUP",
        "ENABLE_FUTURES_WARMUP_ON_STARTUP",
    ] {
        environment.insert(switch, "0".to_owned());
    }
    let vars: BTreeMap<&str, &str> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let settings = ReadsSettings::read(&vars as &dyn Vars).expect("an environment");
    SymbolReads::start(settings, "tests").expect("readers")
}

/// The worker hears of new messages over such a connection, so it hears of none. It asks by itself after five seconds,
/// waits five seconds for the answer, and is back over a new connection.
#[tokio::test]
async fn a_worker_whose_connections_went_silent_takes_the_next_message_within_seconds() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let proxy = ChaosProxy::start(world.redis.port());
    let worker = world.worker(&[]);
    let _worker = connected(worker.env("CELERY_BROKER_URL", proxy.url()));
    // Not only connected: its consumer waits to be told of a change.
    world.run_last_try(SPOT).await;
    proxy.silence_all();
    let sent_at = Instant::now();
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.asked(SPOT, 2).await;
    let took = sent_at.elapsed();
    println!("taken {took:?} after the connections went silent");
    assert!(took < stretched(Duration::from_secs(16)), "{took:?}");
    world.ended(&id).await;
    assert_eq!(world.exchange.count(path(SPOT)), 2);
}

/// Redis reports changes to a reader. If it sends nothing for five seconds, the reader pings it.
#[tokio::test]
async fn a_reader_whose_connections_went_silent_sees_a_change_within_seconds() {
    let world = World::new().await;
    let write = async |list: &str| {
        let keys = CacheKeys(SPOT);
        let set: Result<(), _> = world.db().set_ex(keys.primary(), list, 300).await;
        set.expect("a list");
        world
            .set(&keys.last_refresh(), &now().timestamp().to_string())
            .await;
    };
    write(GOOD_TEXT).await;
    let proxy = ChaosProxy::start(world.redis.port());
    let reads = readers_through(&world, &proxy);
    assert_eq!(reads.read(SPOT).await.expect("a list").list.symbols().len(), 2);
    proxy.silence_all();
    write(&GOOD_TEXT.replace("ETH", "XRP")).await;
    eventually("the new list", Duration::from_secs(16), async || {
        let reading = reads.peek(SPOT)?;
        let mut symbols = reading.list.symbols().iter();
        symbols.any(|symbol| symbol.symbol == "XRPUSDT").then_some(())
    })
    .await;
    reads.stop().await;
}

#[tokio::test]
async fn a_reader_whose_redis_is_silent_has_the_list_of_the_exchange_and_stops_within_seconds() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let proxy = ChaosProxy::start(world.redis.port());
    proxy.freeze();
    let reads = readers_through(&world, &proxy);
    let began = Instant::now();
    let reading = reads.read(SPOT).await.expect("a list");
    assert_eq!(reading.list.symbols().len(), 2);
    let read = began.elapsed();
    let began = Instant::now();
    reads.stop().await;
    println!("read after {read:?}, stopped after {:?}", began.elapsed());
    assert!(read < stretched(Duration::from_secs(6)), "{read:?}");
    assert!(
        began.elapsed() < stretched(Duration::from_secs(6)),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn an_answer_and_a_connection_are_waited_for_no_longer_than_their_limit() {
    let redis = RedisServer::start();
    let proxy = ChaosProxy::start(redis.port());
    let url = RedisUrl::new(proxy.url());
    let ping = async |connection: &Connection| connection.command(&cmd("PING")).await;
    let patient = Connection::new(&url, "patient").expect("a valid URL");
    let impatient =
        Connection::impatient(&url, "impatient", Duration::from_millis(300)).expect("a valid URL");
    for connection in [&patient, &impatient] {
        assert_eq!(ping(connection).await.expect("an answer"), "PONG");
    }
    proxy.freeze();
    let new = Connection::new(&url, "new").expect("a valid URL");
    // A sentinel that accepts and does not answer.
    let sentinel = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = sentinel.local_addr().expect("an address");
    let url = RedisUrl::new(format!("sentinel://{address}/0")).with_master_name(Some("main".into()));
    let watched = Connection::new(&url, "watched").expect("a valid URL");
    tokio::join!(
        gives_up_within(Duration::from_secs(8), ping(&patient)),
        gives_up_within(Duration::from_millis(2_000), ping(&impatient)),
        gives_up_within(Duration::from_secs(6), ping(&new)),
        gives_up_within(Duration::from_secs(8), ping(&watched)),
    );
}
