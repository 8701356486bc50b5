//! `--env-file` of both programs.

use std::io::Write;

use tempfile::NamedTempFile;
use tradebot_base::market::Market;
use tradebot_test_support::{Process, ProcessBuilder, Signal, bin};

use crate::world::{PATIENCE, World, warmup};

/// A file with this text.
pub(crate) fn file(text: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_ref()).expect("a written file");
    file
}

/// A program with a file as its env file.
fn with_file(program: &str, file: &NamedTempFile, arguments: &[&str]) -> ProcessBuilder {
    Process::builder(bin(program))
        .arg("--env-file")
        .arg(file.path())
        .args(arguments)
}

#[tokio::test]
async fn a_worker_takes_all_its_settings_from_a_file() {
    let world = World::new().await;
    for market in Market::ALL {
        world.exchange_lists(market);
    }
    let mut text = format!(
        "\u{feff}# Windows wrote it.\r\nHOST=127.0.0.1:{}\r\nLOG_FORMAT=json\r\n",
        world.redis.port()
    );
    for (name, value) in world.environment() {
        let value = value.replace(
            &format!("127.0.0.1:{}", world.redis.port()),
            "${HOST:-redis:6379}",
        );
        text.push_str(&format!("export {name}=\"{value}\"\r\n"));
    }
    let file = file(text);
    let worker = Process::builder(bin("tradebot-symbols"))
        .args(["worker", "-c", "1", "--env-file"])
        .arg(file.path())
        .env("LOG_FORMAT", "human")
        .spawn();
    let line = worker.wait_for_line("connected", PATIENCE);
    assert!(
        !line.starts_with('{'),
        "the environment wins over the file: {line}"
    );
    world.enqueue(warmup(Market::Spot)).await;
    worker.wait_for_line("task succeeded", PATIENCE);
    // The signal reaches the worker: it is still the process that was started.
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_exit(PATIENCE).code(), Some(0), "{}", worker.output());
}

#[test]
fn a_beat_takes_its_settings_from_a_file_and_the_environment_wins() {
    let file = file(
        "SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS=${SPOT:-77}\nFUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS=88\n",
    );
    let beat = with_file("tradebot-beat", &file, &["--explain"])
        .env("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", "99")
        .spawn();
    assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0), "{}", beat.output());
    for plan in ["every 77 s", "every 99 s"] {
        assert!(beat.stdout().contains(plan), "{plan}\n{}", beat.stdout());
    }
}

#[test]
fn every_verb_names_a_missing_file_and_a_bad_line_without_its_secret() {
    let file = file("A=1\nSECRET_KEY=\"canary\n");
    let path = file.path().to_str().expect("a path of text");
    let bad_line = format!("{path}, line 2: the value of SECRET_KEY begins with \" and has no closing one");
    let files = [
        (path, &*bad_line),
        (
            "/nowhere/.env",
            "cannot read the env file /nowhere/.env: No such file",
        ),
    ];
    let verbs: [(&str, &[&str]); 22] = [
        ("tradebot-symbols", &["worker"]),
        ("tradebot-symbols", &["serve"]),
        ("tradebot-symbols", &["up"]),
        ("tradebot-symbols", &["sandbox"]),
        ("tradebot-symbols", &["parked", "list"]),
        ("tradebot-symbols", &["parked", "replay", "--all"]),
        ("tradebot-symbols", &["parked", "drop", "--all"]),
        (
            "tradebot-symbols",
            &["credentials", "check", "--email", "a@example.com"],
        ),
        ("tradebot-symbols", &["doctor"]),
        ("tradebot-symbols", &["status"]),
        ("tradebot-symbols", &["healthcheck", "worker"]),
        ("tradebot-symbols", &["healthcheck", "beat"]),
        ("tradebot-symbols", &["healthcheck", "endpoint"]),
        ("tradebot-symbols", &["adopt"]),
        ("tradebot-symbols", &["completions", "bash"]),
        ("tradebot-symbols", &["man"]),
        ("tradebot-beat", &[]),
        ("tradebot-beat", &["list"]),
        ("tradebot-beat", &["run-now", "warmup-spot-symbols-cache"]),
        ("tradebot-beat", &["pause", "warmup-spot-symbols-cache"]),
        ("tradebot-beat", &["resume", "warmup-spot-symbols-cache"]),
        ("tradebot-beat", &["man"]),
    ];
    for (program, verb) in verbs {
        for (path, mistake) in files {
            // Behind the verb, where most people write options.
            let process = Process::builder(bin(program))
                .args(verb)
                .args(["--env-file", path])
                .spawn();
            let code = process.wait_exit(PATIENCE).code();
            let said = process.output();
            assert_eq!(code, Some(64), "{program} {verb:?}: {said}");
            assert!(
                said.contains(mistake) && !said.contains("canary"),
                "{program} {verb:?}: {said}"
            );
        }
    }
}
