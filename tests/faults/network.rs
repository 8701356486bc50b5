//! Connections that are reset, and connections over which nothing arrives.

use std::time::Duration;

use futures_util::future;
use redis::cmd;
use serde_json::json;
use tradebot_base::clock::{Clock, SystemClock};
use tradebot_test_support::{ChaosProxy, eventually, seeded_rng};
use tradebot_wire::keys::Keys;

use crate::figures::{Figures, sized, stretched_ms};
use crate::ledger::{Ledger, now_ms};
use crate::scene::{SOON, Scene, ask};

const GIVEN_UP: &str = "restored the messages of a worker that is gone";

/// A task does not notice that its worker's connections break; its result is stored over the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_connections_cost_no_message_and_no_second_run() {
    let (resets, messages) = sized((20, 250), (200, 2_500));
    let mut rng = seeded_rng();
    let scene = Scene::start();
    let proxy = ChaosProxy::start(scene.broker.port());
    let behind = scene.through(&proxy);
    let mut ledger = Ledger::open(&scene, "resets");
    for _ in 0..2 {
        ledger.record(6_000).await;
    }
    for _ in 0..messages {
        ledger.record(rng.u64(20..=200)).await;
    }
    let workers = [
        behind.worker("a", 3).ready().await,
        behind.worker("b", 3).ready().await,
    ];
    let mut recovery = Figures::default();
    for _ in 0..resets {
        tokio::time::sleep(Duration::from_millis(rng.u64(10..=400))).await;
        proxy.reset_all();
        recovery.add(ledger.first_start_after(now_ms()).await);
    }
    let sums = ledger.close("connections reset", Duration::from_secs(120)).await;
    println!("connections reset: {resets} times, next task: {recovery}");
    assert_eq!(sums.duplicated, 0);
    assert!(sums.parked.is_empty());
    assert!(recovery.percentile(99) <= stretched_ms(5_000), "{recovery}");
    assert!(workers.iter().all(|worker| worker.count(GIVEN_UP) == 0));
}

/// A network that drops everything looks like silence. All workers are behind it, so their leases expire while Redis
/// runs on. No worker is there to notice, and afterwards none takes another for dead.
async fn gone_dead() {
    let freezes = sized(1, 10);
    let scene = Scene::start();
    let proxy = ChaosProxy::start(scene.broker.port());
    let behind = scene.through(&proxy);
    let mut ledger = Ledger::open(&scene, "freezes");
    let workers = [
        behind.worker("a", 3).ready().await,
        behind.worker("b", 3).ready().await,
    ];
    let mut recovery = Figures::default();
    for _ in 0..freezes {
        let long = [ledger.record(10_000).await, ledger.record(10_000).await];
        for id in &long {
            ledger.started(id, 1).await;
        }
        proxy.freeze();
        for _ in 0..40 {
            ledger.record(100).await;
        }
        tokio::time::sleep(Duration::from_secs(9)).await;
        let thawed = now_ms();
        proxy.restore();
        recovery.add(ledger.first_start_after(thawed).await);
    }
    let sums = ledger.close("connections frozen", Duration::from_secs(60)).await;
    println!("connections frozen: {freezes} times for 9 s, next task: {recovery}");
    assert_eq!(sums.duplicated, 0);
    assert!(sums.parked.is_empty());
    assert!(recovery.percentile(99) <= stretched_ms(5_000), "{recovery}");
    assert!(workers.iter().all(|worker| worker.count(GIVEN_UP) == 0));
}

/// A worker that is cut off for longer than its lease is given up while its task still runs: that task runs twice,
/// which cannot be told from a death. What must not happen twice is everything that follows from it.
async fn cut_off() {
    let scene = Scene::start();
    let proxy = ChaosProxy::start(scene.broker.port());
    let mut ledger = Ledger::open(&scene, "cut off");
    let mut task = ledger.task(6_000);
    let callback = ledger.link(&mut task);
    let lonely = scene.through(&proxy).worker("cut-off", 1).ready().await;
    let id = ledger.send(task).await;
    ledger.started(&id, 1).await;
    proxy.freeze();
    let other = scene.worker("other", 1).ready().await;
    let began = now_ms();
    ledger.started(&id, 2).await;
    println!("cut off: taken over after {} ms", now_ms() - began);
    proxy.restore();
    lonely.says("the delivery was not held any more", 1).await;
    let sums = ledger.close("cut off", SOON).await;
    assert_eq!((sums.runs[&id], sums.runs[&callback]), (2, 1));
    assert!(other.stop().await.success());
    // It is back: registered anew, and serving its queue.
    ledger.record(0).await;
    let sums = ledger.close("cut off, then back", SOON).await;
    assert_eq!(sums.duplicated, 1);
    assert_eq!(scene.ids_of(&lonely).await.len(), 1);
}

/// The network may deliver a claim long after the connection was given up: what was left in the buffers of a link
/// that was down. The server then records messages for a worker that never learns of them.
async fn late_claim() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "late claim");
    let worker = scene.worker("w", 1).ready().await;
    let id = ledger.record(0).await;
    ledger.close("before the late claim", SOON).await;
    let worker_id = eventually("the worker's id", SOON, async || {
        scene.ids_of(&worker).await.pop()
    })
    .await;

    let task = ledger.task(0);
    let (late, sent_ms) = (task.id.clone(), now_ms());
    let message = task.into_envelope("gen1@test", SystemClock.now()).to_json();
    let record = format!(r#"[{message}, "", "celery"]"#);
    let tag = format!("{worker_id}-77-1");
    let now = SystemClock.unix_seconds();
    let keys = Keys::default();
    // Python workers hold a lot, and renew none of it.
    let mut theirs = cmd("ZADD");
    theirs.arg(keys.unacked_index());
    for number in 0..2_500 {
        theirs.arg(now - 20.0).arg(format!("python-{number}"));
    }
    ask::<i64>(&scene.observer(), &theirs).await;
    ask::<i64>(
        &scene.observer(),
        cmd("ZADD").arg(keys.unacked_index()).arg(now - 30.0).arg(&tag),
    )
    .await;
    ask::<i64>(
        &scene.observer(),
        cmd("HSET").arg(keys.unacked()).arg(&tag).arg(record),
    )
    .await;
    ledger.count_in(&late);
    let sums = ledger.close("late claim", Duration::from_secs(60)).await;
    let back = ledger
        .starts()
        .await
        .iter()
        .find(|start| start.id == late)
        .map(|start| start.at_ms - sent_ms);
    println!("late claim: put back and started after {} ms", json!(back));
    assert_eq!((sums.runs[&id], sums.runs[&late]), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_partition_nothing_is_done_twice_and_no_claim_is_forgotten() {
    future::join3(Box::pin(cut_off()), Box::pin(late_claim()), Box::pin(gone_dead())).await;
}
