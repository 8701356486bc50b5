//! One Redis server and one exchange, and the processes that meet there: our worker and beat, Python's worker,
//! beat and client.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, cmd};
use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, RedisServer, Reply, ScriptedExchange, bin, eventually};

/// For anything that is expected to happen; a Python process on a busy machine takes its time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const WARMUP_SPOT: &str = "app.core.cache_warmup_tasks.warmup_spot_symbols_cache";
pub(crate) const WARMUP_FUTURES: &str = "app.core.cache_warmup_tasks.warmup_futures_symbols_cache";
pub(crate) const WARMUPS: [&str; 2] = [WARMUP_SPOT, WARMUP_FUTURES];
pub(crate) const BOT_TASK: &str = "app.core.bot_tasks.run_bot_task";

/// What our worker returns for the lists below; Python's stand-in returns `WARMUP_OK:0`.
pub(crate) const SPOT_OK: &str = "WARMUP_OK:3";
pub(crate) const FUTURES_OK: &str = "WARMUP_OK:2";
pub(crate) const PYTHON_OK: &str = "WARMUP_OK:0";

pub(crate) const SPOT_PATH: &str = "/api/v3/exchangeInfo";
pub(crate) const FUTURES_PATH: &str = "/fapi/v1/exchangeInfo";

/// A queue that Python workers do not serve.
pub(crate) const OURS: &str = "symbols";

/// The environment of a Python worker that has the warm-ups too, as the deployment's do.
pub(crate) const WITH_WARMUPS: (&str, &str) = ("WITH_WARMUPS", "1");

/// Arguments of a Python worker. Without mingle: it would wait a second for other Python workers.
const ONE_AT_A_TIME: [&str; 5] = ["--concurrency", "1", "--pool", "solo", "--without-mingle"];

/// The common ground of one test, and the Python that it is about.
pub(crate) struct Fleet {
    python: Python,
    pub(crate) redis: RedisServer,
    pub(crate) exchange: ScriptedExchange,
}

impl Fleet {
    /// An empty Redis, and an exchange that lists three spot and two futures symbols.
    pub(crate) async fn start(python: Python) -> Self {
        let exchange = ScriptedExchange::start().await;
        exchange.always(SPOT_PATH, listing(&["BTC", "ETH", "AAVE"]));
        exchange.always(FUTURES_PATH, listing(&["BTC", "ETH"]));
        Self {
            python,
            redis: RedisServer::start(),
            exchange,
        }
    }

    /// Our worker on the shared queue, connected.
    pub(crate) fn worker(&self) -> Process {
        self.worker_with("celery", &[])
    }

    /// Our worker on other queues. A test that has to know who runs a warm-up keeps Python away from it so.
    pub(crate) fn worker_on(&self, queues: &str) -> Process {
        self.worker_with(queues, &[])
    }

    /// Our worker with further settings.
    pub(crate) fn worker_with(&self, queues: &str, env: &[(&str, &str)]) -> Process {
        let worker = self.worker_named("symbols@test", queues, env);
        worker.wait_for_line("connected", PATIENCE);
        worker
    }

    /// Our worker under this node name, without waiting for it.
    pub(crate) fn worker_named(&self, node: &str, queues: &str, env: &[(&str, &str)]) -> Process {
        Process::builder(bin("tradebot-symbols"))
            .args(["worker", "-Q", queues, "-c", "2", "-n", node])
            .envs(self.redis_env())
            .env("BINANCE_SPOT_BASE_URL", self.exchange.base_url())
            .env("BINANCE_FUTURES_BASE_URL", self.exchange.base_url())
            .env("BINANCE_RETRY_MAX_ATTEMPTS", "1")
            .envs(env.iter().copied())
            .spawn()
    }

    /// Our beat, not waited for, with these intervals in seconds.
    pub(crate) fn beat(&self, spot: &str, futures: &str) -> Process {
        self.beat_on("celery", spot, futures)
    }

    /// Our beat with another queue.
    pub(crate) fn beat_on(&self, queue: &str, spot: &str, futures: &str) -> Process {
        Process::builder(bin("tradebot-beat"))
            .args(["-Q", queue])
            .envs(self.redis_env())
            .env("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", spot)
            .env("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", futures)
            .spawn()
    }

    /// A Python worker that takes one task at a time, ready. `env` says what it knows, see `tradebot_app.py`.
    pub(crate) fn python_worker(&self, env: &[(&str, &str)]) -> Process {
        let worker = self.python("worker", &ONE_AT_A_TIME, env);
        worker.wait_for_line(" ready.", PATIENCE);
        worker
    }

    /// A worker of another Python than the fleet's, by another name, not waited for.
    pub(crate) fn python_worker_of(&self, python: Python, node: &str, env: &[(&str, &str)]) -> Process {
        let args = [&ONE_AT_A_TIME[..], &["--hostname", node]].concat();
        self.run_python(python, "worker", &args, env)
    }

    /// Python's beat with both warm-ups at this interval, not waited for.
    pub(crate) fn python_beat(&self, seconds: &str) -> Process {
        let env = [("BEAT_WARMUP_SECONDS", seconds)];
        self.python("beat", &["--pidfile="], &env)
    }

    fn python(&self, program: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        self.run_python(self.python, program, args, env)
    }

    fn run_python(&self, python: Python, program: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        let args = [&["-A", "tradebot_app", program, "--loglevel", "info"], args].concat();
        let redis = self.redis_env();
        let mut all: Vec<(&str, &str)> = redis.iter().map(|(name, url)| (*name, url.as_str())).collect();
        all.extend(env);
        python.celery(&args, &all)
    }

    /// Has a Python client send these orders and wait for what they say; see `send.py`. One answer per order.
    pub(crate) fn send(&self, orders: &[Value]) -> Vec<Value> {
        self.send_with(&[], orders)
    }

    /// Has a Python client with further settings send orders.
    pub(crate) fn send_with(&self, more: &[(&str, &str)], orders: &[Value]) -> Vec<Value> {
        let redis = self.redis_env();
        let mut env: Vec<(&str, &str)> = redis.iter().map(|(name, url)| (*name, url.as_str())).collect();
        env.push(WITH_WARMUPS);
        env.extend_from_slice(more);
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        serde_json::to_writer(&mut file, orders).expect("a written file");
        let argument = format!("@{}", file.path().display());
        let answers = self
            .python
            .script_within(2 * PATIENCE, "send.py", &[&argument], &env);
        answers.as_array().expect("a list for a list").clone()
    }

    /// What a Python client gets for these ids.
    pub(crate) fn results(&self, ids: &[String]) -> Vec<Value> {
        let order = |id: &String| json!({"result_of": id, "wait": 30});
        self.send(&ids.iter().map(order).collect::<Vec<_>>())
    }

    /// What the readers of the lists see, see `read_lists.py`.
    pub(crate) fn lists(&self) -> Value {
        self.python.script("read_lists.py", &[&self.redis.url()], &[])
    }

    /// Every run of a task by a Python worker so far, in order.
    pub(crate) async fn ran(&self) -> Vec<Value> {
        let runs: Vec<String> = self.ask(cmd("LRANGE").arg("tests:ran").arg(0).arg(-1)).await;
        runs.iter()
            .map(|run| serde_json::from_str(run).expect("a record"))
            .collect()
    }

    /// Waits until Python workers have run so many tasks.
    pub(crate) async fn wait_for_runs(&self, count: usize) -> Vec<Value> {
        eventually("tasks run by Python", PATIENCE, async || {
            Some(self.ran().await).filter(|runs| runs.len() >= count)
        })
        .await
    }

    /// The messages of the queue `celery` as they are, in the order in which they are served.
    pub(crate) async fn waiting(&self) -> Vec<Vec<u8>> {
        self.waiting_on("celery").await
    }

    /// The messages of a queue as they are, in the order in which they are served.
    pub(crate) async fn waiting_on(&self, queue: &str) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for list in Self::lists_of(queue) {
            let listed: Vec<Vec<u8>> = self.ask(cmd("LRANGE").arg(list).arg(0).arg(-1)).await;
            messages.extend(listed.into_iter().rev());
        }
        messages
    }

    /// The lists of a queue, one for each priority step.
    pub(crate) fn lists_of(queue: &str) -> [String; 4] {
        ["", "\u{6}\u{16}3", "\u{6}\u{16}6", "\u{6}\u{16}9"].map(|step| format!("{queue}{step}"))
    }

    /// Messages that were delivered and not acknowledged.
    pub(crate) async fn unacked(&self) -> Vec<Value> {
        let entries: Vec<String> = self.ask(cmd("HVALS").arg("unacked")).await;
        let entry = |text: &String| serde_json::from_str::<Value>(text).expect("kombu's triple");
        entries.iter().map(|text| entry(text)[0].clone()).collect()
    }

    /// Seconds since the first delivery of those that were not acknowledged, by the server's clock.
    pub(crate) async fn oldest_delivery(&self) -> f64 {
        let oldest: Vec<(String, f64)> = self
            .ask(cmd("ZRANGE").arg("unacked_index").arg(&["0", "0", "WITHSCORES"]))
            .await;
        let (seconds, micros): (f64, f64) = self.ask(&cmd("TIME")).await;
        oldest
            .first()
            .map_or(0.0, |(_, delivered)| seconds + micros / 1e6 - delivered)
    }

    /// Waits until every message has been acknowledged.
    pub(crate) async fn wait_until_all_is_done(&self) {
        eventually("an empty queue and an empty unacked", PATIENCE, async || {
            let delivered: (usize, usize) = (
                self.ask(cmd("HLEN").arg("unacked")).await,
                self.ask(cmd("ZCARD").arg("unacked_index")).await,
            );
            (self.waiting().await.is_empty() && delivered == (0, 0)).then_some(())
        })
        .await;
    }

    /// A counter or any other number, zero if it is not there.
    pub(crate) async fn number(&self, key: &str) -> u64 {
        let number: Option<u64> = self.ask(cmd("GET").arg(key)).await;
        number.unwrap_or(0)
    }

    /// Asks the server.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let mut connection: MultiplexedConnection = self.redis.connection().await;
        command
            .query_async(&mut connection)
            .await
            .expect("an answer of Redis")
    }

    fn redis_env(&self) -> [(&'static str, String); 2] {
        [
            ("CELERY_BROKER_URL", self.redis.url()),
            ("CELERY_RESULT_BACKEND", self.redis.url()),
        ]
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failing with {}", self.python.name());
        }
    }
}

/// An `exchangeInfo` answer in which these assets are traded for USDT.
pub(crate) fn listing(bases: &[&str]) -> Reply {
    let symbol = |base: &&str| json!({"symbol": format!("{base}USDT"), "status": "TRADING", "baseAsset": base, "quoteAsset": "USDT"});
    let symbols: Vec<Value> = bases.iter().map(symbol).collect();
    Reply::json(json!({"timezone": "UTC", "symbols": symbols}).to_string())
}

/// A list element as JSON.
pub(crate) fn message(raw: &[u8]) -> Value {
    serde_json::from_slice(raw).expect("a message is JSON")
}

/// The name of the task in a list element.
pub(crate) fn task_of(raw: &[u8]) -> String {
    message(raw)["headers"]["task"]
        .as_str()
        .expect("a task's name")
        .to_owned()
}

/// The text of a JSON string.
pub(crate) fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not text: {value}"))
        .to_owned()
}
