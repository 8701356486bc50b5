//! Tasks that panic, and messages that kill their worker.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future;
use redis::cmd;
use serde_json::{Value, json};
use tradebot_test_support::eventually;
use tradebot_wire::keys::Keys;

use crate::ledger::{Ledger, QUEUE, plain};
use crate::scene::{SOON, Scene, Worker, ask, claim_one};

async fn crashes(scene: &Scene) -> BTreeMap<String, u64> {
    ask(&scene.observer(), cmd("HGETALL").arg(Keys::default().crashes())).await
}

async fn parked_count(scene: &Scene) -> usize {
    ask(&scene.observer(), cmd("LLEN").arg(Keys::default().parked())).await
}

/// What `parked list --json` shows.
fn parked_list(scene: &Scene) -> Vec<Value> {
    let lines = scene.parked(&["list", "--json"]);
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("one JSON object a line"))
        .collect()
}

/// Restarts a worker whenever it dies until so many messages are parked; gives the number of deaths.
async fn supervise_until_parked(scene: &Scene, concurrency: usize, parked: usize) -> (usize, Worker) {
    let mut deaths = 0;
    loop {
        let worker = scene.worker(&format!("s{deaths}"), concurrency);
        let done = eventually("a death or the last parked message", 2 * SOON, async || {
            if parked_count(scene).await >= parked {
                return Some(true);
            }
            (!worker.process.is_running()).then_some(false)
        })
        .await;
        if done {
            return (deaths, worker);
        }
        deaths += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_fails_its_task_and_nothing_else() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "panics");
    let mut panics = Vec::new();
    for _ in 0..10 {
        panics.push(ledger.send(plain("tests.panic", json!([]))).await);
        ledger.record(5).await;
    }
    let worker = scene.worker("w", 1);
    let sums = ledger.close("panics", SOON).await;
    assert_eq!(sums.duplicated, 0);
    for id in &panics {
        let result = ledger.result(id).await.expect("a stored result");
        assert_eq!(result["status"], "FAILURE");
        assert_eq!(result["result"]["exc_type"], "RuntimeError");
        let text = result["result"]["exc_message"][0].as_str().unwrap_or_default();
        assert!(text.contains("this task always panics"), "{result}");
    }
    assert!(worker.process.is_running());
    assert!(worker.stop().await.success());
}

/// Each of two such messages costs three workers, no more and no less, although the worker that puts one back may
/// be killed by it in the middle of putting back the other.
async fn killers() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "poison");
    let mut poison = Vec::new();
    for _ in 0..2 {
        poison.push(ledger.send(plain("tests.exit", json!([]))).await);
        for _ in 0..5 {
            ledger.record(5).await;
        }
    }
    let (deaths, worker) = supervise_until_parked(&scene, 1, 2).await;
    let sums = ledger.close("poison", SOON).await;
    println!("poison: {deaths} deaths");
    assert_eq!(deaths, 6);
    assert_eq!(sums.duplicated, 0, "the others ran once");
    assert_eq!(sums.parked.len(), 2);
    assert!(crashes(&scene).await.is_empty(), "nothing is counted any more");

    let shown = parked_list(&scene);
    for id in &poison {
        let entry = shown.iter().find(|entry| entry.to_string().contains(id.as_str()));
        let entry = entry.expect("the list shows it");
        assert_eq!(entry["reason"], "3 workers died while they ran this message");
        assert_eq!(entry["queue"], QUEUE);
        let result = ledger.result(id).await.expect("a stored result");
        assert_eq!(
            (&result["status"], &result["result"]["exc_type"]),
            (&json!("FAILURE"), &json!("WorkerLostError"))
        );
        assert_eq!(
            result["result"]["exc_message"],
            json!(["3 workers died while they ran this message"])
        );
    }
    let first = shown[0]["id"].as_str().expect("an id");
    assert!(scene.parked(&["drop", &first[..8]]).contains("dropped"));
    assert_eq!(parked_count(&scene).await, 1);
    assert!(scene.parked(&["drop", "--all"]).contains("dropped"));
    assert!(scene.parked(&["list"]).contains("nothing is parked"));
    assert!(worker.process.is_running(), "the worker goes on");
}

/// A worker with four slots dies with four messages, and it is not to be seen which of them did it. Those that merely
/// ran beside the one that kills are run again until they succeed, however often they were beside it.
async fn bystanders() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "beside poison");
    for _ in 0..3 {
        ledger.record(1_500).await;
    }
    let poison = ledger.send(plain("tests.exit", json!([700]))).await;
    for _ in 0..9 {
        ledger.record(100).await;
    }
    let (deaths, _worker) = supervise_until_parked(&scene, 4, 1).await;
    let sums = ledger.close("beside poison", 2 * SOON).await;
    println!("beside poison: {deaths} deaths");
    assert_eq!(deaths, 3);
    assert_eq!(sums.parked.into_iter().collect::<Vec<_>>(), [poison]);
    let most = sums.runs.values().max().copied().unwrap_or_default();
    assert!(most <= 3, "a bystander ran {most} times");
    eventually("an empty count", SOON, async || {
        crashes(&scene).await.is_empty().then_some(())
    })
    .await;
}

/// Sends a message that two workers died with, as it comes back from the second.
async fn suspect(scene: &Scene, ledger: &mut Ledger, milliseconds: u64) -> String {
    let mut task = ledger.task(milliseconds);
    task.headers.insert("redelivered".into(), true.into());
    let id = ledger.send(task).await;
    let sent: String = ask(&scene.observer(), cmd("LINDEX").arg(QUEUE).arg(0)).await;
    let sent: Value = serde_json::from_str(&sent).expect("a message is JSON");
    assert_eq!(sent["headers"]["id"], id.as_str());
    let tag = sent["properties"]["delivery_tag"].as_str().expect("a tag");
    let count = Keys::default().crashes();
    ask::<i64>(&scene.observer(), cmd("HSET").arg(count).arg(tag).arg(2)).await;
    id
}

/// Two such messages run one after the other and beside nothing, and hold up no stop while they wait for that.
async fn alone() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "alone");
    let long = ledger.record(2_500).await;
    let suspects = [
        suspect(&scene, &mut ledger, 700).await,
        suspect(&scene, &mut ledger, 700).await,
    ];
    for _ in 0..5 {
        ledger.record(50).await;
    }
    let stopped = scene.worker("stopped", 3).ready().await;
    stopped.says("it runs alone", 2).await;
    assert!(stopped.stop().await.success());
    let kept = ledger.kept().await;
    assert!(
        suspects
            .iter()
            .all(|id| kept.iter().any(|text| text.contains(id.as_str())))
    );
    let starts = ledger.starts().await;
    assert!(
        starts.iter().all(|start| !suspects.contains(&start.id)),
        "it started beside the long one"
    );

    let again = ledger.record(2_500).await;
    let worker = scene.worker("alone", 3);
    let sums = ledger.close("alone", SOON).await;
    assert_eq!((sums.duplicated, sums.parked.len()), (0, 0));
    let starts = ledger.starts().await;
    let at = |id: &String| {
        starts
            .iter()
            .find(|start| start.id == *id)
            .expect("a start")
            .at_ms
    };
    for id in &suspects {
        let alone = at(id)..at(id) + 700;
        let beside = starts
            .iter()
            .filter(|start| start.id != *id && alone.contains(&start.at_ms));
        assert_eq!(beside.count(), 0, "tasks that started beside it");
        for long in [&long, &again] {
            assert!(
                !(at(long)..at(long) + 2_500).contains(&at(id)),
                "it started beside a long one"
            );
        }
    }
    assert!(worker.stop().await.success());
    assert!(crashes(&scene).await.is_empty());
}

/// Kills the worker that runs `id`, so many times, each time with a new one at hand.
async fn kill_while_running(scene: &Scene, ledger: &Ledger, id: &str, deaths: u64) -> Worker {
    let mut worker = scene.worker("k0", 1);
    for death in 1..=deaths {
        ledger.started(id, death).await;
        worker.kill().await;
        worker = scene.worker(&format!("k{death}"), 1);
    }
    worker
}

/// The count belongs to the message and ends with it.
async fn forgotten_by_success(scene: &Scene) {
    let mut ledger = Ledger::open(scene, "forgotten");
    let id = ledger.record(1_500).await;
    let _worker = kill_while_running(scene, &ledger, &id, 2).await;
    ledger.started(&id, 3).await;
    assert_eq!(crashes(scene).await.into_values().collect::<Vec<_>>(), [2]);
    let sums = ledger.close("killed twice", SOON).await;
    assert_eq!(sums.runs[&id], 3);
    eventually("an empty count", SOON, async || {
        crashes(scene).await.is_empty().then_some(())
    })
    .await;
}

/// A parked message that is replayed begins anew.
async fn replayed(scene: &Scene) {
    let mut ledger = Ledger::open(scene, "replayed");
    let id = ledger.record(1_500).await;
    let _worker = kill_while_running(scene, &ledger, &id, 3).await;
    let sums = ledger.close("killed three times", 2 * SOON).await;
    assert!(sums.parked.contains(&id));
    let shown = parked_list(scene);
    assert_eq!(shown[0]["reason"], "3 workers died while they ran this message");
    assert!(
        crashes(scene).await.is_empty(),
        "a parked message is not counted any more"
    );
    let parked_id = shown[0]["id"].as_str().expect("an id");
    assert!(scene.parked(&["replay", parked_id]).contains("replayed"));
    let sums = ledger.close("killed three times, replayed", SOON).await;
    assert_eq!((sums.runs[&id], sums.parked.len()), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_parked_after_the_third_death_unless_it_succeeds_before() {
    let scene = Scene::start();
    let (first, second) = (scene.in_database(1), scene.in_database(2));
    let all = future::join5(
        killers(),
        Box::pin(bystanders()),
        Box::pin(alone()),
        forgotten_by_success(&first),
        replayed(&second),
    );
    Box::pin(all).await;
}

/// All survivors find a dead worker at about the same time, above all after Redis was away for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_death_counts_once_however_many_survivors_see_it() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "survivors");
    let (dead, survivors) = (scene.transport(), [(); 8].map(|()| scene.transport()));
    for death in 1..=20 {
        let id = ledger.record(0).await;
        let claim = claim_one(&dead, &["tests.record".to_owned()]).await;
        assert_eq!(claim.expect("a claim").claimed.len(), 1);
        let restored = survivors.iter().map(|one| one.restore_worker(dead.worker_id()));
        future::try_join_all(restored).await.expect("Redis answers");
        let counts = crashes(&scene).await;
        assert!(
            counts.values().all(|count| *count == 1),
            "{counts:?} after {death} deaths"
        );
        assert_eq!(counts.len(), death);
        let queued: Vec<String> = ask(&scene.observer(), cmd("LRANGE").arg(QUEUE).arg(0).arg(-1)).await;
        assert_eq!(queued.len(), 1);
        assert!(queued[0].contains(&id));
        ask::<u64>(&scene.observer(), cmd("DEL").arg(QUEUE)).await;
    }
    let remembered: i64 = ask(&scene.observer(), cmd("TTL").arg(Keys::default().crashes())).await;
    assert!((1..=7 * 86_400).contains(&remembered), "{remembered} s");
}

/// A worker that is started again and again takes no more than the tests' own patience.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_messages_go_on_while_one_kills_its_workers() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "bystanders");
    let poison = ledger.send(plain("tests.exit", json!([]))).await;
    let steady = scene.worker("steady", 1).ready().await;
    eventually("the first death", SOON, async || {
        (!steady.process.is_running()).then_some(())
    })
    .await;
    let _heir = scene.worker("heir", 1).ready().await;
    for _ in 0..20 {
        ledger.record(20).await;
    }
    ledger.write_off(&poison);
    let waiting = Duration::from_secs(7);
    let done = eventually("the other messages' results", waiting, async || {
        (ledger.starts().await.len() == 20).then_some(())
    });
    done.await;
}
