//! What a worker costs in connections, commands and memory, and that tasks which use all CPU time do not make others
//! take it for dead.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use redis::cmd;
use tradebot_test_support::{ChaosProxy, eventually};

use crate::figures::sized;
use crate::ledger::Ledger;
use crate::scene::{SOON, Scene, Worker, ask};

/// A task that never yields holds a thread of the runtime. When all threads are held, only the heartbeat
/// runs on, on its separate thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_tasks_never_yield_is_not_taken_over() {
    // One busy thread is enough to show it; the long form keeps all processors busy.
    let threads = sized(1, std::thread::available_parallelism().map_or(2, usize::from));
    let scene = Scene::start().with("TOKIO_WORKER_THREADS", threads.to_string());
    let scene = scene.with("CELERY_VISIBILITY_TIMEOUT", "5");
    let mut ledger = Ledger::open(&scene, "spins");
    // The other one is there before all processors are busy, and has no slot for a task that keeps them so.
    let other = scene.worker("other", 1).ready().await;
    let blocker = ledger.record(8_000).await;
    ledger.started(&blocker, 1).await;
    let busy = scene.worker("busy", threads).ready().await;
    let mut spins = Vec::new();
    for _ in 0..threads {
        let mut task = ledger.task(12_000);
        task.body.args.push(true.into());
        spins.push(ledger.send(task).await);
    }
    for id in &spins {
        ledger.started(id, 1).await;
    }
    for _ in 0..10 {
        ledger.record(10).await;
    }
    let sums = ledger.close("spins", Duration::from_secs(60)).await;
    assert_eq!(sums.duplicated, 0);
    assert_eq!(other.count("restored the messages"), 0);
    assert!(busy.count("task succeeded") >= threads);
    assert!(busy.stop().await.success());
}

/// The names of a worker's connections to the broker's server and to the one of notes and results, with their
/// number.
async fn connections(scene: &Scene, worker: &Worker) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for server in [scene.observer(), scene.notebook()] {
        let clients: String = ask(&server, cmd("CLIENT").arg("LIST")).await;
        for name in clients
            .split_whitespace()
            .filter_map(|field| field.strip_prefix("name="))
        {
            if let Some(use_of) = name.strip_prefix(&format!("{}-", worker.node)) {
                *found.entry(use_of.to_owned()).or_default() += 1;
            }
        }
    }
    found
}

async fn settles_at(scene: &Scene, worker: &Worker, expected: &[&str]) {
    let expected: BTreeMap<String, usize> = expected.iter().map(|name| ((*name).to_owned(), 1)).collect();
    let what = format!("the connections {expected:?}");
    eventually(&what, SOON, async || {
        (connections(scene, worker).await == expected).then_some(())
    })
    .await;
}

/// Results in the broker's database go over the broker's connection. (`tests` is the test worker's own.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_results_in_the_brokers_database_has_three_connections() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "connections");
    let worker = scene.worker("together", 2).ready().await;
    ledger.record(0).await;
    ledger.close("connections, results with the broker", SOON).await;
    settles_at(&scene, &worker, &["broker", "control", "heartbeat", "tests"]).await;
    assert!(worker.stop().await.success());
}

/// The connection for results elsewhere is opened when the first one is stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_with_results_elsewhere_has_four_connections_however_often_they_break() {
    let scene = Scene::start();
    let proxy = ChaosProxy::start(scene.broker.port());
    let apart = scene.with_results_in(15);
    let mut ledger = Ledger::open(&apart, "connections apart");
    let worker = apart.through(&proxy).worker("apart", 4).ready().await;
    settles_at(&scene, &worker, &["broker", "control", "heartbeat"]).await;
    let all = ["broker", "control", "heartbeat", "results", "tests"];
    let mut most = 0;
    for round in 0..sized(10, 100) {
        for _ in 0..5 {
            ledger.record(20).await;
        }
        match round % 3 {
            0 => proxy.reset_all(),
            1 => proxy.cut(),
            _ => {
                let mut kill = cmd("CLIENT");
                kill.arg("KILL").arg("TYPE").arg("normal");
                ask::<u64>(&scene.observer(), &kill).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.restore();
        most = most.max(connections(&scene, &worker).await.values().sum());
    }
    let sums = ledger
        .close("connections, results elsewhere", Duration::from_secs(60))
        .await;
    println!("connections: at most {most} at a time through it all");
    assert_eq!(sums.duplicated, 0);
    settles_at(&scene, &worker, &all).await;
    assert!(most <= 2 * all.len(), "{most} connections at a time");

    scene.broker.pause();
    tokio::time::sleep(Duration::from_secs(7)).await;
    scene.broker.resume();
    ledger.record(0).await;
    ledger.close("connections, after a pause", SOON).await;
    settles_at(&scene, &worker, &all).await;
}

fn resident_kib(worker: &Worker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.process.pid()));
    let status = status.expect("the worker is running");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("a number of KiB")
}

/// Counted by `MONITOR`, those within scripts included.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_sends_at_most_two_commands_a_second() {
    let seconds = sized(20, 60);
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "idle");
    let worker = scene.worker("idle", 2).ready().await;
    ledger.record(0).await;
    ledger.close("idle", SOON).await;
    let client = redis::Client::open(scene.broker.url()).expect("the URL of the harness is valid");
    let monitor = client
        .get_async_monitor()
        .await
        .expect("a connection that monitors");
    let mut lines = monitor.into_on_message::<String>();
    let mut commands: BTreeMap<String, u32> = BTreeMap::new();
    let counting = async {
        while let Some(line) = lines.next().await {
            let name = line.split('"').nth(1).unwrap_or_default().to_owned();
            *commands.entry(name).or_default() += 1;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(seconds), counting).await;
    assert!(counted.is_err(), "the monitor ended by itself");
    let total: u32 = commands.values().sum();
    let resident = resident_kib(&worker);
    println!("idle: {total} commands in {seconds} s {commands:?}, {resident} KiB resident (unoptimised)");
    assert!(u64::from(total) <= 2 * seconds, "{commands:?}");
    assert!(total > 0, "nothing was counted");
}
