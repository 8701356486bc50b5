//! The mixed fleet in numbers: two Python workers, one of each version, and two of ours share the queue `celery`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::StreamExt;
use redis::cmd;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tradebot_test_support::{Process, Python, eventually};

use crate::fleet::{BOT_TASK, FUTURES_OK, Fleet, PATIENCE, PYTHON_OK, SPOT_OK, WITH_WARMUPS, text};
use crate::shared_queue::{arguments, bot_order, successes, warmup_order};

const EACH: usize = 1_000;

/// Python workers take whatever comes first, so these have the warm-ups as well, as the deployment's do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_fleet_runs_every_task_once_and_no_bot_task_passes_through_our_hands() {
    let fleet = Fleet::start(Python::CELERY_5_5_2).await;
    let ours = ["ours-1@test", "ours-2@test"].map(|node| fleet.worker_named(node, "celery", &[]));
    let theirs = [
        fleet.python_worker_of(Python::CELERY_5_5_2, "theirs-1@test", &[WITH_WARMUPS]),
        fleet.python_worker_of(Python::CELERY_NEWEST, "theirs-2@test", &[WITH_WARMUPS]),
    ];
    ours.iter()
        .for_each(|worker| drop(worker.wait_for_line("connected", PATIENCE)));
    theirs
        .iter()
        .for_each(|worker| drop(worker.wait_for_line(" ready.", PATIENCE)));
    let watch = Watch::start(&fleet).await;

    let orders: Vec<Value> = (0..EACH)
        .flat_map(|number| [bot_order(number), warmup_order(number)])
        .map(|mut order| {
            order["wait"] = Value::Null;
            order
        })
        .collect();
    let began = Instant::now();
    let sent = fleet.send(&orders);
    fleet.wait_until_all_is_done().await;
    println!("mixed fleet: {} messages in {:?}", sent.len(), began.elapsed());
    let ids = |first: usize| {
        sent.iter()
            .skip(first)
            .step_by(2)
            .map(|answer| text(&answer["id"]))
    };
    let (bots, warmups): (Vec<String>, BTreeSet<String>) = (ids(0).collect(), ids(1).collect());

    // Who ran what, each by its own account.
    let runs = fleet.ran().await;
    let by_python = |bots: bool| -> Vec<String> {
        let of_kind = runs.iter().filter(|run| (run["task"] == BOT_TASK) == bots);
        of_kind.map(|run| text(&run["id"])).collect()
    };
    let by_us: Vec<Vec<String>> = ours.iter().map(successful).collect();
    once_each("bot tasks run by Python", &by_python(true), bots.iter());
    let mut all: Vec<String> = by_python(false);
    println!(
        "mixed fleet: warm-ups by Python {}, by us {} and {}",
        all.len(),
        by_us[0].len(),
        by_us[1].len()
    );
    all.extend(by_us.iter().flatten().cloned());
    once_each("warm-ups run by any worker", &all, warmups.iter());
    assert_eq!(
        successes(&fleet).await,
        by_us[0].len() + by_us[1].len(),
        "refreshes that were counted"
    );
    assert!(
        by_us.iter().all(|done| !done.is_empty()),
        "one of ours did nothing"
    );
    let mut runs_of: BTreeMap<String, usize> = BTreeMap::new();
    for run in &runs {
        *runs_of.entry(text(&run["hostname"])).or_default() += 1;
    }
    assert_eq!(
        runs_of.keys().collect::<Vec<_>>(),
        ["theirs-1@test", "theirs-2@test"]
    );

    // With what, and with which result.
    let run_of: HashMap<String, &Value> = runs.iter().map(|run| (text(&run["id"]), run)).collect();
    for (number, id) in bots.iter().enumerate() {
        let run = run_of[id];
        assert_eq!(arguments(run), arguments(&bot_order(number)));
        assert_ne!(run["delivery_info"]["redelivered"], true, "{run}");
    }
    for (id, result) in results(&fleet, &warmups).await {
        let expected = if run_of.contains_key(id) {
            vec![PYTHON_OK]
        } else {
            vec![SPOT_OK, FUTURES_OK]
        };
        assert_eq!(result["status"], "SUCCESS", "{result}");
        assert!(expected.contains(&text(&result["result"]).as_str()), "{result}");
    }

    let seen = watch.end(&fleet).await;
    assert_eq!(
        seen.ours, [""; 0],
        "commands of ours that hold a bot task's message"
    );
    assert!(seen.claims > 0, "no claim of ours was seen");
    assert_eq!(seen.pushed.len(), EACH, "bot tasks that were sent");
    once_each(
        "messages of bot tasks that Python took",
        &seen.taken,
        seen.pushed.iter(),
    );
}

/// Asserts that the found ones are exactly the expected ones, none of them twice.
fn once_each<'e>(what: &str, found: &[String], expected: impl Iterator<Item = &'e String>) {
    let mut found: Vec<&String> = found.iter().collect();
    found.sort_unstable();
    let mut expected: Vec<&String> = expected.collect();
    expected.sort_unstable();
    assert!(
        found == expected,
        "{what}: {} of {}, or some twice",
        found.len(),
        expected.len()
    );
}

/// Ids of the tasks that one of our workers says it ran.
fn successful(worker: &Process) -> Vec<String> {
    let output = worker.output();
    let ended = output.lines().filter(|line| line.contains("task succeeded"));
    let id = |line: &str| Some(line.split_once("task.id=\"")?.1.split_once('"')?.0.to_owned());
    ended.filter_map(id).collect()
}

/// The stored results of these tasks.
async fn results<'i>(fleet: &Fleet, ids: &'i BTreeSet<String>) -> Vec<(&'i String, Value)> {
    let mut get = cmd("MGET");
    for id in ids {
        get.arg(format!("celery-task-meta-{id}"));
    }
    let documents: Vec<Option<String>> = fleet.ask(&get).await;
    let read = |document: Option<String>| {
        document.map_or(json!(null), |text| {
            serde_json::from_str(&text).expect("a result is JSON")
        })
    };
    ids.iter().zip(documents.into_iter().map(read)).collect()
}

/// Watches every command that the server carries out, those of scripts too.
struct Watch {
    lines: JoinHandle<()>,
    seen: Arc<Mutex<Vec<String>>>,
    ours: Vec<String>,
}

/// The part of it that is about bot tasks.
struct Seen {
    /// Commands of our connections, and of scripts, which only our workers run here.
    ours: Vec<String>,
    /// Claims of ours, whatever they took.
    claims: usize,
    /// Messages as they were sent.
    pushed: Vec<String>,
    /// Messages as Python workers recorded them when they took them.
    taken: Vec<String>,
}

const END: &str = "the end of the watch";
const COUNTED: &str = "\"HSET\" \"tradebot-symbols:waiting\" ";
/// What a claim of ours looks like: it is a script that records messages.
const OUR_CLAIM: &str = r#"lua] "HSET" "unacked" "#;

impl Watch {
    async fn start(fleet: &Fleet) -> Self {
        let clients: String = fleet.ask(cmd("CLIENT").arg("LIST")).await;
        let ours: Vec<String> = clients
            .lines()
            .filter(|client| client.contains("name=ours-"))
            .filter_map(|client| Some(client.split_once("addr=")?.1.split_once(' ')?.0.to_owned()))
            .collect();
        assert!(ours.len() >= 4, "two connections a worker: {clients}");
        let client = redis::Client::open(fleet.redis.url()).expect("the URL of the harness is valid");
        let monitor = client
            .get_async_monitor()
            .await
            .expect("a connection that monitors");
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&seen);
        let lines = tokio::spawn(async move {
            let mut lines = monitor.into_on_message::<String>();
            while let Some(line) = lines.next().await {
                if line.contains(END) {
                    break;
                }
                if line.contains(BOT_TASK) || line.contains(OUR_CLAIM) {
                    kept.lock().expect("no panic").push(line);
                }
            }
        });
        Self { lines, seen, ours }
    }

    async fn end(self, fleet: &Fleet) -> Seen {
        fleet.ask::<String>(cmd("ECHO").arg(END)).await;
        eventually("the last line of the watch", PATIENCE, async || {
            self.lines.is_finished().then_some(())
        })
        .await;
        let seen = self.seen.lock().expect("no panic");
        let mut sorted = Seen {
            ours: Vec::new(),
            claims: 0,
            pushed: Vec::new(),
            taken: Vec::new(),
        };
        for line in seen.iter() {
            let (source, words) = line.split_once("] ").expect("`TIME [DATABASE ADDRESS] WORDS`");
            let address = source.rsplit(' ').next().unwrap_or_default();
            sorted.claims += usize::from(line.contains(OUR_CLAIM));
            // How many wait is counted by name, and published.
            if !words.contains(BOT_TASK) || words.starts_with(COUNTED) {
                continue;
            }
            if address == "lua" || self.ours.iter().any(|ours| ours == address) {
                sorted.ours.push(line.clone());
            } else if let Some(list) = words.strip_prefix("\"LPUSH\" ") {
                let message = list.split_once(' ').expect("a list and a message").1;
                sorted.pushed.push(message.trim_matches('"').to_owned());
            } else if words.starts_with("\"HSET\" \"unacked\" ") {
                // `[MESSAGE, EXCHANGE, ROUTING_KEY]`: the words of the message itself are the same, byte for byte.
                let (_, record) = words.split_once("\"[").expect("kombu's triple");
                let message = record.rsplitn(3, ", ").nth(2).expect("kombu's triple");
                sorted.taken.push(message.to_owned());
            }
        }
        sorted
    }
}
