//! The deployment's four entries, as the example file has them, sent by our beat to a Python worker.
//!
//! In the short form the beat's clock starts five seconds before midnight; the long form waits for real minutes.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use redis::cmd;
use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, RedisServer, Signal, bin, eventually};

use crate::beat_clocks::library;
use crate::figures::soak;

const PATIENCE: Duration = Duration::from_secs(60);
const MINUTELY: &str = "app.core.bot_tasks.run_bot_task_for_all";
const DAILY: &str = "app.core.bot_tasks.reactivate_bots_after_reset";
const WARMUPS: [&str; 2] = [
    "app.core.cache_warmup_tasks.warmup_spot_symbols_cache",
    "app.core.cache_warmup_tasks.warmup_futures_symbols_cache",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_workers_run_the_four_entries_of_the_deployment() {
    let minutes = if soak() { 3 } else { 1 };
    let schedule = Path::new(env!("CARGO_MANIFEST_DIR")).join("beat/schedule.example.toml");
    for python in Python::ALL {
        let redis = RedisServer::start();
        let url = redis.url();
        let env = [
            ("CELERY_BROKER_URL", url.as_str()),
            ("CELERY_RESULT_BACKEND", &url),
            ("WITH_WARMUPS", "1"),
        ];
        let _worker = python.app_worker(&env);
        let mut beat = Process::builder(bin("tradebot-beat"))
            .arg("--schedule")
            .arg(&schedule)
            .env("CELERY_BROKER_URL", &url);
        if !soak() {
            beat = beat
                .env("LD_PRELOAD", library())
                .env("FAKETIME", format!("+{}", seconds_to_midnight() - 5))
                .env("DONT_FAKE_MONOTONIC", "1")
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let beat = beat.spawn();
        let ran = eventually(
            "the runs of each entry",
            PATIENCE + Duration::from_secs(60 * minutes),
            async || {
                let mut connection = redis.connection().await;
                let runs: Vec<String> = cmd("LRANGE")
                    .arg(&["tests:ran", "0", "-1"])
                    .query_async(&mut connection)
                    .await
                    .expect("records");
                let mut ran: BTreeMap<String, Vec<Value>> = BTreeMap::new();
                for run in &runs {
                    let run: Value = serde_json::from_str(run).expect("a record");
                    ran.entry(run["task"].as_str().expect("a task").to_owned())
                        .or_default()
                        .push(run);
                }
                let count = |task: &str| ran.get(task).map_or(0, Vec::len) as u64;
                let daily = soak() || count(DAILY) == 1;
                (count(MINUTELY) >= minutes && daily && WARMUPS.iter().all(|task| count(task) == 1))
                    .then_some(ran)
            },
        )
        .await;
        for run in ran.values().flatten() {
            assert_eq!(
                (&run["args"], &run["kwargs"], &run["retries"]),
                (&json!([]), &json!({}), &json!(0))
            );
            assert!(run["expires"].is_string(), "{run}");
        }
        println!(
            "beats, {}: {} runs of {} tasks",
            python.name(),
            ran.values().map(Vec::len).sum::<usize>(),
            ran.len()
        );
        beat.signal(Signal::SIGTERM);
        assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0));
    }
}

fn seconds_to_midnight() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time since 1970");
    let left = 86_400 - now.as_secs() % 86_400;
    // The beat starts before that time, and the worker's clock is never ahead of the beat's.
    if left < 30 { left + 86_400 } else { left }
}
