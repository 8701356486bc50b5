//! Several beats that are killed, stopped and cut off, while every slot is counted at the queue.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use redis::cmd;
use serde_json::Value;
use tradebot_test_support::{ChaosProxy, Process, RedisServer, Signal, bin, eventually, seeded_rng};

use crate::figures::{Figures, sized, stretched_ms};

const PATIENCE: Duration = Duration::from_secs(30);
/// Of missed slots all are sent, so that a lost one shows.
const SCHEDULE: &str = r#"
[[entry]]
name = "every-second"
task = "tests.noop"
interval = 1
expires = false
catch_up = "all"

[[entry]]
name = "every-half-second"
task = "tests.noop"
interval = 0.5
expires = false
catch_up = "all"
"#;
const STEPS: [(&str, i64); 2] = [("every-second", 1_000_000), ("every-half-second", 500_000)];

const RECORDS: &str = "tradebot-symbols:beat-slots";

/// Last slot, grid, last message and number of messages of each entry, as the beats recorded them.
type Records = HashMap<String, [i64; 4]>;

fn numbers(records: &HashMap<String, String>) -> Records {
    let numbers = |text: &String| {
        let numbers: Vec<i64> = text
            .split(' ')
            .map(|number| number.parse().expect("a number"))
            .collect();
        numbers.try_into().expect("four numbers")
    };
    records
        .iter()
        .map(|(entry, text)| (entry.clone(), numbers(text)))
        .collect()
}

struct Beats {
    redis: RedisServer,
    schedule: tempfile::TempDir,
}

impl Beats {
    fn start() -> Self {
        let schedule = tempfile::tempdir().expect("a folder");
        std::fs::write(schedule.path().join("schedule.toml"), SCHEDULE).expect("a written file");
        Self {
            redis: RedisServer::start(),
            schedule,
        }
    }

    fn beat(&self, url: &str) -> Process {
        Process::builder(bin("tradebot-beat"))
            .arg("--schedule")
            .arg(self.schedule.path().join("schedule.toml"))
            .env("CELERY_BROKER_URL", url)
            .env("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")
            .env("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")
            .spawn()
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let mut connection = self.redis.connection().await;
        command
            .query_async(&mut connection)
            .await
            .expect("an answer of Redis")
    }

    async fn records(&self) -> Records {
        numbers(&self.ask(cmd("HGETALL").arg(RECORDS)).await)
    }

    /// The messages, and the records of the same moment: what a beat wrote before its end may still be on its way.
    async fn messages_and_records(&self) -> (Vec<String>, Records) {
        let mut connection = self.redis.connection().await;
        let (messages, records) = redis::pipe()
            .atomic()
            .cmd("LRANGE")
            .arg(&["celery", "0", "-1"])
            .hgetall(RECORDS)
            .query_async(&mut connection)
            .await
            .expect("an answer of Redis");
        (messages, numbers(&records))
    }

    /// Waits for the slot of `entry` that is due `ahead` slots from now.
    async fn wait_for_slots(&self, runs: i64) {
        let longest = Duration::from_secs(u64::try_from(runs).unwrap_or(0) * 2) + PATIENCE;
        eventually("slots", longest, async || {
            let records = self.records().await;
            (records.get("every-second")?[3] >= runs).then_some(())
        })
        .await;
    }

    /// Counts the messages of each slot: there is one, of each slot between the first and the last.
    async fn close(&self, name: &str) {
        let (messages, records) = self.messages_and_records().await;
        let mut ids: BTreeMap<String, u64> = BTreeMap::new();
        for message in &messages {
            let message: Value = serde_json::from_str(message).expect("a message");
            *ids.entry(message["headers"]["id"].as_str().expect("an id").to_owned())
                .or_default() += 1;
        }
        let (mut slots, mut lost) = (0, 0);
        for (entry, [last, anchor, sent, runs]) in records {
            let step = STEPS
                .iter()
                .find(|(name, _)| *name == entry)
                .expect("one of two")
                .1;
            assert_eq!((last - anchor) % step, 0, "a slot off the grid");
            assert_eq!(last, sent);
            for slot in (anchor..=last).step_by(usize::try_from(step).expect("a step")) {
                slots += 1;
                lost += u64::from(!ids.contains_key(&task_id(&entry, slot)));
            }
            assert_eq!(runs, (last - anchor) / step + 1);
        }
        let duplicated: u64 = ids.values().map(|copies| copies - 1).sum();
        println!(
            "{name}: sent {slots} executed {} duplicated {duplicated} lost {lost} parked 0",
            ids.len()
        );
        assert_eq!((duplicated, lost, ids.len()), (0, 0, slots), "{name}");
    }
}

/// As the beat derives it, see `Entry::task_id`.
fn task_id(entry: &str, slot: i64) -> String {
    let namespace = uuid::Uuid::from_u128(0x8f5a_31c4_6f0e_5b7c_9d0c_2f6b_9a4e_7d11);
    uuid::Uuid::new_v5(&namespace, format!("{entry}@{slot}").as_bytes()).to_string()
}

/// Every beat has its own way to Redis. One after the other is killed, stopped for a while, has its connection reset
/// or frozen; there is always one that is left alone.
async fn whatever_becomes_of_them() {
    let scene = Beats::start();
    let mut rng = seeded_rng();
    let proxies: Vec<ChaosProxy> = (0..4).map(|_| ChaosProxy::start(scene.redis.port())).collect();
    let url = |number: usize| format!("redis://127.0.0.1:{}/0", proxies[number].port());
    let mut beats: Vec<Process> = (0..4).map(|number| scene.beat(&url(number))).collect();
    let slots = sized(25, 500);
    let mut done: BTreeMap<&str, usize> = BTreeMap::new();
    let mut stopped: Vec<(usize, tokio::time::Instant)> = Vec::new();
    loop {
        if scene
            .records()
            .await
            .get("every-second")
            .is_some_and(|record| record[3] >= slots)
        {
            break;
        }
        stopped.retain(|(number, until)| {
            let over = *until <= tokio::time::Instant::now();
            if over {
                beats[*number].signal(Signal::SIGCONT);
                proxies[*number].restore();
            }
            !over
        });
        let number = rng.usize(0..beats.len());
        if stopped.len() + 1 < beats.len() && stopped.iter().all(|(other, _)| *other != number) {
            let pause = Duration::from_millis(rng.u64(500..=sized(8_000, 60_000)));
            let until = tokio::time::Instant::now() + pause;
            let what = match rng.u32(0..4) {
                0 => {
                    beats[number].signal(Signal::SIGKILL);
                    beats[number] = scene.beat(&url(number));
                    "killed"
                }
                1 => {
                    beats[number].signal(Signal::SIGSTOP);
                    stopped.push((number, until));
                    "stopped"
                }
                2 => {
                    proxies[number].reset_all();
                    "reset"
                }
                _ => {
                    proxies[number].cut();
                    stopped.push((number, until));
                    "cut off"
                }
            };
            *done.entry(what).or_default() += 1;
        }
        // The rhythm of the trouble; nothing is awaited.
        tokio::time::sleep(Duration::from_millis(rng.u64(100..=900))).await;
    }
    for (number, _) in stopped {
        beats[number].signal(Signal::SIGCONT);
        proxies[number].restore();
    }
    println!("beats: {done:?}");
    // What is counted must not grow meanwhile.
    drop(beats);
    scene.close("beats killed, stopped and cut off").await;
}

/// The server stops while slots are on their way to it, and comes back: what arrived late is not sent again.
async fn a_server_that_stops() {
    let scene = Beats::start();
    let beats = [scene.beat(&scene.redis.url()), scene.beat(&scene.redis.url())];
    let mut runs = 3;
    for _ in 0..sized(2, 20) {
        scene.wait_for_slots(runs).await;
        scene.redis.pause();
        // Longer than a beat waits for an answer (five seconds): what it asked is answered when it has given up.
        tokio::time::sleep(Duration::from_millis(6_500)).await;
        scene.redis.resume();
        runs += 8;
    }
    scene.wait_for_slots(runs).await;
    for beat in beats {
        beat.signal(Signal::SIGTERM);
        assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0));
    }
    scene.close("beats, the server stopped").await;
}

/// Whatever becomes of the beat that sends, another one's message is there within a second of the slot.
async fn a_slot_is_at_most_a_second_late() {
    let scene = Beats::start();
    let start = || scene.beat(&scene.redis.url());
    let mut beats = vec![start(), start(), start()];
    let mut late = Figures::default();
    scene.wait_for_slots(2).await;
    for round in 0..sized(4, 40) {
        // The lease outlives a beat that was killed for a while.
        let place = eventually("one of ours to send", PATIENCE, async || {
            let holder: Option<String> = scene.ask(cmd("GET").arg("tradebot-symbols:beat-leader")).await;
            let key = format!("tradebot-symbols:beat:{}", holder?.split(' ').next()?);
            let heartbeat: Option<String> = scene.ask(cmd("GET").arg(key)).await;
            let heartbeat: Value = serde_json::from_str(&heartbeat?).expect("JSON");
            beats
                .iter()
                .position(|beat| Some(u64::from(beat.pid())) == heartbeat["pid"].as_u64())
        })
        .await;
        let victim = std::mem::replace(&mut beats[place], start());
        victim.signal(if round % 2 == 0 {
            Signal::SIGKILL
        } else {
            Signal::SIGSTOP
        });
        // The next slots are looked for as they come.
        let [mut last, ..] = scene.records().await["every-second"];
        for _ in 0..3 {
            last += 1_000_000;
            let seen = eventually("the next slot", PATIENCE, async || {
                let (seconds, micros): (i64, i64) = scene.ask(&cmd("TIME")).await;
                (scene.records().await["every-second"][0] >= last).then_some(seconds * 1_000_000 + micros)
            })
            .await;
            late.add(u64::try_from(seen - last).unwrap_or(0) / 1000);
        }
    }
    drop(beats);
    println!("beats: a slot after the end of the one that sends: {late}");
    scene.close("beats, the one that sends ended").await;
    // The looking takes its time too, and this machine has more to do.
    assert!(late.percentile(50) <= stretched_ms(1_000), "{late}");
    assert!(late.percentile(100) <= stretched_ms(2_500), "{late}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_slot_gets_one_message_whatever_becomes_of_the_beats() {
    futures_util::future::join3(
        Box::pin(whatever_becomes_of_them()),
        Box::pin(a_server_that_stops()),
        Box::pin(a_slot_is_at_most_a_second_late()),
    )
    .await;
}
