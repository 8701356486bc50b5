//! Messages that a worker holds until their `eta`.

use std::time::Duration;

use chrono::TimeDelta;
use futures_util::future;
use redis::cmd;
use tradebot_base::clock::{Clock, SystemClock};
use tradebot_test_support::{ChaosProxy, eventually, stretched};
use tradebot_wire::keys::Keys;

use crate::figures::stretched_ms;
use crate::ledger::{Ledger, QUEUE, Sums, now_ms};
use crate::scene::{SOON, Scene, ask};

/// Sends so many tasks that are due in so many seconds; milliseconds at which they are due.
async fn due_in(ledger: &mut Ledger, seconds: u32, count: usize) -> u64 {
    let eta = SystemClock.now() + TimeDelta::seconds(i64::from(seconds));
    for _ in 0..count {
        let mut task = ledger.task(0);
        task.eta = Some(eta);
        ledger.send(task).await;
    }
    u64::try_from(eta.timestamp_millis()).expect("a time after 1970")
}

/// Says that the machine was too slow for the window of a scenario to show anything.
struct TooLate;

/// Runs a scenario that has to get something done before its messages are due, and again with a window twice
/// as long where it did not get there in time.
async fn in_a_window(scenario: impl AsyncFn(u32) -> Result<(), TooLate>) {
    for stretch in [1, 2, 4] {
        if scenario(stretch).await.is_ok() {
            return;
        }
        println!("a window was too short, stretched {stretch} times");
    }
    panic!("the machine is too slow to get there even in a window stretched four times");
}

/// Whether there is still time until then.
fn still_before(due_ms: u64) -> Result<(), TooLate> {
    if now_ms() < due_ms { Ok(()) } else { Err(TooLate) }
}

async fn held(scene: &Scene) -> usize {
    ask(&scene.observer(), cmd("HLEN").arg(Keys::default().unacked())).await
}

/// Waits until so many messages are held, all of them before they are due.
async fn until_held(scene: &Scene, count: usize, due_ms: u64) -> Result<(), TooLate> {
    let what = format!("{count} records in unacked");
    let all_or_late = async || match still_before(due_ms) {
        Ok(()) => (held(scene).await == count).then_some(Ok(())),
        late => Some(late),
    };
    eventually(&what, 4 * SOON, all_or_late).await
}

/// Every task ran once, none before its time and all soon after.
async fn punctual(scenario: &str, ledger: &Ledger, sums: &Sums, due_ms: u64) {
    assert_eq!(sums.duplicated, 0, "{scenario}");
    assert!(sums.parked.is_empty(), "{scenario}");
    let starts = ledger.starts().await;
    let early = starts.iter().filter(|start| start.at_ms < due_ms).count();
    assert_eq!(early, 0, "{scenario}: tasks that ran before their time");
    let late = starts
        .iter()
        .map(|start| start.at_ms - due_ms)
        .max()
        .unwrap_or_default();
    println!("{scenario}: the last one {late} ms after its time");
    // Hundreds of them share one slot: what is bounded here is a busy machine, not a promise.
    assert!(
        u128::from(late) <= stretched(SOON).as_millis(),
        "{scenario}: {late} ms late"
    );
}

async fn stopped(stretch: u32) -> Result<(), TooLate> {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "etas and a stop");
    let due = due_in(&mut ledger, 5 * stretch, 20).await;
    let first = scene.worker("first", 1).ready().await;
    until_held(&scene, 20, due).await?;
    assert!(first.stop().await.success());
    still_before(due)?;
    assert_eq!(held(&scene).await, 0);
    let queued: Vec<String> = ask(&scene.observer(), cmd("LRANGE").arg(QUEUE).arg(0).arg(-1)).await;
    assert_eq!(queued.len(), 20);
    assert!(
        queued
            .iter()
            .all(|message| message.contains(r#""redelivered": true"#))
    );
    let _second = scene.worker("second", 1);
    let sums = ledger.close("etas and a stop", stretch * SOON).await;
    punctual("etas and a stop", &ledger, &sums, due).await;
    Ok(())
}

/// Nothing of it ran, so no death is counted against it either.
async fn killed(stretch: u32) -> Result<(), TooLate> {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "etas and a kill");
    let due = due_in(&mut ledger, 13 * stretch, 20).await;
    let first = scene.worker("first", 1).ready().await;
    until_held(&scene, 20, due).await?;
    first.kill().await;
    still_before(due)?;
    let second = scene.worker("second", 1).ready().await;
    second
        .says("restored the messages of a worker that is gone", 1)
        .await;
    let counted: u64 = ask(&scene.observer(), cmd("HLEN").arg(Keys::default().crashes())).await;
    assert_eq!(counted, 0);
    let sums = ledger.close("etas and a kill", stretch * SOON).await;
    punctual("etas and a kill", &ledger, &sums, due).await;
    Ok(())
}

/// Messages that are due and wait for a slot did not kill the worker: only the one that runs is counted.
async fn killed_when_due(stretch: u32) -> Result<(), TooLate> {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "due etas and a kill");
    let eta = SystemClock.now() + TimeDelta::seconds(i64::from(3 * stretch));
    let due_ms = u64::try_from(eta.timestamp_millis()).expect("a time after 1970");
    for _ in 0..10 {
        let mut task = ledger.task(400);
        task.eta = Some(eta);
        ledger.send(task).await;
    }
    let first = scene.worker("first", 1).ready().await;
    until_held(&scene, 10, due_ms).await?;
    ledger.first_start_after(0).await;
    first.kill().await;
    let second = scene.worker("second", 1).ready().await;
    second
        .says("restored the messages of a worker that is gone", 1)
        .await;
    let counted: Vec<u64> = ask(&scene.observer(), cmd("HVALS").arg(Keys::default().crashes())).await;
    assert!(counted.iter().sum::<u64>() <= 1, "{counted:?}");
    let sums = ledger.close("due etas and a kill", 2 * stretch * SOON).await;
    assert!(sums.duplicated <= 1, "{}", sums.duplicated);
    assert!(sums.parked.is_empty());
    eventually("no marks of started messages any more", SOON, async || {
        let marks: Vec<String> = ask(&scene.observer(), cmd("KEYS").arg("tradebot-symbols:started:*")).await;
        marks.is_empty().then_some(())
    })
    .await;
    Ok(())
}

async fn beside_other_work(stretch: u32) -> Result<(), TooLate> {
    let scene = Scene::start();
    let mut waiting = Ledger::open(&scene, "500 etas");
    let due = due_in(&mut waiting, 8 * stretch, 500).await;
    let worker = scene.worker("w", 1).ready().await;
    until_held(&scene, 500, due).await?;
    let mut others = Ledger::open(&scene, "others");
    for _ in 0..50 {
        others.record(10).await;
    }
    let done = async || (others.starts().await.len() == 50).then_some(());
    eventually("the other messages", SOON, done).await;
    still_before(due)?;
    let sums = waiting.close("500 etas", 3 * stretch * SOON).await;
    punctual("500 etas", &waiting, &sums, due).await;
    others.close("others", SOON).await;
    assert!(worker.process.is_running());
    Ok(())
}

/// Putting back what a dead worker held takes a step per message. Over a slow link hundreds of them take longer than
/// a lease, and the restorer must not be given up for its work.
async fn on_the_way_back(stretch: u32) -> Result<(), TooLate> {
    const WAITING: usize = 700;
    let scene = Scene::start();
    let proxy = ChaosProxy::start(scene.broker.port());
    let mut waiting = Ledger::open(&scene, "restored in numbers");
    let due = due_in(&mut waiting, 27 * stretch, WAITING).await;
    let dead = scene.worker("dead", 1).ready().await;
    until_held(&scene, WAITING, due).await?;
    let restorer = scene.through(&proxy).worker("restorer", 2).ready().await;
    dead.kill().await;
    let mut running = Ledger::open(&scene, "on the restorer");
    let id = running.record(18_000).await;
    running.started(&id, 1).await;
    proxy.delay(Duration::from_millis(12));
    eventually("the first restored message", SOON, async || {
        (scene.records_of(&dead).await.len() < WAITING).then_some(())
    })
    .await;
    // Several, so that one of them looks soon after the lease of the restorer has run out.
    let mut witnesses = Vec::new();
    for number in 1..=3 {
        witnesses.push(scene.worker(&format!("witness{number}"), 1).ready().await);
    }
    let sums = running.close("on the restorer", 2 * SOON).await;
    assert_eq!(
        sums.duplicated,
        0,
        "the restorer was given up:\n{}",
        witnesses
            .iter()
            .map(|one| one.process.output())
            .collect::<String>()
    );
    proxy.delay(Duration::ZERO);
    let sums = waiting.close("restored in numbers", 2 * stretch * SOON).await;
    punctual("restored in numbers", &waiting, &sums, due).await;
    assert!(restorer.process.is_running());
    Ok(())
}

/// A worker that holds as many as it may leaves the others where they are, in any spelling of their time, and goes on
/// with what is due: other messages and theirs.
async fn beyond_the_bound(stretch: u32) -> Result<(), TooLate> {
    const BOUND: usize = 5;
    let scene = Scene::start().with("CELERY_WORKER_ETA_TASK_LIMIT", BOUND.to_string());
    let mut held_ones = Ledger::open(&scene, "held");
    let last_due = due_in(&mut held_ones, 14 * stretch, 20).await;
    let mut left = Ledger::open(&scene, "left in the queue");
    let due = SystemClock.now() + TimeDelta::seconds(i64::from(7 * stretch));
    let due_ms = u64::try_from(due.timestamp_millis()).expect("a time after 1970");
    for offset in ["", "Z", "+00:00", "+05:30", "-0330"] {
        for _ in 0..4 {
            let mut task = left.task(0);
            task.headers.insert("eta".into(), spelled(due, offset).into());
            left.send(task).await;
        }
    }
    let worker = scene.worker("w", 2).ready().await;
    worker.says("as many messages with an eta as it may", 1).await;
    let mut others = Ledger::open(&scene, "beside the bound");
    for _ in 0..20 {
        others.record(10).await;
    }
    let done = async || (others.starts().await.len() == 20).then_some(());
    eventually("messages without an eta", SOON, done).await;
    still_before(due_ms)?;

    let before = scripts(&scene).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let rate = scripts(&scene).await - before;
    println!("beyond the bound: {rate} scripts in two seconds");
    still_before(due_ms)?;
    assert!(rate <= 20, "{rate} scripts in two seconds");
    assert!(held(&scene).await <= BOUND, "{}", held(&scene).await);
    let queued: Vec<String> = ask(&scene.observer(), cmd("LRANGE").arg(QUEUE).arg(0).arg(-1)).await;
    assert!(queued.iter().all(|message| !message.contains("redelivered")));

    let sums = left.close("left in the queue", stretch * SOON).await;
    punctual("left in the queue", &left, &sums, due_ms).await;
    // A worker looks for them once a second.
    let first = left.starts().await.iter().map(|start| start.at_ms - due_ms).min();
    assert!(
        first.is_some_and(|late| late <= stretched_ms(2_500)),
        "the first one {first:?} ms late"
    );
    // They ran before those that were held.
    still_before(last_due)?;
    let sums = held_ones.close("held", stretch * SOON).await;
    punctual("held", &held_ones, &sums, last_due).await;
    others.close("beside the bound", SOON).await;
    assert_eq!(worker.count("as many messages with an eta as it may"), 1);
    Ok(())
}

/// A time as Python may write it: with this offset, or without any.
fn spelled(time: chrono::DateTime<chrono::Utc>, offset: &str) -> String {
    let minutes = match offset {
        "+05:30" => 330,
        "-0330" => -210,
        _ => 0,
    };
    let local = time.naive_utc() + TimeDelta::minutes(minutes);
    format!("{}{offset}", local.format("%Y-%m-%dT%H:%M:%S%.6f"))
}

/// How many scripts the server has run.
async fn scripts(scene: &Scene) -> u64 {
    let info: String = ask(&scene.observer(), cmd("INFO").arg("commandstats")).await;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_waits_is_lost_by_no_stop_and_no_kill_and_holds_up_nothing() {
    let stopped_or_killed = future::join3(
        Box::pin(in_a_window(stopped)),
        Box::pin(in_a_window(killed)),
        Box::pin(in_a_window(killed_when_due)),
    );
    let in_numbers = future::join3(
        Box::pin(in_a_window(beside_other_work)),
        Box::pin(in_a_window(on_the_way_back)),
        Box::pin(in_a_window(beyond_the_bound)),
    );
    future::join(stopped_or_killed, in_numbers).await;
}
