//! What our beat and our worker publish, field by field beside what Python publishes for the same call.
//!
//! Everything must be equal, nested values and their types included, except what is new in every message. That
//! is replaced by a mark, the same one for the same value: ids, times and the publisher's process.

use std::collections::BTreeSet;

use base64::prelude::{BASE64_STANDARD, Engine};
use redis::cmd;
use serde_json::{Map, Value, json};
use tradebot_test_support::{Python, Reply, Signal, eventually};

use crate::fleet::{
    BOT_TASK, Fleet, PATIENCE, PYTHON_OK, SPOT_OK, SPOT_PATH, WARMUP_SPOT, WITH_WARMUPS, message, text,
};

const WARMUPS_FAIL: (&str, &str) = ("WARMUPS_FAIL", "1");
const ID_LENGTH: usize = 36;
/// A queue without a worker.
const ASIDE: &str = "aside";

#[tokio::test]
async fn a_message_of_our_beat_is_one_of_send_task() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let beat = fleet.beat("300", "0");
        let ours = eventually("a message of the beat", PATIENCE, async || {
            fleet.waiting().await.into_iter().next()
        })
        .await;
        beat.signal(Signal::SIGTERM);
        beat.wait_exit(PATIENCE);
        fleet.send(&[json!({"name": WARMUP_SPOT, "options": {"expires": 300}})]);
        let theirs = fleet.waiting().await.pop().expect("the client's message");
        let alone = |raw: &[u8]| (vec![normalised(&message(raw))], Value::Null);
        assert_same(&alone(&ours), &alone(&theirs));
    }
}

#[tokio::test]
async fn what_follows_from_a_warm_up_is_published_as_a_python_worker_publishes_it() {
    let orders = [
        json!({"name": WARMUP_SPOT}),
        json!({"name": WARMUP_SPOT, "link": aside(json!({}))}),
        json!({"name": WARMUP_SPOT, "link": [aside(json!({})), aside(json!({}))]}),
        json!({"name": WARMUP_SPOT, "link": aside(json!({"priority": 4, "expires": 60, "countdown": 30}))}),
        json!({"name": WARMUP_SPOT, "link": aside(json!({"time_limit": 9, "soft_time_limit": 8, "shadow": "s"}))}),
        json!({"name": WARMUP_SPOT, "link": aside(json!({"headers": {"x-trace": "41"}, "ignore_result": true}))}),
        json!({"chain": [{"name": WARMUP_SPOT}, aside(json!({})), aside(json!({}))]}),
        json!({"name": WARMUP_SPOT, "options": {"expires": -1}, "link": aside(json!({}))}),
    ];
    let following = [0, 1, 2, 1, 1, 1, 1, 0];
    for python in Python::ALL {
        let (ours, theirs) = (Fleet::start(python).await, Fleet::start(python).await);
        let _workers = (ours.worker(), theirs.python_worker(&[WITH_WARMUPS]));
        let (ours, theirs) = (run(&ours, &orders).await, run(&theirs, &orders).await);
        assert_eq!(
            theirs
                .iter()
                .map(|(published, _)| published.len())
                .collect::<Vec<_>>(),
            following
        );
        assert_eq!(
            (&theirs[6].1[0]["status"], &theirs[7].1[0]["status"]),
            (&json!("SUCCESS"), &json!("REVOKED"))
        );
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert_same(ours, theirs);
        }
    }
}

#[tokio::test]
async fn what_follows_from_a_failure_is_published_as_a_python_worker_publishes_it() {
    let failing = json!({"name": WARMUP_SPOT, "options": {"retries": 5}});
    let mut with_errbacks = failing.clone();
    with_errbacks["link_error"] = json!([aside(json!({})), aside(json!({"priority": 9}))]);
    let orders = [
        with_errbacks,
        json!({"chain": [failing, aside(json!({})), aside(json!({}))]}),
    ];
    for python in Python::ALL {
        let (ours, theirs) = (Fleet::start(python).await, Fleet::start(python).await);
        ours.exchange.always(SPOT_PATH, Reply::status(500, ""));
        let _workers = (ours.worker(), theirs.python_worker(&[WITH_WARMUPS, WARMUPS_FAIL]));
        let (ours, theirs) = (run(&ours, &orders).await, run(&theirs, &orders).await);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let failed = |result: &Value| result["status"] == "FAILURE";
            assert!(
                theirs
                    .1
                    .as_array()
                    .is_some_and(|results| results.iter().all(failed)),
                "{theirs:?}"
            );
            assert_same(ours, theirs);
        }
    }
}

#[tokio::test]
async fn a_retry_is_published_and_stored_as_a_python_worker_does_it() {
    let headers = json!({"x-trace": "41", "x-nested": {"a": [1]}});
    let options = json!({"retries": 3, "priority": 4, "expires": 600, "headers": headers});
    let order = json!({"name": WARMUP_SPOT, "options": options, "link": aside(json!({})), "count": 6});
    for python in Python::ALL {
        let (ours, theirs) = (Fleet::start(python).await, Fleet::start(python).await);
        ours.exchange.always(SPOT_PATH, Reply::status(500, ""));
        let _workers = (ours.worker(), theirs.python_worker(&[WITH_WARMUPS, WARMUPS_FAIL]));
        assert_same(
            &waiting_retry(&ours, &order).await,
            &waiting_retry(&theirs, &order).await,
        );
    }
}

/// The signature of a task on a queue without a worker.
fn aside(mut options: Value) -> Value {
    options["queue"] = json!(ASIDE);
    json!({"name": BOT_TASK, "args": ["é", 1.5, null], "kwargs": {"k": [true]}, "options": options})
}

/// What the worker of this fleet publishes aside when it runs each order, and what it stores for its tasks.
async fn run(fleet: &Fleet, orders: &[Value]) -> Vec<(Vec<Value>, Value)> {
    // A queue for each order, so that one client can send them all.
    let queue = |number: usize| format!("{ASIDE}-{number}");
    let own = |(number, order): (usize, &Value)| {
        serde_json::from_str(&order.to_string().replace(ASIDE, &queue(number))).expect("an order")
    };
    let sent = fleet.send(&orders.iter().enumerate().map(own).collect::<Vec<Value>>());
    fleet.wait_until_all_is_done().await;
    let mut outcomes = Vec::new();
    for (number, answer) in sent.iter().enumerate() {
        let messages = fleet.waiting_on(&queue(number)).await;
        let published = messages.iter().map(|raw| normalised(&message(raw))).collect();
        let mut results = Vec::new();
        for id in answer["ids"].as_array().expect("one id or more") {
            results.push(stored(fleet, id).await);
        }
        outcomes.push((published, results.into()));
    }
    outcomes
}

/// The message of a retry that waits for its time, and what is stored for its task meanwhile.
async fn waiting_retry(fleet: &Fleet, order: &Value) -> (Vec<Value>, Value) {
    fleet.send(std::slice::from_ref(order));
    // The wait is drawn at random and can be nothing: then another of the tasks waits.
    let waits = |message: &Value| message["headers"]["retries"] == 4 && !message["headers"]["eta"].is_null();
    let mut message = eventually("a retry that waits", PATIENCE, async || {
        fleet.unacked().await.into_iter().find(waits)
    })
    .await;
    // The time until it expires. Python updates it and we do not: it repeats the header, and no reader on Redis uses it.
    message["properties"]["expiration"] = json!("some");
    let stored = stored(fleet, &message["headers"]["id"]).await;
    (vec![normalised(&message)], stored)
}

/// What is stored for a task; null if nothing is.
async fn stored(fleet: &Fleet, id: &Value) -> Value {
    let document: Option<String> = fleet
        .ask(cmd("GET").arg(format!("celery-task-meta-{}", text(id))))
        .await;
    let mut document: Value = document.map_or(Value::Null, |text| {
        serde_json::from_str(&text).expect("a document")
    });
    if document["traceback"].is_string() {
        assert!(text(&document["traceback"]).starts_with("Traceback (most recent call last):\n"));
        // What went wrong is told differently; that it is told is the same.
        document["traceback"] = json!("a traceback");
        document["result"]["exc_message"] = json!([text(&document["result"]["exc_message"][0]).is_empty()]);
    }
    marked(&document, &mut Vec::new())
}

/// Compares messages and a result.
fn assert_same(ours: &(Vec<Value>, Value), theirs: &(Vec<Value>, Value)) {
    let plain = |(published, stored): &(Vec<Value>, Value)| {
        let published: Vec<Value> = published.iter().map(without_5_7_additions).collect();
        json!({"published": published, "stored": stored})
    };
    let mut found = Vec::new();
    differences("", &plain(ours), &plain(theirs), &mut found);
    assert!(found.is_empty(), "where, ours, theirs:\n{}", found.join("\n"));
}

/// Where two values differ, as deep down as possible.
fn differences(place: &str, ours: &Value, theirs: &Value, found: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                let member =
                    |object: &Map<String, Value>| object.get(name).cloned().unwrap_or("(absent)".into());
                differences(&format!("{place}/{name}"), &member(one), &member(other), found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (ours, theirs)) in one.iter().zip(other).enumerate() {
                differences(&format!("{place}/{index}"), ours, theirs, found);
            }
        }
        _ if ours == theirs => {}
        _ => found.push(format!("{place}  {ours}  {theirs}")),
    }
}

/// The same message as 5.5.2 writes it, and we do; a retry keeps what the client wrote.
fn without_5_7_additions(message: &Value) -> Value {
    let mut message = message.clone();
    let headers = &mut message["headers"];
    // The limits of the publisher's own app, if it has the task too. Without them the worker's own limits hold.
    if headers["timelimit"] == json!([180, 150]) {
        headers["timelimit"] = json!([null, null]);
    }
    // Null for a task that the publisher does not have: the worker's setting for the task holds, which for these
    // tasks is false.
    if headers["ignore_result"].is_null() {
        headers["ignore_result"] = json!(false);
    }
    message
}

/// A message with its body decoded, and marks in place of what differs between any two messages.
fn normalised(message: &Value) -> Value {
    let mut message = message.clone();
    let body = BASE64_STANDARD.decode(text(&message["body"])).expect("base64");
    message["body"] = serde_json::from_slice(&body).expect("a body of JSON");
    let mut ids = Vec::new();
    marked(&message, &mut ids)
}

fn marked(value: &Value, ids: &mut Vec<String>) -> Value {
    match value {
        Value::Object(members) => {
            // Sorted, so that the order of the members does not decide on the numbers.
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| name.as_str());
            let marked = |(name, member): (&String, &Value)| (name.clone(), marked(member, ids));
            sorted.into_iter().map(marked).collect::<Map<_, _>>().into()
        }
        Value::Array(items) => items.iter().map(|item| marked(item, ids)).collect(),
        Value::String(text) => mark(text, ids).into(),
        other => other.clone(),
    }
}

fn mark(text: &str, ids: &mut Vec<String>) -> String {
    if chrono::DateTime::parse_from_rfc3339(text).is_ok() {
        return text.replace(|character: char| character.is_ascii_digit(), "0");
    }
    match text.strip_prefix("gen").and_then(|rest| rest.split_once('@')) {
        Some((pid, host)) if pid.parse::<u32>().is_ok() => format!("gen<pid>@{host}"),
        _ => mark_ids(text, ids).replace(SPOT_OK, PYTHON_OK),
    }
}

/// Ids may also stand within a text, as in `argsrepr`.
fn mark_ids(text: &str, ids: &mut Vec<String>) -> String {
    let is_id = |at: &usize| {
        text.get(*at..at + ID_LENGTH)
            .is_some_and(|id| uuid::Uuid::parse_str(id).is_ok())
    };
    let Some(at) = (0..text.len()).find(is_id) else {
        return text.to_owned();
    };
    let (id, rest) = text[at..].split_at(ID_LENGTH);
    let number = ids.iter().position(|known| known == id).unwrap_or_else(|| {
        ids.push(id.to_owned());
        ids.len() - 1
    });
    format!("{}<id {number}>{}", &text[..at], mark_ids(rest, ids))
}
