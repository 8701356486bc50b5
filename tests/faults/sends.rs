//! Tasks that send, are replaced or reject their message, and a worker that dies with them at a named point.
//!
//! What a task sends leaves with its outcome: nothing is sent twice, and nothing that its result names is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;

use redis::cmd;
use serde_json::Value;
use tradebot_base::clock::{Clock, SystemClock};
use tradebot_core::transport::publish;
use tradebot_test_support::eventually;
use tradebot_wire::body::Body;
use tradebot_wire::keys::{self, Keys};
use tradebot_wire::task_message::TaskMessage;

use crate::figures::sized;
use crate::ledger::QUEUE;
use crate::scene::{SOON, Scene, ask};

/// Tasks of each kind.
const EACH: usize = 5;

/// Sends the tasks; returns their ids.
async fn send(scene: &Scene, task: &str, key: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for _ in 0..EACH {
        let message = TaskMessage {
            task: task.to_owned(),
            queue: QUEUE.to_owned(),
            body: Body {
                args: vec![key.into()],
                ..Body::default()
            },
            ..TaskMessage::default()
        };
        let envelope = message.into_envelope("gen1@tests", SystemClock.now());
        let published = publish(&scene.observer(), &Keys::default(), QUEUE, &envelope).await;
        published.expect("a published message");
        ids.insert(envelope.id().to_owned());
    }
    ids
}

/// The results of these tasks, once all have ended.
async fn results(scene: &Scene, ids: &BTreeSet<String>) -> Vec<Value> {
    let connection = scene.results();
    eventually("all results", 2 * SOON, async || {
        let mut get = cmd("MGET");
        for id in ids {
            get.arg(keys::task_meta("", id));
        }
        let stored: Vec<Option<String>> = connection.command(&get).await.ok()?;
        let stored: Option<Vec<Value>> = stored
            .into_iter()
            .map(|document| serde_json::from_str(&document?).ok())
            .collect();
        stored.filter(|documents| documents.iter().all(|document| document["status"] == "SUCCESS"))
    })
    .await
}

async fn die_at(shared: &Scene, point: &str, passage: u8, elsewhere: bool) {
    let mut scene = shared.in_database(passage);
    if elsewhere {
        scene = scene.with_results_in(15);
    }
    let name = format!("{point}:{passage}");
    let key = |kind: &str| format!("sends:{name}:{elsewhere}:{kind}");
    let senders = send(&scene, "tests.send", &key("send")).await;
    let replaced = send(&scene, "tests.replace", &key("replace")).await;
    let rejected = send(&scene, "tests.reject", &key("reject")).await;

    let doomed = scene.with("FAILPOINT", &name).worker("doomed", 1);
    let status = doomed.ended(2 * SOON).await;
    assert_eq!(status.signal(), Some(6), "{name}: it did not die at its point");
    let heir = scene.worker("heir", 1);

    let named: BTreeSet<String> = results(&scene, &senders)
        .await
        .iter()
        .map(|document| document["result"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(named.len(), EACH, "{name}");
    for ids in [&named, &replaced, &rejected] {
        results(&scene, ids).await;
    }
    eventually("nothing waits", SOON, async || {
        let waiting: usize = ask(&scene.observer(), cmd("LLEN").arg(QUEUE)).await;
        let held: usize = ask(&scene.observer(), cmd("HLEN").arg("unacked")).await;
        (waiting + held == 0).then_some(())
    })
    .await;
    // A task that died while it ran may have run twice; no task has run that was not named.
    for (kind, expected) in [("send", &named), ("replace", &replaced), ("reject", &rejected)] {
        let runs: BTreeMap<String, u64> = ask(&scene.notebook(), cmd("HGETALL").arg(key(kind))).await;
        let ran: BTreeSet<String> = runs.keys().cloned().collect();
        assert_eq!(&ran, expected, "{name}: {kind}");
        let repeated: u64 = runs.values().map(|runs| runs - 1).sum();
        assert!(repeated <= 1, "{name}: {kind} {runs:?}");
    }
    assert!(heir.stop().await.success());
}

async fn at_each_passage(point: &str, elsewhere: bool) {
    let scene = Scene::start();
    for passage in sized(vec![1, 5, 9, 13], (1..=14).collect()) {
        die_at(&scene, point, passage, elsewhere).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_sends_survives_a_worker_that_dies_before_it_settles() {
    at_each_passage("returned", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_sends_is_not_sent_again_once_it_is_settled() {
    at_each_passage("settled", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_in_another_database_names_what_will_be_sent() {
    at_each_passage("result stored", true).await;
}
