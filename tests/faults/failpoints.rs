//! Workers that die at a named point while they process a message.
//!
//! One worker with one slot dies when it passes a point for the n-th time, and a second one takes over. `unacked`
//! shows what the dead worker held; the point determines how often each message may have run.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use futures_util::{StreamExt, future};
use tokio::sync::mpsc;

use crate::figures::sized;
use crate::ledger::{Ledger, id_in_record};
use crate::scene::{SOON, Scene};

/// Messages with a callback per case; each callback is a separate message.
const PAIRS: usize = 8;

/// What must be true of the message that the dead worker held.
#[derive(Clone, Copy)]
enum Held {
    /// It had not been started: it runs once.
    NotStarted,
    /// It had run and was not settled: it runs twice.
    HasRun,
    /// The point does not tell which step of which message it was: once or twice.
    Either,
    /// Nothing was held.
    Nothing,
}

#[derive(Clone, Copy)]
struct Case {
    point: &'static str,
    held: Held,
    results_elsewhere: bool,
}

const fn case(point: &'static str, held: Held) -> Case {
    Case {
        point,
        held,
        results_elsewhere: false,
    }
}

/// Dies at several passages of a point, each in a separate database.
async fn at_each_passage(case: Case) {
    let passages: Vec<u8> = sized(vec![1, 2, 3, 5, 8, 12], (1..=12).collect());
    let scene = Scene::start();
    let cases = passages.iter().map(|passage| die_at(&scene, &case, *passage));
    let duplicated: u64 = future::join_all(cases).await.into_iter().sum();
    // Callbacks are published once: they are among the messages whose runs were counted.
    println!(
        "died at `{}`: {} kills, duplicated {duplicated}",
        case.point,
        passages.len()
    );
    assert!(duplicated <= passages.len() as u64);
}

async fn die_at(shared: &Scene, case: &Case, passage: u8) -> u64 {
    let mut scene = shared.in_database(passage);
    if case.results_elsewhere {
        scene = scene.with_results_in(15);
    }
    let name = format!("{}:{passage}", case.point);
    let mut announced = announcements(&scene).await;
    let mut ledger = Ledger::open(&scene, &name);
    for _ in 0..PAIRS {
        let mut task = ledger.task(20);
        ledger.link(&mut task);
        ledger.send(task).await;
    }

    let doomed = scene.with("FAILPOINT", &name).worker("doomed", 1);
    let status = doomed.ended(2 * SOON).await;
    assert_eq!(status.signal(), Some(6), "{name}: it did not die at its point");
    let held: Vec<String> = unacked(&scene)
        .await
        .iter()
        .map(|record| id_in_record(record))
        .collect();
    let before: BTreeMap<_, _> = counts(&ledger, &held).await;

    let heir = scene.worker("heir", 1);
    let scenario = format!("died at `{}`:{passage}", case.point);
    let sums = ledger.close(&scenario, Duration::from_secs(60)).await;
    for (id, runs) in &sums.runs {
        let is_held = held.contains(id);
        let expected = match (is_held, case.held) {
            (false, _) => 1..=1,
            (true, Held::NotStarted) => 1..=1,
            (true, Held::HasRun) => 2..=2,
            (true, Held::Either) => 1 + before[id]..=1 + before[id],
            (true, Held::Nothing) => panic!("{name}: {id} is held after it was settled"),
        };
        assert!(
            expected.contains(runs),
            "{name}: {id} ran {runs} times, held: {is_held}"
        );
    }
    assert!(sums.parked.is_empty());
    assert!(heir.stop().await.success());

    let mut results: BTreeMap<String, usize> = BTreeMap::new();
    while let Ok(channel) = announced.try_recv() {
        *results.entry(channel).or_default() += 1;
    }
    for id in sums.runs.keys() {
        let stored = results.get(&format!("celery-task-meta-{id}"));
        assert_eq!(stored, Some(&1), "{name}: results stored for {id}");
    }
    sums.duplicated
}

async fn unacked(scene: &Scene) -> Vec<String> {
    crate::scene::ask(&scene.observer(), redis::cmd("HVALS").arg("unacked")).await
}

async fn counts(ledger: &Ledger, ids: &[String]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for id in ids {
        counts.insert(id.clone(), ledger.runs_of(id).await);
    }
    counts
}

/// The channels on which results are announced, one message per stored result.
async fn announcements(scene: &Scene) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for server in [&scene.broker, &scene.notes] {
        let client = redis::Client::open(server.url()).expect("the URL of the harness is valid");
        let mut listener = client.get_async_pubsub().await.expect("a connection for pub/sub");
        listener
            .psubscribe("celery-task-meta-*")
            .await
            .expect("PSUBSCRIBE");
        let sender = sender.clone();
        tokio::spawn(async move {
            let mut messages = listener.into_on_message();
            while let Some(message) = messages.next().await {
                // Fails when the case is over: the receiver is gone.
                let _ = sender.send(message.get_channel_name().to_owned());
            }
        });
    }
    receiver
}

/// From the claim to the first line of the task the message is in `unacked` and was not started.
const BEFORE_THE_START: [Case; 2] = [
    case("claimed", Held::NotStarted),
    case("started", Held::NotStarted),
];

/// The price of late acknowledgement: the one message whose task had returned runs again. Its result is stored
/// once and its callback published once all the same, also with results in another database, where there are two
/// steps: the second run finds the first one's result and leaves it.
const BEFORE_THE_SETTLEMENT: [Case; 2] = [
    case("returned", Held::HasRun),
    Case {
        results_elsewhere: true,
        ..case("result stored", Held::HasRun)
    },
];

/// Passages count every script: registering, claiming, settling and the heartbeat's.
const AROUND_ANY_SCRIPT: [Case; 2] = [
    case("script sent", Held::Either),
    case("script answered", Held::Either),
];

const AFTER_THE_SETTLEMENT: [Case; 1] = [case("settled", Held::Nothing)];

/// All at the same time: each mostly waits for its worker to be given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_at_any_point_loses_nothing_and_publishes_nothing_twice() {
    let cases = [
        &BEFORE_THE_START[..],
        &BEFORE_THE_SETTLEMENT,
        &AROUND_ANY_SCRIPT,
        &AFTER_THE_SETTLEMENT,
    ];
    future::join_all(cases.concat().into_iter().map(at_each_passage)).await;
}
