//! A rehearsal of the take-over and of the way back: ours join a running Python worker and beat, then Python's stop, and the
//! warm-ups get a queue of their own.
//! Readers read all the time, and the test counts every message.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use redis::{AsyncCommands, cmd};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tradebot_test_support::{Process, Python, Reply, Signal, bin, eventually};

use crate::fleet::{
    BOT_TASK, FUTURES_PATH, Fleet, OURS, PATIENCE, SPOT_OK, SPOT_PATH, WARMUP_SPOT, WARMUPS, text,
};

/// Both beats' interval, in seconds.
const INTERVAL: &str = "2";
/// From one message of a task to the next it takes no longer, or a slot was missed.
const TWO_SLOTS: f64 = 4.0;
const END: &str = "the end of the traffic";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_gives_way_to_ours_and_takes_over_again_and_nothing_is_missed() {
    let fleet = Fleet::start(Python::CELERY_5_5_2).await;
    for path in ["/api/v3/ping", "/fapi/v1/ping"] {
        fleet.exchange.always(path, Reply::json("{}"));
    }
    let _: () = fleet.ask(cmd("CONFIG").arg(&["SET", "appendonly", "yes"])).await;
    let exchange = fleet.exchange.base_url();
    let spot = format!("{exchange}{SPOT_PATH}");
    let futures = format!("{exchange}{FUTURES_PATH}");
    let python = [
        ("WITH_WARMUPS", "1"),
        ("WARMUPS_FETCH_SPOT", &*spot),
        ("WARMUPS_FETCH_FUTURES", &*futures),
    ];

    // The system as it is.
    let watch = Watch::start(&fleet).await;
    let (their_worker, their_beat) = (fleet.python_worker(&python), fleet.python_beat(INTERVAL));
    wait_for_lists(&fleet).await;
    let traffic = Traffic::start(&fleet).await;
    bot_tasks(&fleet, 3).await;
    named(&fleet, "celery", &["warmups-by-python"]);
    adopt(&fleet);

    // Ours beside it, then alone.
    let (our_worker, our_beat) = ours(&fleet);
    our_beat.wait_for_nth_line("sent ", 2, PATIENCE);
    stop(&their_beat);
    stop(&their_worker);
    let runs = ran(&our_worker);
    eventually("runs of our worker alone", PATIENCE, async || {
        (ran(&our_worker) >= runs + 4).then_some(())
    })
    .await;
    named(&fleet, "celery", &[]);

    // With a queue of their own: Python workers serve the other one, and cannot run a warm-up.
    let own_worker = fleet.worker_named("own@test", OURS, &TTLS);
    own_worker.wait_for_line("connected", PATIENCE);
    let own_beat = fleet.beat_on(OURS, INTERVAL, INTERVAL);
    own_beat.wait_for_nth_line("scheduled", 2, PATIENCE);
    stop(&our_beat);
    eventually("no warm-up on the shared queue", PATIENCE, async || {
        fleet.waiting().await.is_empty().then_some(())
    })
    .await;
    stop(&our_worker);
    let their_worker = fleet.python_worker(&python);
    let before = fleet.ran().await.len();
    let routed = json!({"name": WARMUP_SPOT, "registered": true, "wait": 30});
    let sent = fleet.send_with(&[("WARMUPS_QUEUE", OURS)], &[routed]);
    assert_eq!(sent[0]["result"], SPOT_OK, "{sent:?}");
    let runs = ran(&own_worker);
    eventually("runs of the worker with its own queue", PATIENCE, async || {
        (ran(&own_worker) >= runs + 4).then_some(())
    })
    .await;
    assert_eq!(fleet.ran().await.len(), before, "warm-ups run by Python");
    named(&fleet, OURS, &[]);
    stop(&their_worker);
    // Only Python may touch these: they wait for it.
    bot_tasks(&fleet, 3).await;

    // And back.
    let (their_worker, their_beat) = (fleet.python_worker(&python), fleet.python_beat(INTERVAL));
    for task in WARMUPS {
        let entry = task.rsplit('.').next().unwrap_or_default().replace('_', "-");
        their_beat.wait_for_line(&format!("Sending due task {entry}"), PATIENCE);
    }
    stop(&own_beat);
    stop(&own_worker);
    let before = watch.count();
    eventually("messages of Python's beat alone", PATIENCE, async || {
        (watch.count() >= before + 4).then_some(())
    })
    .await;
    stop(&their_beat);
    fleet.wait_until_all_is_done().await;

    let reads = traffic.end().await;
    println!("take-over: {} reads, {} of them failed", reads.0, reads.1);
    assert!(reads.0 > 100, "{} reads", reads.0);
    assert_eq!(reads.1, 0, "reads that found no list");
    let sent = watch.end(&fleet).await;
    assert_no_slot_missed(&sent);
    assert_each_succeeded(&fleet, &sent).await;
    let runs = fleet.ran().await;
    let bots: Vec<&Value> = runs.iter().filter(|run| run["task"] == BOT_TASK).collect();
    assert_eq!(bots.len(), 6, "bot tasks, each once: {bots:?}");

    // A Python worker that lacks the warm-ups would discard them.
    drop(their_worker);
    let (our_worker, our_beat) = ours(&fleet);
    stop(&our_beat);
    let _careless = fleet.python_worker(&[]);
    named(&fleet, "celery", &["worker-discards-warmups"]);
    stop(&our_worker);
}

fn ours(fleet: &Fleet) -> (Process, Process) {
    let worker = fleet.worker_with("celery", &[TTLS[0], TTLS[1]]);
    (worker, fleet.beat(INTERVAL, INTERVAL))
}

const TTLS: [(&str, &str); 2] = [
    ("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "900"),
    ("FUTURES_SYMBOLS_CACHE_TTL_SECONDS", "900"),
];

/// The deployment's variables, in which only the servers are the test's.
fn environment(fleet: &Fleet) -> Vec<(&'static str, String)> {
    let (redis, exchange) = (fleet.redis.url(), fleet.exchange.base_url());
    let mut environment = vec![
        ("REDIS_URL", redis.clone()),
        ("CELERY_BROKER_URL", redis.clone()),
        ("CELERY_RESULT_BACKEND", redis),
        ("BINANCE_SPOT_BASE_URL", exchange.clone()),
        ("BINANCE_FUTURES_BASE_URL", exchange),
        ("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", INTERVAL.to_owned()),
        ("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", INTERVAL.to_owned()),
    ];
    environment.extend(TTLS.map(|(name, value)| (name, value.to_owned())));
    environment
}

/// Asserts what the doctor names; that no beat of ours is seen is said to be fine.
fn named(fleet: &Fleet, queue: &str, codes: &[&str]) {
    let doctor = Process::builder(bin("tradebot-symbols"))
        .args(["doctor", "--json", "--foreign-beat", "-Q", queue])
        .envs(environment(fleet))
        .spawn();
    doctor.wait_exit(PATIENCE);
    let said: Value = serde_json::from_str(&doctor.stdout()).expect("JSON");
    let findings = said["findings"].as_array().expect("findings");
    let found: Vec<&Value> = findings.iter().map(|finding| &finding["code"]).collect();
    assert_eq!(found, codes, "{said:#}");
}

/// The lists that Python wrote are those that we would write.
fn adopt(fleet: &Fleet) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    for (name, value) in environment(fleet) {
        writeln!(file, "export {name}=\"{value}\"").expect("a written file");
    }
    let adopt = Process::builder(bin("tradebot-symbols"))
        .args([
            "adopt",
            "--env-file",
            file.path().to_str().expect("a path of text"),
        ])
        .spawn();
    let status = adopt.wait_exit(PATIENCE);
    for part in [
        "spot: 3 symbols, the same byte for byte",
        "futures: 2 symbols, the same byte for byte",
        "healthy: nothing is wrong",
    ] {
        assert!(adopt.stdout().contains(part), "{part}\n{}", adopt.output());
    }
    assert_eq!(status.code(), Some(0), "{}", adopt.output());
}

fn stop(process: &Process) {
    process.signal(Signal::SIGTERM);
    process.wait_exit(PATIENCE);
}

fn ran(worker: &Process) -> usize {
    worker.output().matches("task succeeded").count()
}

async fn bot_tasks(fleet: &Fleet, count: usize) {
    let order = |number: usize| json!({"name": BOT_TASK, "args": [number], "wait": null});
    assert_eq!(
        fleet.send(&(0..count).map(order).collect::<Vec<_>>()).len(),
        count
    );
}

async fn wait_for_lists(fleet: &Fleet) {
    eventually("the lists of Python", PATIENCE, async || {
        let there: usize = fleet
            .ask(cmd("EXISTS").arg(&["cache:symbols:spot:v1", "cache:symbols:futures:v1"]))
            .await;
        (there == 2).then_some(())
    })
    .await;
}

/// Reads both lists as the routes do, every few milliseconds.
struct Traffic {
    reader: JoinHandle<()>,
    over: Arc<AtomicBool>,
    counts: Arc<[AtomicUsize; 2]>,
}

impl Traffic {
    async fn start(fleet: &Fleet) -> Self {
        let mut connection = fleet.redis.connection().await;
        let (over, counts) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<[AtomicUsize; 2]>::default(),
        );
        let (stop, count) = (Arc::clone(&over), Arc::clone(&counts));
        let reader = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                for (market, listed) in [("spot", 3), ("futures", 2)] {
                    let text: Option<String> = connection
                        .get(format!("cache:symbols:{market}:v1"))
                        .await
                        .expect("an answer");
                    let list: Option<Vec<Value>> = text.and_then(|text| serde_json::from_str(&text).ok());
                    count[0].fetch_add(1, Ordering::Relaxed);
                    if list.is_none_or(|list| list.len() != listed || list[0]["symbol"] != "BTCUSDT") {
                        count[1].fetch_add(1, Ordering::Relaxed);
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Self { reader, over, counts }
    }

    /// How many reads there were, and how many of them failed.
    async fn end(self) -> (usize, usize) {
        self.over.store(true, Ordering::Relaxed);
        self.reader.await.expect("a reader that saw no trouble");
        let count = |place: usize| self.counts[place].load(Ordering::Relaxed);
        (count(0), count(1))
    }
}

/// A warm-up that was sent: when, by the server's clock, and its id.
type Sent = BTreeMap<String, Vec<(f64, String)>>;

/// Sees every warm-up that is sent, from any sender.
struct Watch {
    lines: JoinHandle<()>,
    sent: Arc<Mutex<Sent>>,
}

impl Watch {
    async fn start(fleet: &Fleet) -> Self {
        let client = redis::Client::open(fleet.redis.url()).expect("the URL of the harness is valid");
        let monitor = client
            .get_async_monitor()
            .await
            .expect("a connection that monitors");
        let sent: Arc<Mutex<Sent>> = Arc::default();
        let kept = Arc::clone(&sent);
        let lines = tokio::spawn(async move {
            let mut lines = monitor.into_on_message::<String>();
            while let Some(line) = lines.next().await {
                if line.contains(END) {
                    break;
                }
                if let Some((task, at, id)) = warmup_sent(&line) {
                    kept.lock()
                        .expect("no panic")
                        .entry(task)
                        .or_default()
                        .push((at, id));
                }
            }
        });
        Self { lines, sent }
    }

    fn count(&self) -> usize {
        self.sent.lock().expect("no panic").values().map(Vec::len).sum()
    }

    async fn end(self, fleet: &Fleet) -> Sent {
        fleet.ask::<String>(cmd("ECHO").arg(END)).await;
        eventually("the last line of the watch", PATIENCE, async || {
            self.lines.is_finished().then_some(())
        })
        .await;
        self.sent.lock().expect("no panic").clone()
    }
}

/// A line like `1700000000.1 [0 127.0.0.1:1] "LPUSH" "celery" "{\"body\": …"`, of a beat or of a script of ours. A
/// message that a worker gives back is pushed from the other end.
fn warmup_sent(line: &str) -> Option<(String, f64, String)> {
    let (source, words) = line.split_once("] ")?;
    let message = words.strip_prefix("\"LPUSH\" \"")?;
    let message = ["celery\" ", "symbols\" "]
        .into_iter()
        .find_map(|queue| message.strip_prefix(queue))?;
    let message: Value = serde_json::from_str(&serde_json::from_str::<String>(message).ok()?).ok()?;
    let headers = &message["headers"];
    let task = WARMUPS.iter().find(|task| headers["task"] == **task)?;
    let at = source.split(' ').next()?.parse().ok()?;
    Some(((*task).to_owned(), at, text(&headers["id"])))
}

fn assert_no_slot_missed(sent: &Sent) {
    for task in WARMUPS {
        let times: Vec<f64> = sent[task].iter().map(|(at, _)| *at).collect();
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let longest = gaps.iter().copied().fold(0.0, f64::max);
        println!(
            "take-over: {} messages of {task}, at most {longest:.2} s apart",
            times.len()
        );
        assert!(longest < TWO_SLOTS, "a slot of {task} was missed: {gaps:?}");
    }
}

async fn assert_each_succeeded(fleet: &Fleet, sent: &Sent) {
    for (_, id) in sent.values().flatten() {
        let result: Option<String> = fleet.ask(cmd("GET").arg(format!("celery-task-meta-{id}"))).await;
        let result: Value = serde_json::from_str(&result.unwrap_or_default()).unwrap_or_default();
        assert_eq!(result["status"], "SUCCESS", "{id}: {result}");
    }
}
