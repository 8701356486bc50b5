//! Workers that get a stop signal while they have work.

use std::time::Duration;

use redis::cmd;
use tokio::time::Instant;
use tradebot_test_support::{Signal, seeded_rng, stretched};

use crate::figures::{Figures, sized, stretched_ms};
use crate::ledger::Ledger;
use crate::scene::{SOON, Scene, ask};

/// What `WORKER_SHUTDOWN_TIMEOUT_SECONDS` is without being set.
const DEADLINE: Duration = Duration::from_secs(8);

async fn records(scene: &Scene) -> u64 {
    ask(&scene.observer(), cmd("HLEN").arg("unacked")).await
}

/// A stop finishes what runs, hands the rest back, and leaves nothing for others to clean up: no message runs
/// twice, and the next worker goes on at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_stop_under_load_loses_nothing_and_repeats_nothing() {
    let rounds = sized(5, 50);
    let mut rng = seeded_rng();
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "stops");
    let mut stops = Figures::default();
    for round in 0..rounds {
        for _ in 0..30 {
            ledger.record(rng.u64(20..=400)).await;
        }
        let worker = scene.worker(&format!("w{round}"), 4).ready().await;
        tokio::time::sleep(Duration::from_millis(rng.u64(0..=800))).await;
        let asked = Instant::now();
        let status = worker.stop().await;
        let took = asked.elapsed();
        assert!(status.success(), "{status}");
        assert!(took < stretched(DEADLINE), "{took:?}");
        assert_eq!(records(&scene).await, 0, "records in unacked after a stop");
        assert_eq!(worker.count("cold stop"), 0, "one signal is a warm stop");
        stops.add(u64::try_from(took.as_millis()).expect("seconds"));
    }
    let last = scene.worker("last", 4);
    let sums = ledger.close("stopped under load", Duration::from_secs(60)).await;
    println!("stopped under load: stops: {stops}");
    assert_eq!(sums.duplicated, 0);
    assert!(sums.parked.is_empty());
    assert!(last.stop().await.success());
}

/// rusty-celery's loop hears the signal too, and ends at once when nothing runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_worker_takes_one_signal_for_one() {
    let scene = Scene::start();
    for number in 0..8 {
        let worker = scene.worker(&format!("w{number}"), 2).ready().await;
        let status = worker.stop().await;
        assert!(status.success(), "{status}");
        assert_eq!((worker.count("warm stop"), worker.count("cold stop")), (1, 0));
    }
    let left: u64 = ask(&scene.observer(), cmd("HLEN").arg("tradebot-symbols:workers")).await;
    assert_eq!(left, 0, "workers that are still registered");
}

/// A task that outlasts the deadline, or a second signal, is ended and goes back to the front of its queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_stop_hands_back_what_runs_and_exits_cleanly() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "cold stops");
    let long = [ledger.record(3_000).await, ledger.record(3_000).await];
    ledger.record(10).await;
    let cases = [
        (
            "deadline",
            scene.with("WORKER_SHUTDOWN_TIMEOUT_SECONDS", "1"),
            1,
            1_000..stretched_ms(5_000),
        ),
        ("second-signal", scene.clone(), 2, 0..stretched_ms(4_000)),
    ];
    for (run, (name, scene, signals, expected)) in (1..).zip(cases) {
        let worker = scene.worker(name, 2).ready().await;
        for id in &long {
            ledger.started(id, run).await;
        }
        let asked = Instant::now();
        for signal in 1..=signals {
            worker.process.signal(Signal::SIGTERM);
            worker
                .says(if signal == 1 { "warm stop" } else { "cold stop" }, 1)
                .await;
        }
        let status = worker.ended(SOON).await;
        let took = u64::try_from(asked.elapsed().as_millis()).expect("seconds");
        assert!(status.success(), "{name}: {status}");
        assert!(expected.contains(&took), "{name}: {took} ms");
        assert_eq!(records(&scene).await, 0, "{name}");
        let next: String = ask(&scene.observer(), cmd("LINDEX").arg("celery").arg(-1)).await;
        assert!(long.iter().any(|id| next.contains(id.as_str())), "{name}: {next}");
        assert!(next.contains(r#""redelivered": true"#), "{name}: {next}");
    }
    let last = scene.worker("last", 3);
    let sums = ledger.close("stopped cold", Duration::from_secs(30)).await;
    assert_eq!(sums.duplicated, 4, "two stops ended two tasks each");
    assert!(last.stop().await.success());
}
