//! Workers that are killed at any time.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures_util::future;
use tradebot_test_support::{Signal, seeded_rng};

use crate::figures::{Figures, sized, stretched_ms};
use crate::ledger::{Ledger, id_in_record, now_ms};
use crate::scene::{Scene, Worker};

/// A worker's end: when it was, and which messages it held.
struct Death {
    at_ms: u64,
    held: Vec<String>,
}

/// Kills a worker, and looks at what it held in the instant before.
async fn kill(scene: &Scene, victim: &Worker) -> Death {
    victim.process.signal(Signal::SIGSTOP);
    let records = scene.records_of(victim).await;
    let at_ms = now_ms();
    victim.kill().await;
    Death {
        at_ms,
        held: records.iter().map(|record| id_in_record(record)).collect(),
    }
}

/// So many kills of one of four workers, at random moments.
struct Kills {
    name: &'static str,
    kills: usize,
    messages: usize,
    longest_ms: u64,
    concurrency: usize,
}

/// Killed workers cost duplicates, at most one per slot and kill, and no message. What a killed worker held runs
/// again within seconds. A message is set aside only when three workers died that held it; those that had that
/// bad luck are replayed here and then run like the others.
async fn killed_at_random(plan: Kills) {
    let Kills { name, kills, .. } = plan;
    let mut rng = seeded_rng();
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, name);
    for _ in 0..plan.messages {
        ledger.record(rng.u64(100..=plan.longest_ms)).await;
    }
    let start = |number: usize| scene.worker(&format!("w{number}"), plan.concurrency);
    let mut workers: Vec<Worker> = (0..4).map(start).collect();
    let mut deaths = Vec::new();
    for kill_number in 0..kills {
        tokio::time::sleep(Duration::from_millis(rng.u64(300..=2_000))).await;
        let place = rng.usize(0..workers.len());
        deaths.push(kill(&scene, &workers[place]).await);
        workers[place] = start(4 + kill_number);
    }

    let patience = Duration::from_secs(sized(60, 600));
    let sums = ledger.close(name, patience).await;
    let hits = hits(&deaths);
    for id in &sums.parked {
        let hits = hits.get(id.as_str()).copied().unwrap_or_default();
        assert!(hits >= 3, "{id} was parked after {hits} deaths of its workers");
    }
    let bound = kills * plan.concurrency;
    assert!(
        sums.duplicated <= bound as u64,
        "{name}: {} duplicates, {kills} kills",
        sums.duplicated
    );

    let redelivery = redelivery(&ledger, &deaths).await;
    println!("{name}: {kills} kills, redelivery after a kill: {redelivery}");
    assert!(redelivery.count() > 0, "no kill hit a running message");
    assert!(redelivery.percentile(99) <= stretched_ms(15_000), "{redelivery}");

    if !sums.parked.is_empty() {
        scene.parked(&["replay", "--all"]);
        let sums = ledger.close(&format!("{name}, after replay"), patience).await;
        assert!(
            sums.parked.is_empty(),
            "parked again without a kill: {:?}",
            sums.parked
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_when_workers_are_killed_at_random() {
    let one_slot = Kills {
        name: "killed at random",
        kills: sized(6, 200),
        messages: sized(120, 2_000),
        longest_ms: sized(500, 800),
        concurrency: 1,
    };
    let four_slots = Kills {
        name: "killed at random, four slots",
        kills: sized(6, 50),
        messages: sized(200, 1_000),
        longest_ms: 1_500,
        concurrency: 4,
    };
    Box::pin(future::join(
        killed_at_random(one_slot),
        killed_at_random(four_slots),
    ))
    .await;
}

/// How many workers died that held a message.
fn hits(deaths: &[Death]) -> BTreeMap<&str, usize> {
    let mut hits = BTreeMap::new();
    for id in deaths.iter().flat_map(|death| &death.held) {
        *hits.entry(id.as_str()).or_default() += 1;
    }
    hits
}

/// Milliseconds from each kill to the next start of each message that the worker held. Where the next holder was
/// killed as well before it could start the message, that later kill is the one to measure from.
async fn redelivery(ledger: &Ledger, deaths: &[Death]) -> Figures {
    let mut starts: HashMap<String, Vec<u64>> = HashMap::new();
    for start in ledger.starts().await {
        starts.entry(start.id).or_default().push(start.at_ms);
    }
    let mut figures = Figures::default();
    for (number, death) in deaths.iter().enumerate() {
        for id in &death.held {
            let next_death = deaths[number + 1..].iter().find(|next| next.held.contains(id));
            let again = starts.get(id).into_iter().flatten().find(|at| **at > death.at_ms);
            // Its settlement may have been on the way when the worker died; then it does not run again.
            if let Some(again) = again
                && next_death.is_none_or(|next| next.at_ms > *again)
            {
                figures.add(again - death.at_ms);
            }
        }
    }
    figures
}
