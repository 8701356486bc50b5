//! Chords whose workers die: the body runs exactly once.

use futures_util::future;
use redis::cmd;
use serde_json::{Value, json};
use tradebot_wire::keys;
use uuid::Uuid;

use crate::figures::sized;
use crate::ledger::{Ledger, QUEUE};
use crate::scene::{SOON, Scene, ask};

/// Tasks in a header.
const PARTS: usize = 6;
/// A queue for a body that is not to run, and die, with the worker that ends the chord.
const BODIES: &str = "bodies";

/// A chord of `tests.record`, sent as a client sends it.
struct Chord {
    group: String,
    body: String,
}

impl Chord {
    /// The body goes to `queue`.
    async fn send(scene: &Scene, ledger: &mut Ledger, queue: &str) -> Self {
        let (group, id) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let body = json!({
            "task": "tests.record", "args": ledger.task(0).body.args, "kwargs": {}, "immutable": true,
            "options": {"task_id": id, "queue": queue}, "subtask_type": null,
        });
        let chord = Self { group, body: id };
        for index in 0..PARTS {
            if index + 1 == PARTS {
                ask::<()>(&scene.results(), cmd("SET").arg(chord.key(".s")).arg(PARTS)).await;
            }
            let mut part = ledger.task(10);
            part.headers = json!({"group": chord.group, "group_index": index})
                .as_object()
                .cloned()
                .expect("an object");
            part.body.embed.insert("chord".into(), body.clone());
            ledger.send(part).await;
        }
        ledger.count_in(&chord.body);
        chord
    }

    fn key(&self, suffix: &str) -> String {
        keys::group_meta("", &self.group, suffix)
    }

    /// Seconds for which the note of who has ended the chord is kept; -2 without one.
    async fn note_expires_in(&self, scene: &Scene) -> i64 {
        ask(&scene.results(), cmd("TTL").arg(self.key(".c"))).await
    }

    /// What is left of the chord: its parts, its size, and who has ended it.
    async fn left(&self, scene: &Scene) -> (usize, Option<usize>, Option<String>) {
        let results = scene.results();
        (
            ask(&results, cmd("ZCARD").arg(self.key(".j"))).await,
            ask(&results, cmd("GET").arg(self.key(".s"))).await,
            ask(&results, cmd("GET").arg(self.key(".c"))).await,
        )
    }
}

async fn die_at(scene: Scene, point: &str, results_elsewhere: bool) {
    let mut ledger = Ledger::open(&scene, point);
    let chord = Chord::send(&scene, &mut ledger, BODIES).await;
    let doomed = scene.with("FAILPOINT", point).worker("doomed", 2);
    doomed.ended(2 * SOON).await;
    // A worker that dies with the complete header keeps others from it for as long.
    let claimed = chord.note_expires_in(&scene).await;
    assert!(claimed <= 5 || point != "chord complete", "{claimed} s");
    let heir = scene.worker_of(&format!("{QUEUE},{BODIES}"), "heir", 2);
    let sums = ledger.close(&format!("chord, died at `{point}`"), 3 * SOON).await;
    assert_eq!(sums.runs[&chord.body], 1, "{point}: runs of the body");
    // Where the results are elsewhere a chord is ended after the acknowledgement: its keys may be left to expire.
    if !results_elsewhere {
        let left = chord.left(&scene).await;
        assert_eq!(left, (0, None, Some("done".into())), "{point}");
        let remembered = chord.note_expires_in(&scene).await;
        assert!((1..=300).contains(&remembered), "{point}: {remembered} s");
    }
    assert!(heir.stop().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chord_whose_last_worker_dies_ends_once() {
    let scene = Scene::start();
    let points = [
        ("chord complete", 1, false),
        ("chord ended", 2, false),
        ("chord complete", 3, true),
    ];
    let cases = points.map(|(point, database, elsewhere)| {
        let scene = scene.in_database(database);
        let scene = if elsewhere {
            scene.with_results_in(14)
        } else {
            scene
        };
        die_at(scene, point, elsewhere)
    });
    future::join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chord_loses_nothing_whichever_script_its_worker_dies_at() {
    let passages: Vec<u8> = sized(vec![5, 7, 9, 11], (3..=14).collect());
    for (point, elsewhere) in [("script answered", false), ("script sent", true)] {
        let scene = Scene::start();
        let cases = passages.iter().map(async |passage| {
            let scene = scene.in_database(*passage);
            let scene = if elsewhere {
                scene.with_results_in(15)
            } else {
                scene
            };
            die_at(scene, &format!("{point}:{passage}"), elsewhere).await;
        });
        future::join_all(cases).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_runs_again_counts_once_and_a_late_one_not_at_all() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "again");
    let chord = Chord::send(&scene, &mut ledger, QUEUE).await;
    // Every message twice, as after a restore that came too early.
    let twice: Vec<String> = ask(&scene.observer(), cmd("LRANGE").arg(QUEUE).arg(0).arg(-1)).await;
    ask::<()>(&scene.observer(), cmd("LPUSH").arg(QUEUE).arg(&twice)).await;
    let worker = scene.worker("w", 2);
    let sums = ledger.close("chord, every part twice", SOON).await;
    assert_eq!(sums.runs[&chord.body], 1);
    assert_eq!(sums.duplicated, PARTS as u64);
    let late: Vec<String> = twice.into_iter().take(1).collect();
    ask::<()>(&scene.observer(), cmd("LPUSH").arg(QUEUE).arg(&late)).await;
    let sums = ledger.close("chord, one part late", SOON).await;
    assert_eq!(sums.runs[&chord.body], 1);
    assert_eq!(chord.left(&scene).await, (0, None, Some("done".into())));
    assert!(worker.stop().await.success());
}

/// A worker that is not ours has claimed the complete header and died; until its claim is over it may be alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_of_another_worker_is_waited_for() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "claimed");
    let chord = Chord::send(&scene, &mut ledger, QUEUE).await;
    let mut claim = cmd("SET");
    claim
        .arg(chord.key(".c"))
        .arg("0123456789abcdef")
        .arg(&["PX", "3000"]);
    ask::<()>(&scene.results(), &claim).await;
    let worker = scene.worker("w", 2);
    let sums = ledger.close("chord, claimed by another", SOON).await;
    assert_eq!(sums.runs[&chord.body], 1);
    assert_eq!(chord.left(&scene).await, (0, None, Some("done".into())));
    assert!(worker.stop().await.success());
}

/// A chord whose keys hold something else fails once, and its tasks succeed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_another_type_hold_nothing_up() {
    let scene = Scene::start();
    let mut ledger = Ledger::open(&scene, "broken");
    let chord = Chord::send(&scene, &mut ledger, QUEUE).await;
    ledger.write_off(&chord.body);
    ask::<()>(&scene.results(), cmd("SET").arg(chord.key(".j")).arg("odd")).await;
    let worker = scene.worker("w", 2);
    let sums = ledger.close("chord, broken keys", SOON).await;
    assert_eq!(sums.duplicated, 0);
    worker.says("a chord has failed", 1).await;
    let stored: Value = ledger.result(&chord.body).await.expect("a stored result");
    assert_eq!(
        (&stored["status"], &stored["result"]["exc_type"]),
        (&json!("FAILURE"), &json!("ChordError"))
    );
    assert!(worker.stop().await.success());
}
