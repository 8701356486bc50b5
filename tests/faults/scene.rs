//! The servers and workers of one test.

use std::collections::BTreeMap;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, cmd};
use tokio::sync::Notify;
use tradebot_base::clock::SystemClock;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::secret::RedisUrl;
use tradebot_core::transport::{Claim, LeftOut, Passes, Transport, Wish};
use tradebot_test_support::{ChaosProxy, Process, RedisServer, Signal, bin, eventually};
use tradebot_wire::keys::Keys;

use crate::ledger::QUEUE;

/// How long anything may take that should be there in a moment.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A broker, a second Redis for what `tests.record` notes, and the environment of the workers. The second one
/// is never disturbed, so that runs are counted whatever becomes of the first.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) broker: Arc<RedisServer>,
    pub(crate) notes: Arc<RedisServer>,
    database: u8,
    results: u8,
    env: BTreeMap<&'static str, String>,
}

impl Scene {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// With further arguments for the broker.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let broker = Arc::new(RedisServer::start_with(args));
        let notes = Arc::new(RedisServer::start());
        let env = BTreeMap::from([
            ("CELERY_BROKER_URL", broker.url()),
            ("CELERY_RESULT_BACKEND", broker.url()),
            ("REDIS_URL", notes.url()),
        ]);
        Self {
            broker,
            notes,
            database: 0,
            results: 0,
            env,
        }
    }

    /// A broker whose writes are on disk before they are answered.
    pub(crate) fn start_durable() -> Self {
        Self::start_with(&["--appendonly", "yes", "--appendfsync", "always"])
    }

    /// A separate scene: the same servers, with another database as broker and result backend.
    pub(crate) fn in_database(&self, database: u8) -> Self {
        let mut scene = self.with("CELERY_BROKER_URL", self.url_of(database));
        scene.database = database;
        scene.with_results_in(database)
    }

    /// The same scene with results in another database of the same server: not settled in one step any more.
    pub(crate) fn with_results_in(&self, database: u8) -> Self {
        let mut scene = self.with("CELERY_RESULT_BACKEND", self.url_of(database));
        scene.results = database;
        scene
    }

    /// The same scene for workers that reach the broker's server through `proxy`. What looks on goes straight to it.
    pub(crate) fn through(&self, proxy: &ChaosProxy) -> Self {
        let url = proxy.url();
        let in_database = |database: u8| format!("{}{database}", url.trim_end_matches('0'));
        self.with("CELERY_BROKER_URL", in_database(self.database))
            .with("CELERY_RESULT_BACKEND", in_database(self.results))
    }

    /// The same scene with a variable set for its workers.
    pub(crate) fn with(&self, variable: &'static str, value: impl Into<String>) -> Self {
        let mut scene = self.clone();
        scene.env.insert(variable, value.into());
        scene
    }

    fn url_of(&self, database: u8) -> String {
        format!("{}{database}", self.broker.url().trim_end_matches('0'))
    }

    /// Starts a worker; `name` tells it apart.
    pub(crate) fn worker(&self, name: &str, concurrency: usize) -> Worker {
        self.worker_of(QUEUE, name, concurrency)
    }

    /// Starts a worker of these queues, separated by commas.
    pub(crate) fn worker_of(&self, queues: &str, name: &str, concurrency: usize) -> Worker {
        let node = format!("{name}@test");
        let concurrency = concurrency.to_string();
        let process = Process::builder(bin("test-worker"))
            .args(["-n", &node, "-c", &concurrency, "-Q", queues])
            .envs(&self.env)
            .spawn();
        Worker { process, node }
    }

    /// Runs `tradebot-symbols parked ARGS` to its end and gives what it printed.
    pub(crate) fn parked(&self, args: &[&str]) -> String {
        let process = Process::builder(bin("tradebot-symbols"))
            .arg("parked")
            .args(args)
            .envs(&self.env)
            .spawn();
        let status = process.wait_exit(SOON);
        assert!(status.success(), "parked {args:?}: {}", process.output());
        process.stdout()
    }

    /// A connection to the broker's database that heals itself.
    pub(crate) fn observer(&self) -> Connection {
        open(&self.url_of(self.database))
    }

    /// The same, to where results are stored.
    pub(crate) fn results(&self) -> Connection {
        open(&self.url_of(self.results))
    }

    /// The same, to the notes.
    pub(crate) fn notebook(&self) -> Connection {
        open(&self.notes.url())
    }

    /// A worker's transport without the worker.
    pub(crate) fn transport(&self) -> Transport {
        let changed = Arc::new(Notify::new());
        let url = RedisUrl::new(self.url_of(self.database));
        let connection = Connection::with_tracking(&url, "transport", Arc::clone(&changed));
        let connection = connection.expect("the URL of the harness is valid");
        let queues = [QUEUE.to_owned()];
        Transport::new(
            connection,
            changed,
            Keys::default(),
            &queues,
            SystemClock::shared(),
        )
    }

    /// A connection that a trouble of the broker does not end, to make the trouble with.
    pub(crate) async fn admin(&self) -> MultiplexedConnection {
        self.broker.connection().await
    }

    /// Ids of the worker processes that go by a worker's node name.
    pub(crate) async fn ids_of(&self, worker: &Worker) -> Vec<String> {
        let workers: Vec<(String, String)> =
            ask(&self.observer(), cmd("HGETALL").arg(Keys::default().workers())).await;
        let named = workers.into_iter().filter(|(_, node)| *node == worker.node);
        named.map(|(id, _)| id).collect()
    }

    /// Records in `unacked` of one worker.
    pub(crate) async fn records_of(&self, worker: &Worker) -> Vec<String> {
        let ids = self.ids_of(worker).await;
        let records: Vec<(String, String)> =
            ask(&self.observer(), cmd("HGETALL").arg(Keys::default().unacked())).await;
        let held = |tag: &str| ids.iter().any(|id| tag.starts_with(id.as_str()));
        let records = records.into_iter().filter(|(tag, _)| held(tag));
        records.map(|(_, record)| record).collect()
    }
}

/// Claims one message of these tasks.
pub(crate) async fn claim_one(transport: &Transport, tasks: &[String]) -> Result<Claim, RedisTrouble> {
    let wish = Wish {
        messages: 1,
        tasks,
        not_now: &[],
        left_out: &LeftOut::default(),
        leave_etas: false,
    };
    transport.claim(&wish, &Passes::default()).await
}

/// Asks until there is an answer.
pub(crate) async fn ask<T: FromRedisValue>(connection: &Connection, command: &Cmd) -> T {
    eventually("an answer of Redis", SOON, async || {
        connection.command(command).await.ok()
    })
    .await
}

fn open(url: &str) -> Connection {
    Connection::new(&RedisUrl::new(url), "observer").expect("the URL of the harness is valid")
}

/// A running test worker.
pub(crate) struct Worker {
    pub(crate) process: Process,
    pub(crate) node: String,
}

impl Worker {
    /// Waits for the `nth` line (from 1) that contains `text`, without blocking the thread.
    pub(crate) async fn says(&self, text: &str, nth: usize) {
        let what = format!("line {nth} of {} with `{text}`", self.node);
        eventually(&what, SOON, async || (self.count(text) >= nth).then_some(())).await;
    }

    /// How many lines so far contain `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        let output = self.process.output();
        output.lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until the worker serves its queues.
    pub(crate) async fn ready(self) -> Self {
        self.says("connected", 1).await;
        self
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&self, patience: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.node);
        eventually(&what, patience, async || {
            (!self.process.is_running()).then_some(())
        })
        .await;
        self.process.wait_exit(SOON)
    }

    /// Ends the process as a crash would.
    pub(crate) async fn kill(&self) {
        self.process.signal(Signal::SIGKILL);
        self.ended(SOON).await;
    }

    /// Asks for a warm stop and waits for the end.
    pub(crate) async fn stop(&self) -> ExitStatus {
        self.process.signal(Signal::SIGTERM);
        self.ended(SOON).await
    }
}
