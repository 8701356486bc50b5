//! Beats whose clock is changed while they run, or differs from another beat's. libfaketime provides the clock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use redis::cmd;
use serde_json::Value;
use tokio::time::Instant;
use tradebot_test_support::{Process, RedisServer, Signal, bin, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
/// With `all` a flood would be one.
const SCHEDULE: &str = r#"
[[entry]]
name = "every-second"
task = "tests.second"
interval = 1
catch_up = "all"
catch_up_limit = 100000

[[entry]]
name = "every-minute"
task = "tests.minute"
crontab = "* * * * *"
catch_up = "all"
catch_up_limit = 100000
"#;
const HOUR: i64 = 3600;
const MONTH: i64 = 30 * 24 * HOUR;

struct Clocks {
    redis: RedisServer,
    folder: tempfile::TempDir,
}

impl Clocks {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("schedule.toml"), SCHEDULE).expect("a written file");
        Self {
            redis: RedisServer::start(),
            folder,
        }
    }

    /// Sets the clock of the beat that was started with this name to so many seconds beside the machine's.
    fn set(&self, clock: &str, seconds: i64) {
        let new = self.folder.path().join("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("a written file");
        std::fs::rename(new, self.folder.path().join(clock)).expect("a file in its place");
    }

    fn beat(&self, clock: &str, seconds: i64) -> Process {
        self.set(clock, seconds);
        let beat = Process::builder(bin("tradebot-beat"))
            .arg("--schedule")
            .arg(self.folder.path().join("schedule.toml"))
            .env("CELERY_BROKER_URL", self.redis.url())
            .env("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")
            .env("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", self.folder.path().join(clock))
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .spawn();
        beat.wait_for_line("scheduled", PATIENCE);
        beat
    }

    /// The number of messages of each task, and of messages whose id was there before.
    async fn sent(&self) -> (BTreeMap<String, usize>, usize) {
        let mut connection = self.redis.connection().await;
        let messages: Vec<String> = cmd("LRANGE")
            .arg(&["celery", "0", "-1"])
            .query_async(&mut connection)
            .await
            .expect("messages");
        let (mut counts, mut ids) = (BTreeMap::new(), std::collections::HashSet::new());
        for message in &messages {
            let message: Value = serde_json::from_str(message).expect("a message");
            let header = |name: &str| message["headers"][name].as_str().expect("text").to_owned();
            *counts.entry(header("task")).or_default() += 1;
            ids.insert(header("id"));
        }
        (counts, messages.len() - ids.len())
    }

    async fn count(&self, task: &str) -> usize {
        self.sent().await.0.get(task).copied().unwrap_or_default()
    }

    /// Waits for so many further messages of a task.
    async fn wait_for(&self, task: &str, further: usize) {
        let wanted = self.count(task).await + further;
        eventually("further messages", PATIENCE, async || {
            (self.count(task).await >= wanted).then_some(())
        })
        .await;
    }
}

pub(crate) fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("a folder");
    let mut places = folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    places.find(|place| place.is_file()).expect(
        "no /usr/lib/*/faketime/libfaketime.so.1: install Debian's package faketime, or run `make setup`",
    )
}

/// Seconds to the machine's clock until the beat's shows 57 seconds past a minute.
fn just_before_a_minute() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time since 1970");
    57 - i64::try_from(now.as_secs() % 60).expect("a number of seconds")
}

/// The clock is set by an hour and by a month, in both directions, and stays right or wrong: what runs every second
/// goes on every second, with at most one message more, though the entry asks for all that was missed.
async fn a_clock_that_is_set() {
    let scene = Clocks::start();
    let beat = scene.beat("clock", 0);
    scene.wait_for("tests.second", 3).await;
    let mut offset = 0;
    for by in [HOUR, -HOUR, MONTH, -MONTH, -HOUR, HOUR, -MONTH] {
        let (before, started) = (scene.sent().await.0, Instant::now());
        offset += by;
        scene.set("clock", offset);
        // It goes on: a slot of the new grid may be a second away, and the clock is looked at every second.
        scene.wait_for("tests.second", 4).await;
        let (after, seconds) = (scene.sent().await.0, started.elapsed().as_secs_f64());
        let further = |task: &str| {
            let count = |counts: &BTreeMap<String, usize>| counts.get(task).copied().unwrap_or_default();
            count(&after) - count(&before)
        };
        let per_second = further("tests.second");
        println!(
            "beats, clock set by {by} s: {per_second} of each second in {seconds:.1} s, {} of each minute",
            further("tests.minute")
        );
        #[expect(clippy::cast_precision_loss, reason = "a few messages")]
        let count = per_second as f64;
        assert!(count <= seconds + 2.0, "{count} messages in {seconds} s");
        // One for the leap, and one for a minute that begins by itself.
        assert!(further("tests.minute") <= 2, "a flood of minutes");
    }
    // Minutes go on as well.
    scene.set("clock", offset + just_before_a_minute());
    let minutes = scene.count("tests.minute").await;
    eventually("the next minute", PATIENCE, async || {
        (scene.count("tests.minute").await > minutes).then_some(())
    })
    .await;
    assert!(beat.output().contains("the clock was set"), "{}", beat.output());
    beat.signal(Signal::SIGTERM);
    assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0));
}

/// A beat whose clock is an hour ahead goes by the clock of the one that sends, and by its own once that has ended.
async fn clocks_that_differ() {
    let scene = Clocks::start();
    let first = scene.beat("right", 0);
    scene.wait_for("tests.second", 2).await;
    let (second, started) = (scene.beat("ahead", HOUR), Instant::now());
    let before = scene.count("tests.second").await;
    second.wait_for_line("which counts", PATIENCE);
    scene.wait_for("tests.second", 6).await;
    let (count, seconds) = (
        scene.count("tests.second").await - before,
        started.elapsed().as_secs(),
    );
    assert!(count as u64 <= seconds + 2, "{count} messages in {seconds} s");
    assert_eq!(scene.sent().await.1, 0, "a slot was sent twice");

    let (before, started) = (scene.count("tests.second").await, Instant::now());
    first.signal(Signal::SIGKILL);
    scene.wait_for("tests.second", 8).await;
    let (count, seconds) = (
        scene.count("tests.second").await - before,
        started.elapsed().as_secs(),
    );
    println!("beats, clocks an hour apart: {count} messages in {seconds} s after one had ended");
    assert!(count as u64 <= seconds + 3, "{count} messages in {seconds} s");
    assert_eq!(scene.sent().await.1, 0, "a slot was sent twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_set_neither_stop_a_beat_nor_make_it_flood() {
    futures_util::future::join(Box::pin(a_clock_that_is_set()), Box::pin(clocks_that_differ())).await;
}
