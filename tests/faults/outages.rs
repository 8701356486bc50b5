//! A Redis that is killed and restarted, and one that is paused.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future;
use tradebot_test_support::{RedisServer, Signal, eventually, seeded_rng};

use crate::figures::{Figures, sized, stretched_ms};
use crate::ledger::{Ledger, now_ms};
use crate::scene::{SOON, Scene, Worker};

const GIVEN_UP: &str = "restored the messages of a worker that is gone";

/// Starts the server again; milliseconds of the moment in which it served again.
async fn restart(broker: &Arc<RedisServer>) -> u64 {
    let broker = Arc::clone(broker);
    let started = tokio::task::spawn_blocking(move || broker.restart());
    started.await.expect("the server starts again");
    now_ms()
}

/// What was claimed or settled when the answer got lost is neither lost nor done twice; what runs goes on running.
/// The last outage is longer than any lease.
async fn restarted() {
    let rounds = sized(3, 20);
    let mut rng = seeded_rng();
    let scene = Scene::start_durable();
    let mut ledger = Ledger::open(&scene, "restarts");
    let workers = [
        scene.worker("a", 2).ready().await,
        scene.worker("b", 2).ready().await,
    ];
    let mut resumed = Figures::default();
    for round in 1..=rounds {
        for _ in 0..40 {
            ledger.record(rng.u64(50..=300)).await;
        }
        tokio::time::sleep(Duration::from_millis(rng.u64(100..=900))).await;
        scene.broker.kill();
        let away = if round == rounds {
            10_000
        } else {
            rng.u64(100..=2_500)
        };
        tokio::time::sleep(Duration::from_millis(away)).await;
        let open = restart(&scene.broker).await;
        resumed.add(ledger.first_start_after(open).await);
    }
    let sums = ledger.close("redis restarted", Duration::from_secs(60)).await;
    println!("redis restarted: {rounds} times, first task after it served again: {resumed}");
    assert_eq!(sums.duplicated, 0);
    assert!(sums.parked.is_empty());
    assert!(resumed.percentile(100) <= stretched_ms(5_000), "{resumed}");
    undisturbed(&workers);
}

/// No worker ended, and none took another for dead.
fn undisturbed(workers: &[Worker]) {
    for worker in workers {
        assert!(worker.process.is_running());
        assert_eq!(worker.count(GIVEN_UP), 0, "{}", worker.node);
    }
}

/// Longer than the lease: all leases have run out when Redis goes on. With a visibility timeout shorter than the
/// pause everything held looks abandoned as well.
async fn paused() {
    let pauses = sized(vec![8], vec![8, 30, 60]);
    let scene = Scene::start();
    for pause in pauses {
        let (usual, short) = (scene.in_database(1), scene.in_database(2));
        let short = short.with("CELERY_VISIBILITY_TIMEOUT", "5");
        let mut stages = [
            Stage::set(&usual, "usual", pause).await,
            Stage::set(&short, "short", pause).await,
        ];
        scene.broker.pause();
        tokio::time::sleep(Duration::from_secs(pause)).await;
        let resumed_ms = now_ms();
        scene.broker.resume();
        future::join_all(stages.iter_mut().map(|stage| stage.finish(resumed_ms, pause))).await;
    }
}

/// Two workers in the middle of their work.
struct Stage {
    name: String,
    ledger: Ledger,
    workers: [Worker; 2],
}

impl Stage {
    async fn set(scene: &Scene, visibility_timeout: &str, pause: u64) -> Self {
        let name = format!("redis paused for {pause} s, {visibility_timeout} visibility timeout");
        let mut ledger = Ledger::open(scene, &name);
        let workers = [
            scene.worker("a", 3).ready().await,
            scene.worker("b", 3).ready().await,
        ];
        let mut long = Vec::new();
        for _ in 0..4 {
            long.push(ledger.record((pause + 5) * 1_000).await);
        }
        for id in &long {
            ledger.started(id, 1).await;
        }
        for _ in 0..30 {
            ledger.record(150).await;
        }
        Self {
            name,
            ledger,
            workers,
        }
    }

    async fn finish(&mut self, resumed_ms: u64, pause: u64) {
        let recovery = self.ledger.first_start_after(resumed_ms).await;
        println!("{}: next task after {recovery} ms", self.name);
        assert!(recovery <= stretched_ms(5_000), "{}: {recovery} ms", self.name);
        let patience = Duration::from_secs(60 + pause);
        let sums = self.ledger.close(&self.name, patience).await;
        assert_eq!(sums.duplicated, 0, "{}", self.name);
        assert!(sums.parked.is_empty());
        undisturbed(&self.workers);
    }
}

/// A worker that stands still for longer than its lease is given up: what it ran is run again, and what follows from
/// it happens once. It goes on where it stood, and serves its queue again.
async fn worker_paused() {
    let pause = sized(12, 30);
    let scene = Scene::start();
    let name = format!("worker paused for {pause} s");
    let mut ledger = Ledger::open(&scene, &name);
    let paused = scene.worker("paused", 2).ready().await;
    let mut callbacks = Vec::new();
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut task = ledger.task(1_500);
        callbacks.push(ledger.link(&mut task));
        held.push(ledger.send(task).await);
    }
    for id in &held {
        ledger.started(id, 1).await;
    }
    paused.process.signal(Signal::SIGSTOP);
    let _other = scene.worker("other", 2).ready().await;
    for _ in 0..20 {
        ledger.record(50).await;
    }
    for id in &held {
        ledger.started(id, 2).await;
    }
    tokio::time::sleep(Duration::from_secs(pause).saturating_sub(SOON / 2)).await;
    paused.process.signal(Signal::SIGCONT);
    let sums = ledger.close(&name, 2 * SOON).await;
    assert!(callbacks.iter().all(|id| sums.runs[id] == 1), "{:?}", sums.runs);
    assert_eq!(sums.duplicated, 2, "what it ran, and nothing else");
    paused.says("the delivery was not held any more", 2).await;
    eventually("the paused worker registered again", SOON, async || {
        (scene.ids_of(&paused).await.len() == 1).then_some(())
    })
    .await;
}

/// And no worker gives up another for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_restarted_or_stands_still_costs_no_message_and_no_second_run() {
    Box::pin(future::join3(restarted(), paused(), worker_paused())).await;
}
