//! A Redis, test workers of ours, Python workers with the same tasks, and a Python client of remote control.

use std::time::Duration;

use redis::{Cmd, FromRedisValue};
use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, RedisServer, bin};

use crate::fleet::PATIENCE;

/// Node names of our worker and of Python's.
pub(crate) const OURS: &str = "ours@tests";
pub(crate) const THEIRS: &str = "theirs@tests";

/// The common ground of one test, and the Python that it is about.
pub(crate) struct Remote {
    python: Python,
    pub(crate) redis: RedisServer,
    settings: Vec<(&'static str, &'static str)>,
}

impl Remote {
    pub(crate) fn start(python: Python) -> Self {
        Self {
            python,
            redis: RedisServer::start(),
            settings: Vec::new(),
        }
    }

    /// The same with a setting for all workers and clients.
    pub(crate) fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.settings.push((name, value));
        self
    }

    /// Our worker as [`OURS`], connected.
    pub(crate) fn worker(&self, args: &[&str]) -> Process {
        self.worker_named(OURS, args)
    }

    /// Our worker under any name, connected.
    pub(crate) fn worker_named(&self, name: &str, args: &[&str]) -> Process {
        self.worker_in(name, args, &[])
    }

    /// The same with further settings.
    pub(crate) fn worker_in(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Process {
        let worker = Process::builder(bin("test-worker"))
            .args(["-n", name, "-l", "info"])
            .args(args)
            .envs(self.env())
            .env("REDIS_URL", self.redis.url())
            .envs(env.iter().copied())
            .spawn();
        worker.wait_for_line(" connected ", PATIENCE);
        worker
    }

    /// Python's worker as [`THEIRS`] on a queue of this name, with two processes, ready.
    pub(crate) fn python_worker(&self, args: &[&str]) -> Process {
        let fixed = [
            "-A",
            "remote_app",
            "worker",
            "-n",
            THEIRS,
            "-Q",
            "theirs",
            "-c",
            "2",
            "-l",
            "info",
        ];
        let args = [&fixed, args].concat();
        let env = self.env();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, url)| (*name, url.as_str())).collect();
        let worker = self.python.celery(&args, &env);
        worker.wait_for_line(" ready.", PATIENCE);
        worker
    }

    /// Has a Python client take these steps, see `remote.py`; one outcome per step.
    pub(crate) fn steps(&self, steps: &[Value]) -> Vec<Value> {
        let env = self.env();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, url)| (*name, url.as_str())).collect();
        let steps = Value::from(steps).to_string();
        let outcomes = self
            .python
            .script_within(Duration::from_secs(180), "remote.py", &[&steps], &env);
        outcomes.as_array().expect("a list for a list").clone()
    }

    /// Asks the server.
    pub(crate) async fn redis<T: FromRedisValue>(&self, command: &Cmd) -> T {
        let mut connection = self.redis.connection().await;
        command
            .query_async(&mut connection)
            .await
            .expect("an answer of Redis")
    }

    /// When tasks noted their start under `key`, in milliseconds, in that order.
    pub(crate) async fn starts(&self, key: &str) -> Vec<u64> {
        let log: Vec<String> = self
            .redis(redis::cmd("LRANGE").arg(format!("{key}:log")).arg(0).arg(-1))
            .await;
        let time = |line: &String| {
            let (_, time) = line.rsplit_once(' ')?;
            time.parse().ok()
        };
        log.iter().map(|line| time(line).expect("a time")).collect()
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        let settings = self.settings.iter();
        let urls = ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"].map(|name| (name, self.redis.url()));
        settings
            .map(|(name, value)| (*name, (*value).to_owned()))
            .chain(urls)
            .collect()
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("failing with {}", self.python.name());
        }
    }
}

/// A command for one node, with its answer.
pub(crate) fn ask(node: &str, command: &str, arguments: Value) -> Value {
    json!({"ask": command, "to": [node], "arguments": arguments})
}

/// Asks one node until its answer has so many members.
pub(crate) fn until(node: &str, command: &str, members: usize) -> Value {
    json!({"ask": command, "to": [node], "until": members})
}

/// A task with an id of the test's own.
pub(crate) fn send(name: &str, id: &str, args: Value, options: Value) -> Value {
    let mut options = options;
    options["task_id"] = json!(id);
    json!({"send": {"name": name, "args": args, "options": options}})
}

/// The answer of one node.
pub(crate) fn answer<'o>(outcome: &'o Value, node: &str) -> &'o Value {
    outcome["replies"]
        .get(node)
        .unwrap_or_else(|| panic!("{node} did not answer: {outcome}"))
}
