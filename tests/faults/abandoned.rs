//! kombu's own restore: deliveries that no worker has renewed for the visibility timeout.

use std::time::Duration;

use futures_util::{StreamExt, future};
use redis::cmd;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tradebot_base::clock::{Clock, SystemClock};
use tradebot_core::transport::Overdue;
use tradebot_test_support::{Process, bin, eventually};
use tradebot_wire::keys::{Keys, SEP};
use tradebot_wire::task_message::TaskMessage;

use crate::ledger::{Ledger, QUEUE, plain};
use crate::scene::{SOON, Scene, Worker, ask};

/// A scene whose workers and Python peers would take everything for abandoned after five seconds.
fn impatient() -> Scene {
    Scene::start().with("CELERY_VISIBILITY_TIMEOUT", "5")
}

/// A message that no worker here runs, so that it stays where it is put.
fn foreign(id: &str) -> String {
    let message = TaskMessage {
        id: id.to_owned(),
        ..plain("app.python_only", json!([]))
    };
    message.into_envelope("gen1@python", SystemClock.now()).to_json()
}

/// Writes a record as a Python worker does when it takes a message.
async fn take(scene: &Scene, tag: &str, record: &str, age_seconds: f64) {
    let taken = SystemClock.unix_seconds() - age_seconds;
    let keys = Keys::default();
    ask::<i64>(
        &scene.observer(),
        cmd("ZADD").arg(keys.unacked_index()).arg(taken).arg(tag),
    )
    .await;
    ask::<i64>(
        &scene.observer(),
        cmd("HSET").arg(keys.unacked()).arg(tag).arg(record),
    )
    .await;
}

async fn queue(scene: &Scene) -> Vec<String> {
    ask(&scene.observer(), cmd("LRANGE").arg(QUEUE).arg(0).arg(-1)).await
}

async fn records(scene: &Scene) -> (u64, u64) {
    let hash = ask(&scene.observer(), cmd("HLEN").arg("unacked")).await;
    let index = ask(&scene.observer(), cmd("ZCARD").arg("unacked_index")).await;
    (hash, index)
}

/// Waits until the message is back at the end that is served first, and gives it.
async fn served_next(scene: &Scene, id: &str) -> Value {
    let text = eventually(
        "a restored message at the front",
        Duration::from_secs(40),
        async || queue(scene).await.pop().filter(|message| message.contains(id)),
    )
    .await;
    serde_json::from_str(&text).expect("a message is JSON")
}

/// Watches for the next command that takes kombu's mutex, as `MONITOR` shows it.
async fn mutex_taken(scene: &Scene) -> JoinHandle<String> {
    let client = redis::Client::open(scene.broker.url()).expect("the URL of the harness is valid");
    let monitor = client
        .get_async_monitor()
        .await
        .expect("a connection that monitors");
    let mut lines = monitor.into_on_message::<String>();
    tokio::spawn(async move {
        while let Some(line) = lines.next().await {
            if line.contains(r#""SET" "unacked_mutex""#) {
                return line;
            }
        }
        panic!("the monitor ended by itself");
    })
}

/// What Python took, straight from its queue and through a named exchange, and did not renew.
async fn goes_back() {
    let scene = impatient();
    ask::<i64>(&scene.observer(), cmd("LPUSH").arg(QUEUE).arg(foreign("waiting"))).await;
    let binding = format!("{QUEUE}{SEP}{SEP}{QUEUE}");
    ask::<i64>(
        &scene.observer(),
        cmd("SADD").arg("_kombu.binding.bots").arg(binding),
    )
    .await;
    for (tag, id, exchange, age) in [
        ("aaa", "by-default-exchange", "", 70.0),
        ("bbb", "by-named-exchange", "bots", 60.0),
    ] {
        let record = format!(r#"[{}, "{exchange}", "{QUEUE}"]"#, foreign(id));
        take(&scene, tag, &record, age).await;
    }
    let mutex = mutex_taken(&scene).await;
    let worker = scene.worker("w", 1).ready().await;
    // As kombu does it, the one that was taken first is the one that is served first.
    let message = served_next(&scene, "by-default-exchange").await;
    assert_eq!(message["headers"]["redelivered"], true);
    assert_eq!(message["properties"]["delivery_info"]["redelivered"], true);
    let queued = queue(&scene).await;
    let ids = ["waiting", "by-named-exchange", "by-default-exchange"];
    assert_eq!(queued.len(), ids.len());
    for (message, id) in queued.iter().zip(ids) {
        assert!(message.contains(id), "{id}: {queued:?}");
    }
    assert_eq!(records(&scene).await, (0, 0));
    eventually("the mutex given back", SOON, async || {
        let mutex: Option<String> = ask(&scene.observer(), cmd("GET").arg("unacked_mutex")).await;
        mutex.is_none().then_some(())
    })
    .await;
    // A restorer that dies holds up the others for kombu's `unacked_mutex_expire` and no longer.
    let taken = mutex.await.expect("the mutex was taken");
    assert!(taken.contains(r#""NX" "PX" "300000""#), "{taken}");
    assert!(worker.process.is_running());
    println!("abandoned deliveries: sent 2 executed 0 duplicated 0 lost 0 parked 0");
}

/// kombu names a delivery by the tag of its message, each time it is taken. What looked abandoned may have been
/// restored and taken again by the time it is our turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_was_taken_again_meanwhile_is_left_alone() {
    let scene = Scene::start();
    let script = redis::Script::new(include_str!("../../src/core/transport/scripts/restore.lua"));
    let mut connection = scene.admin().await;
    let message = foreign("taken-again");
    let record = format!(r#"[{message}, "", "{QUEUE}"]"#);
    take(&scene, "tag", &record, 100.0).await;
    let keys = Keys::default();
    let score = async || -> f64 {
        ask(
            &scene.observer(),
            cmd("ZSCORE").arg(keys.unacked_index()).arg("tag"),
        )
        .await
    };
    let mut restore = async |seen: f64, message: &str| -> i64 {
        let mut call = script.prepare_invoke();
        for key in [&keys.unacked(), &keys.unacked_index(), QUEUE] {
            call.key(key);
        }
        for arg in ["0", "60", "tag", &seen.to_string(), message, "", "0"] {
            call.arg(arg);
        }
        let outcomes: Vec<i64> = call.invoke_async(&mut connection).await.expect("outcomes");
        outcomes[0]
    };
    let seen = score().await;
    take(&scene, "tag", &record, 0.0).await;
    assert_eq!(restore(seen, &message).await, 0);
    assert_eq!((records(&scene).await, queue(&scene).await.len()), ((1, 1), 0));
    // Nor is it cleared away as one without a record: it has one, and with the first score it is another delivery.
    for seen in [score().await, seen] {
        assert_eq!(restore(seen, "").await, 0);
        assert_eq!(records(&scene).await, (1, 1));
    }
    assert_eq!(restore(score().await, &message).await, 1);
    assert_eq!((records(&scene).await, queue(&scene).await.len()), ((0, 0), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_deliveries_are_restored_in_their_order_by_some_dozens_at_a_time() {
    const MANY: usize = 5_000;
    let scene = Scene::start();
    let mut connection = scene.admin().await;
    let sent: Vec<String> = (0..MANY).map(|number| foreign(&number.to_string())).collect();
    let mut records = redis::pipe();
    for (number, message) in sent.iter().enumerate() {
        let taken = 1_000 + u32::try_from(number).expect("a small number");
        let tag = format!("tag-{number}");
        // The last one has no record: its worker died between kombu's commands.
        if number + 1 < MANY {
            let record = format!(r#"[{message}, "", "{QUEUE}"]"#);
            records.hset("unacked", &tag, record).ignore();
        }
        records.zadd("unacked_index", &tag, taken).ignore();
    }
    records.query_async::<()>(&mut connection).await.expect("records");
    ask::<String>(&scene.observer(), cmd("CONFIG").arg("RESETSTAT")).await;
    let (transport, mut overdue) = (scene.transport(), Overdue::default());
    let timeout = Duration::from_secs(60);
    let first_look = transport.restore_timed_out(timeout, &mut overdue).await;
    assert!(first_look.expect("an answer") && queue(&scene).await.is_empty());
    while !transport
        .restore_timed_out(timeout, &mut overdue)
        .await
        .expect("an answer")
    {}
    let mut queued = queue(&scene).await;
    queued.reverse();
    let ids: Vec<String> = queued
        .iter()
        .map(|message| {
            let message: Value = serde_json::from_str(message).expect("a message");
            message["headers"]["id"].as_str().expect("an id").to_owned()
        })
        .collect();
    let expected: Vec<String> = (0..MANY - 1).map(|number| number.to_string()).collect();
    assert!(ids == expected, "{} messages, or in another order", ids.len());
    let left: (u64, u64) = (
        ask(&scene.observer(), cmd("HLEN").arg("unacked")).await,
        ask(&scene.observer(), cmd("ZCARD").arg("unacked_index")).await,
    );
    assert_eq!(left, (0, 0));
    let stats: String = ask(&scene.observer(), cmd("INFO").arg("commandstats")).await;
    let scripts = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    let scripts = scripts.and_then(|line| line.split(',').next()?.parse::<usize>().ok());
    assert!(
        scripts.is_some_and(|calls| calls < MANY / 40),
        "{scripts:?} scripts"
    );
}

/// The holder of the mutex is restoring. We may not delete the mutex; it expires by itself if the holder died.
async fn behind_a_held_mutex() {
    let scene = impatient();
    let held = Duration::from_secs(14);
    let mut take_mutex = cmd("SET");
    take_mutex
        .arg("unacked_mutex")
        .arg("theirs")
        .arg("PX")
        .arg(held.as_millis());
    ask::<String>(&scene.observer(), &take_mutex).await;
    let since = Instant::now();
    take(
        &scene,
        "ccc",
        &format!(r#"[{}, "", "{QUEUE}"]"#, foreign("kept")),
        60.0,
    )
    .await;
    let _worker = scene.worker("w", 1).ready().await;
    // The worker looks at its start and again ten seconds later.
    while since.elapsed() < held - Duration::from_millis(500) {
        let mutex: Option<String> = ask(&scene.observer(), cmd("GET").arg("unacked_mutex")).await;
        assert_eq!(mutex.as_deref(), Some("theirs"));
        assert_eq!(records(&scene).await, (1, 1));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    served_next(&scene, "kept").await;
    assert_eq!(records(&scene).await, (0, 0));
}

/// What is held is renewed, however long it takes, and so is what a single look finds too old: after a jump of the
/// clock, or a Redis that was away for longer than the visibility timeout, everything is.
async fn while_it_runs() {
    let scene = impatient();
    let mut ledger = Ledger::open(&scene, "long tasks");
    let holder = scene.worker("holder", 2).ready().await;
    let ids = [ledger.record(16_000).await, ledger.record(16_000).await];
    for id in &ids {
        ledger.started(id, 1).await;
    }
    let tags: Vec<String> = ask(&scene.observer(), cmd("HKEYS").arg("unacked")).await;
    for tag in &tags {
        let mut age = cmd("ZADD");
        age.arg("unacked_index")
            .arg("XX")
            .arg(SystemClock.unix_seconds() - 60.0)
            .arg(tag);
        ask::<i64>(&scene.observer(), &age).await;
    }
    let witness = scene.worker("witness", 2).ready().await;
    let sums = ledger.close("long tasks", 2 * SOON).await;
    assert_eq!(sums.duplicated, 0);
    assert!(holder.stop().await.success());
    assert!(witness.stop().await.success());
}

/// Runs `parked ARGS` where it is to fail, and gives what it says.
fn refused(scene: &Scene, args: &[&str]) -> String {
    let process = Process::builder(bin("tradebot-symbols"))
        .arg("parked")
        .args(args)
        .env("CELERY_BROKER_URL", scene.broker.url())
        .spawn();
    assert!(!process.wait_exit(SOON).success());
    process.stderr()
}

/// A Python worker that meets such a record at its start exits. A record whose message only Python reads is restored as
/// kombu does it.
async fn is_parked() {
    let scene = impatient();
    let damaged = [
        "not JSON",
        r#"["two", "elements"]"#,
        r#"[{"no": "message"}, "", "celery"]"#,
    ];
    for (number, record) in damaged.iter().enumerate() {
        take(&scene, &format!("damaged-{number}"), record, 60.0).await;
    }
    take(&scene, "fresh", "not JSON but not old either", -600.0).await;
    let pickled = r#"[{"body": "gAI=", "headers": {}, "properties": {}, "content-type": "application/x-python-serialize"}, "", "celery"]"#;
    let not_a_number = r#"[{"body": "", "headers": {"x": NaN}, "properties": {}}, "", "celery"]"#;
    take(&scene, "pickled", pickled, 60.0).await;
    take(&scene, "not-a-number", not_a_number, 60.0).await;
    let worker: Worker = scene.worker("w", 1).ready().await;
    eventually("three parked records", 2 * SOON, async || {
        (records(&scene).await == (1, 1)).then_some(())
    })
    .await;
    let mut restored = queue(&scene).await;
    restored.sort_unstable();
    let mut python = [
        pickled.replace(r#""headers": {}"#, r#""headers": {"redelivered": true}"#),
        not_a_number.replace("NaN", r#"NaN, "redelivered": true"#),
    ]
    .map(|record| record[1..record.len() - r#", "", "celery"]"#.len()].to_owned());
    python.sort_unstable();
    assert_eq!(restored, python);
    let shown = scene.parked(&["list", "--json"]);
    let entries: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).expect("one JSON object a line"))
        .collect();
    let mut messages: Vec<&str> = entries
        .iter()
        .filter_map(|entry| entry["message"].as_str())
        .collect();
    messages.sort_unstable();
    let mut expected = damaged;
    expected.sort_unstable();
    assert_eq!(messages, expected);
    assert!(
        entries
            .iter()
            .all(|entry| entry["reason"].as_str().is_some_and(|reason| !reason.is_empty()))
    );
    let id = entries[0]["id"].as_str().expect("an id");
    let refusal = refused(&scene, &["replay", id]);
    assert!(refusal.contains("came from no known queue"), "{refusal}");
    assert!(scene.parked(&["drop", "--all"]).contains("dropped"));
    assert!(worker.process.is_running());
    println!("damaged records: sent 3 executed 0 duplicated 0 lost 0 parked 3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_abandoned_goes_back_or_is_parked_and_what_is_held_is_left_alone() {
    let abandoned = future::join(Box::pin(goes_back()), Box::pin(is_parked()));
    let held = future::join(Box::pin(behind_a_held_mutex()), Box::pin(while_it_runs()));
    future::join(abandoned, held).await;
}
