//! Workflows, run by Python workers alone, by ours alone, and by both in turn: what a client sees is the same.
//!
//! `tests/python/canvas.py` has the workflows. The tasks of a workflow are told apart by their queues: `python`
//! is served by a Python worker, `rust` by the test worker, which has the same tasks.

use std::time::Duration;

use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, RedisServer, bin};

use crate::fleet::PATIENCE;

/// A client that sends some 250 workflows on a busy machine.
const LONG: Duration = Duration::from_secs(180);

/// A Redis with a Python worker and ours, on a queue each.
struct Stage {
    redis: RedisServer,
    _python: Process,
    _ours: Process,
}

impl Stage {
    fn open(python: Python) -> Self {
        let redis = RedisServer::start();
        let url = redis.url();
        let ours = Process::builder(bin("test-worker"))
            .args(["-n", "rust@test", "-Q", "rust", "-c", "32"])
            .envs(env(&url))
            .spawn();
        let args = [
            "-A",
            "canvas_app",
            "worker",
            "--loglevel",
            "warning",
            "-Q",
            "python,celery",
            "--pool",
            "prefork",
            "--concurrency",
            "2",
            "--without-mingle",
            "--without-gossip",
            "--without-heartbeat",
        ];
        let python = python.celery(&args, &env(&url));
        ours.wait_for_line("connected", PATIENCE);
        Self {
            redis,
            _python: python,
            _ours: ours,
        }
    }

    /// What a client sees of every workflow, by workflow and mode.
    fn run(&self, client: Python) -> Value {
        let modes = json!({"python": ["python"], "rust": ["rust"], "mixed": ["python", "rust"]}).to_string();
        client.script_within(LONG, "canvas.py", &[&modes], &env(&self.redis.url()))
    }
}

fn env(url: &str) -> [(&str, &str); 3] {
    [
        ("CELERY_BROKER_URL", url),
        ("CELERY_RESULT_BACKEND", url),
        ("REDIS_URL", url),
    ]
}

/// Fails with every workflow of which a client sees something else than with Python workers alone.
fn assert_same(seen: &Value) {
    let workflows = seen.as_object().expect("an object");
    assert!(workflows.len() > 40, "{} workflows", workflows.len());
    let mut different = Vec::new();
    for (name, modes) in workflows {
        for mode in ["rust", "mixed"] {
            if modes[mode] != modes["python"] {
                different.push(format!(
                    "{name}, {mode}:\n  {}\n  {}",
                    modes["python"], modes[mode]
                ));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[tokio::test]
async fn every_workflow_looks_the_same_on_every_mix_of_workers() {
    for python in Python::ALL {
        let stage = Stage::open(python);
        assert_same(&stage.run(python));
    }
}
