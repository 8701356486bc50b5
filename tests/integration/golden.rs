//! Messages recorded from clients of Celery 4.4 to 5.7 (`make golden` writes them to `tests/golden`): the worker
//! runs them as Python does, or leaves them, and forwards them complete.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use redis::AsyncCommands;
use serde::Deserialize;
use serde_json::{Map, Value};
use tradebot_core::engine::retry;
use tradebot_core::transport::{Source, Transport};
use tradebot_test_support::{Process, RedisServer, bin, eventually};
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys::{self, Keys};
use tradebot_wire::python_json;

use crate::world::{PATIENCE, now};

/// One recorded message; see `tests/golden/record.py`.
#[derive(Debug, Deserialize)]
struct Recorded {
    celery: String,
    case: String,
    list: String,
    element: String,
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    accepted: bool,
}

impl Recorded {
    fn name(&self) -> String {
        format!("{} {}", self.celery, self.case)
    }

    fn envelope(&self) -> Envelope {
        Envelope::parse(self.element.as_bytes()).unwrap_or_else(|error| panic!("{}: {error}", self.name()))
    }

    fn json(&self) -> Value {
        python_json::from_slice(self.element.as_bytes()).expect("an element is JSON")
    }

    /// The argument that the task returns; the first of what follows has none yet.
    fn argument(&self) -> &Value {
        self.args
            .first()
            .or_else(|| self.kwargs.get("value"))
            .expect("an argument")
    }
}

/// Numbers as they are written, so that those beyond 64 bits can be compared.
fn read(line: &str) -> Recorded {
    let line: Value = python_json::from_slice(line.as_bytes()).expect("a line is JSON");
    serde_json::from_value(line).expect("a recorded message")
}

fn recorded() -> Vec<Recorded> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut all: Vec<Recorded> = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder of recordings") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            let text = std::fs::read_to_string(&path).expect("a recording");
            let lines = text.lines();
            all.extend(lines.map(read));
        }
    }
    let versions: BTreeSet<&str> = all.iter().map(|one| one.celery.as_str()).collect();
    assert!(versions.len() >= 5, "{versions:?}");
    all
}

#[test]
fn arguments_are_read_as_python_reads_them() {
    let mut read = 0;
    for one in recorded().iter().filter(|one| one.accepted) {
        let body = one.envelope().body();
        let body = body.unwrap_or_else(|error| panic!("{}: {error}", one.name()));
        assert_eq!(
            (&body.args, &body.kwargs),
            (&one.args, &one.kwargs),
            "{}",
            one.name()
        );
        read += 1;
    }
    assert!(read > 400, "{read} messages");
}

/// Headers, properties and embedded signatures, whether they are known here or not.
#[test]
fn nothing_is_lost_by_a_retry_or_by_being_put_back() {
    for one in recorded().iter().filter(|one| one.accepted) {
        let name = one.name();
        let original = one.envelope();
        let source = Source {
            queue: "celery".into(),
            list: one.list.clone(),
        };
        let back = Transport::hand_back(&source, &original);
        assert_eq!(back.list, one.list, "{name}");
        let back = Envelope::parse(back.message.as_bytes()).expect("a message");
        let again = retry::successor(&original, std::time::Duration::ZERO, "gen1@test", now());
        let again = Envelope::parse(again.to_json().as_bytes()).expect("a message");
        for (what, next) in [("put back", &back), ("retried", &again)] {
            assert_eq!(next.body().ok(), original.body().ok(), "{name} {what}");
            let (before, after) = (one.json(), next_json(next));
            for part in ["headers", "properties"] {
                for (member, value) in before[part].as_object().expect("an object") {
                    if !changes(what, member) {
                        assert_eq!(&after[part][member], value, "{name} {what}: {member}");
                    }
                }
            }
        }
        assert_eq!(again.retries(), original.retries() + 1, "{name}");
        assert!(back.redelivered() && !again.redelivered(), "{name}");
    }
}

/// What a retry or a hand-back is there to change. A protocol 1 body is rebuilt, and so are its compression
/// and its place in `delivery_info`.
fn changes(what: &str, member: &str) -> bool {
    let retried = ["retries", "eta", "parent_id", "delivery_tag", "origin"];
    matches!(member, "delivery_info" | "compression") || what == "retried" && retried.contains(&member)
}

fn next_json(envelope: &Envelope) -> Value {
    python_json::from_slice(envelope.to_json().as_bytes()).expect("JSON")
}

/// All of them at once, on the lists they lay in. What follows from them is run as well.
#[tokio::test]
async fn a_worker_runs_what_it_reads_and_leaves_or_parks_the_rest() {
    let all = recorded();
    let redis = RedisServer::start();
    let mut db = redis.connection().await;
    for one in &all {
        let pushed: usize = db.lpush(&one.list, &one.element).await.expect("a pushed message");
        assert!(pushed > 0);
    }
    let url = redis.url();
    let worker = Process::builder(bin("test-worker"))
        .args(["-n", "golden@test", "-c", "16"])
        .env("CELERY_BROKER_URL", &url)
        .env("CELERY_RESULT_BACKEND", &url)
        .env("REDIS_URL", &url)
        .spawn();
    worker.wait_for_line("connected", PATIENCE);

    let mut expected: BTreeMap<String, &Recorded> = BTreeMap::new();
    let mut refused: Vec<&Recorded> = Vec::new();
    for one in &all {
        if !one.accepted {
            refused.push(one);
        } else if one.envelope().ignore_result() != Some(true) {
            expected.insert(one.envelope().id().to_owned(), one);
        }
    }
    for (id, one) in &expected {
        let key = keys::task_meta("", id);
        let stored = eventually(&format!("the result of {}", one.name()), PATIENCE, async || {
            let document: Option<String> = db.clone().get(&key).await.ok()?;
            python_json::from_slice::<Value>(document?.as_bytes()).ok()
        })
        .await;
        assert_eq!(stored["status"], "SUCCESS", "{}: {stored}", one.name());
        assert_eq!(&stored["result"], one.argument(), "{}", one.name());
    }

    // No worker here may run these: they stay, unchanged, where an operator or a Python worker finds them.
    let keys = Keys::default();
    let kept = eventually("the rest of the messages", PATIENCE, async || {
        let mut db = db.clone();
        let parked: Vec<String> = db.lrange(keys.parked(), 0, -1).await.ok()?;
        let waiting: Vec<String> = db.lrange("celery", 0, -1).await.ok()?;
        let parked = parked.iter().map(|entry| {
            let entry: Value = serde_json::from_str(entry).expect("a parked entry");
            entry["message"].as_str().expect("text").to_owned()
        });
        let kept: Vec<String> = waiting.into_iter().chain(parked).collect();
        (kept.len() == refused.len()).then_some(kept)
    })
    .await;
    for one in refused {
        let tag = &one.json()["properties"]["delivery_tag"];
        let same = |text: &&String| {
            serde_json::from_str::<Value>(text).is_ok_and(|kept| &kept["properties"]["delivery_tag"] == tag)
        };
        let kept = kept.iter().find(same);
        let kept = kept.unwrap_or_else(|| panic!("{} is gone", one.name()));
        let kept: Value = serde_json::from_str(kept).expect("JSON");
        assert_eq!(kept["body"], one.json()["body"], "{}", one.name());
    }
    let unacked: usize = db.hlen(keys.unacked()).await.expect("a hash");
    assert_eq!(unacked, 0);
}
