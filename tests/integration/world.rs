//! A scene: a Redis, an exchange, and the worker that a test puts between them.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};
use tradebot_base::clock::SystemClock;
use tradebot_base::connection::Connection;
use tradebot_base::market::Market;
use tradebot_base::secret::RedisUrl;
use tradebot_core::transport::publish;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, ProcessBuilder, RedisServer, Reply, ScriptedExchange, bin, eventually};
use tradebot_wire::body::Body;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys::{Keys, task_meta};
use tradebot_wire::task_message::TaskMessage;

/// How long anything may take that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// The queue that all producers use.
pub(crate) const QUEUE: &str = "celery";
/// How often a warm-up is retried before it fails for good.
pub(crate) const MAX_RETRIES: u64 = 5;

/// See the module.
pub(crate) struct World {
    pub(crate) redis: RedisServer,
    pub(crate) exchange: ScriptedExchange,
    db: MultiplexedConnection,
    producer: Connection,
}

/// What readers of one market's list see.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lists {
    pub(crate) primary: Option<String>,
    pub(crate) last_good: Option<String>,
    pub(crate) last_refresh: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) successes: u64,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(RedisServer::start()).await
    }

    /// From now on the exchange answers with [`good_list`].
    pub(crate) fn exchange_lists(&self, market: Market) {
        self.exchange.always(path(market), Reply::json(good_list()));
    }

    /// A world whose Redis has been started already.
    pub(crate) async fn on(redis: RedisServer) -> Self {
        let db = redis.connection().await;
        let producer = producer(&redis);
        Self {
            exchange: ScriptedExchange::start().await,
            redis,
            db,
            producer,
        }
    }

    /// The same world with a new connection to its Redis, which was restarted.
    pub(crate) async fn reconnected(self) -> Self {
        let db = self.redis.connection().await;
        let producer = producer(&self.redis);
        Self { db, producer, ..self }
    }

    /// Where everything is, as a deployment would write it; attempts follow each other quickly.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let (redis, exchange) = (self.redis.url(), self.exchange.base_url());
        vec![
            ("REDIS_URL", redis.clone()),
            ("CELERY_BROKER_URL", redis.clone()),
            ("CELERY_RESULT_BACKEND", redis),
            ("BINANCE_SPOT_BASE_URL", exchange.clone()),
            ("BINANCE_FUTURES_BASE_URL", exchange),
            ("BINANCE_RETRY_BACKOFF_BASE", "0.01".into()),
        ]
    }

    /// A worker that is not started yet, with `arguments` behind the verb.
    pub(crate) fn worker(&self, arguments: &[&str]) -> ProcessBuilder {
        Process::builder(bin("tradebot-symbols"))
            .arg("worker")
            .args(arguments)
            .envs(self.environment())
    }

    /// A worker that is consuming.
    pub(crate) fn start_worker(&self, arguments: &[&str]) -> Process {
        connected(self.worker(arguments))
    }

    /// A connection for commands that have no method here.
    pub(crate) fn db(&self) -> MultiplexedConnection {
        self.db.clone()
    }

    /// Sends a task as a producer does, and returns the message as it lies in the queue.
    pub(crate) async fn enqueue(&self, task: TaskMessage) -> Envelope {
        let queue = task.queue.clone();
        let message = task.into_envelope("gen1@tests", now());
        publish(&self.producer, &Keys::default(), &queue, &message)
            .await
            .expect("a published message");
        message
    }

    /// Puts any bytes where the next message of a queue's list would be put.
    pub(crate) async fn push(&self, list: &str, element: impl AsRef<[u8]>) {
        let pushed: Result<u64, _> = self.db().lpush(list, element.as_ref()).await;
        pushed.expect("a pushed element");
    }

    /// The elements of a list, next to be served first.
    pub(crate) async fn waiting(&self, list: &str) -> Vec<String> {
        let mut elements: Vec<String> = self.db().lrange(list, 0, -1).await.expect("a list");
        elements.reverse();
        elements
    }

    /// The records of deliveries that are not acknowledged, by their tags.
    pub(crate) async fn unacked(&self) -> BTreeMap<String, String> {
        self.db().hgetall("unacked").await.expect("a hash")
    }

    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        self.db().get(key).await.expect("a text")
    }

    pub(crate) async fn set(&self, key: &str, value: &str) {
        let set: Result<(), _> = self.db().set(key, value).await;
        set.expect("a key that was set");
    }

    /// The result of a task, if there is one yet.
    pub(crate) async fn stored(&self, id: &str) -> Option<Value> {
        let text = self.get(&task_meta("", id)).await?;
        Some(serde_json::from_str(&text).expect("a result is JSON"))
    }

    /// The result of a task once it has the given state.
    pub(crate) async fn result(&self, id: &str, state: &str) -> Value {
        eventually(&format!("{state} of {id}"), PATIENCE, async || {
            self.stored(id).await.filter(|result| result["status"] == state)
        })
        .await
    }

    /// The result of a task that has ended, whatever its end.
    pub(crate) async fn ended(&self, id: &str) -> Value {
        eventually(&format!("the end of {id}"), PATIENCE, async || {
            let ends = ["SUCCESS", "FAILURE", "REVOKED"];
            self.stored(id)
                .await
                .filter(|result| ends.iter().any(|end| result["status"] == *end))
        })
        .await
    }

    /// Runs one warm-up to its end. It is its own last try, so a failure is final.
    pub(crate) async fn run_last_try(&self, market: Market) -> (String, Value) {
        let id = self
            .enqueue(tried(warmup(market), MAX_RETRIES))
            .await
            .id()
            .to_owned();
        let result = self.ended(&id).await;
        (id, result)
    }

    /// Waits until the exchange was asked so often for a market's list.
    pub(crate) async fn asked(&self, market: Market, times: usize) {
        eventually(&format!("request {times} for {market}"), PATIENCE, async || {
            (self.exchange.count(path(market)) >= times).then_some(())
        })
        .await;
    }

    pub(crate) async fn lists(&self, market: Market) -> Lists {
        let successes = self.counter(&CacheKeys(market).success_counter()).await;
        Lists {
            successes,
            ..self.lists_alone(market).await
        }
    }

    /// The lists without their counter, which may hold anything.
    pub(crate) async fn lists_alone(&self, market: Market) -> Lists {
        let keys = CacheKeys(market);
        Lists {
            primary: self.get(&keys.primary()).await,
            last_good: self.get(&keys.last_good()).await,
            last_refresh: self.get(&keys.last_refresh()).await,
            source: self.get(&keys.source()).await,
            successes: 0,
        }
    }

    pub(crate) async fn errors(&self, market: Market) -> u64 {
        self.counter(&CacheKeys(market).error_counter()).await
    }

    /// Reads that were counted: those that found a fresh list, and the others.
    pub(crate) async fn reads(&self, market: Market) -> (u64, u64) {
        let keys = CacheKeys(market);
        (
            self.counter(&keys.hit_counter()).await,
            self.counter(&keys.miss_counter()).await,
        )
    }

    async fn counter(&self, key: &str) -> u64 {
        self.get(key)
            .await
            .map_or(0, |text| text.parse().expect("a counter is a number"))
    }
}

impl Lists {
    /// Nothing was ever written.
    pub(crate) const NONE: Self = Self {
        primary: None,
        last_good: None,
        last_refresh: None,
        source: None,
        successes: 0,
    };
}

fn producer(redis: &RedisServer) -> Connection {
    Connection::new(&RedisUrl::new(redis.url()), "producer").expect("a valid URL")
}

/// Starts a worker and waits until it consumes.
pub(crate) fn connected(worker: ProcessBuilder) -> Process {
    let worker = worker.spawn();
    worker.wait_for_line(" connected ", PATIENCE);
    worker
}

/// A market's warm-up, as producers send it.
pub(crate) fn warmup(market: Market) -> TaskMessage {
    task(market.warmup_task())
}

/// Any task without arguments.
pub(crate) fn task(name: &str) -> TaskMessage {
    TaskMessage {
        task: name.to_owned(),
        queue: QUEUE.to_owned(),
        ..TaskMessage::default()
    }
}

/// A task that has been retried so often already.
pub(crate) fn tried(mut task: TaskMessage, retries: u64) -> TaskMessage {
    task.headers.insert("retries".to_owned(), json!(retries));
    task
}

/// A task with something embedded in its body: `callbacks`, `chain`, `chord`, …
pub(crate) fn embedding(mut task: TaskMessage, name: &str, value: Value) -> TaskMessage {
    task.body = Body {
        embed: [(name.to_owned(), value)].into_iter().collect(),
        ..Body::default()
    };
    task
}

/// The path of a market's list on the exchange.
pub(crate) fn path(market: Market) -> &'static str {
    match market {
        Market::Spot => "/api/v3/exchangeInfo",
        Market::Futures => "/fapi/v1/exchangeInfo",
    }
}

/// A list of the exchange with these symbols: base asset, quote asset, status.
pub(crate) fn exchange_info(symbols: &[(&str, &str, &str)]) -> String {
    let entry = |(base, quote, status): &(&str, &str, &str)| json!({"symbol": format!("{base}{quote}"), "status": status, "baseAsset": base, "quoteAsset": quote, "filters": []});
    let symbols: Vec<Value> = symbols.iter().map(entry).collect();
    json!({"timezone": "UTC", "serverTime": 1_791_331_200_000_u64, "symbols": symbols}).to_string()
}

/// A good, small list: two symbols of it are listed.
pub(crate) fn good_list() -> String {
    exchange_info(&[
        ("ETH", "USDT", "TRADING"),
        ("BTC", "USDT", "TRADING"),
        ("BTC", "BUSD", "TRADING"),
        ("LUNA", "USDT", "BREAK"),
    ])
}

/// What [`good_list`] becomes in the cache.
pub(crate) const GOOD_TEXT: &str = concat!(
    r#"[{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}, "#,
    r#"{"symbol": "ETHUSDT", "baseAsset": "ETH", "quoteAsset": "USDT", "status": "TRADING"}]"#
);

pub(crate) fn now() -> chrono::DateTime<chrono::Utc> {
    SystemClock::shared().now()
}
