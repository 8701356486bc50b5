use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;
use tradebot_base::clock::ManualClock;

/// 2026-11-23 10:38:06.712300 UTC.
const NOW: &str = "2026-11-23T10:38:06.712300+00:00";

fn events(task_events: bool, sent_events: bool) -> Events {
    let settings = EventSettings {
        task_events,
        sent_events,
    };
    let clock = Arc::new(ManualClock::at(timestamp::parse(NOW).unwrap()));
    Events::new(settings, "w@h", "gen1@h", clock)
}

fn envelope() -> Envelope {
    let raw = r#"{"headers": {"task": "t", "id": "i", "argsrepr": "(1,)", "kwargsrepr": "{}", "root_id": "r",
        "parent_id": null, "retries": 2, "eta": "2026-11-23T10:38:06", "expires": null, "shadow": null}}"#;
    Envelope::parse(raw.as_bytes()).unwrap()
}

/// All that waits, with the routing keys.
fn taken(events: &Events) -> Vec<(String, Value)> {
    let (chunks, _) = events.buffer().take();
    let read = |chunk: buffer::Chunk| {
        let message: Value = serde_json::from_slice(&message::message(&chunk, "w@h")).unwrap();
        let body = STANDARD.decode(message["body"].as_str().unwrap()).unwrap();
        (chunk.routing_key, serde_json::from_slice(&body).unwrap())
    };
    chunks.into_iter().map(read).collect()
}

fn without_common(mut event: Value) -> Value {
    let fields = event.as_object_mut().unwrap();
    let pid = fields.shift_remove("pid");
    assert_eq!(pid, Some(json!(std::process::id())));
    assert!(
        fields
            .shift_remove("utcoffset")
            .is_some_and(|hours| hours.is_number())
    );
    assert_eq!(fields.shift_remove("timestamp"), Some(json!(1_795_430_286.712_3)));
    event
}

#[test]
fn task_events_have_the_fields_that_python_sends() {
    let (events, message) = (events(true, true), envelope());
    events.received(&message);
    events.started(&message);
    let took = Duration::from_millis(1500);
    events.ended(&message, &TaskState::Success(json!({"a": [1, "x"]})), took);
    let exception = Exception::new("builtins", "ValueError", vec![json!("it's"), json!(42)]);
    events.ended(&message, &TaskState::Retry(exception.clone(), "tb".into()), took);
    events.ended(&message, &TaskState::Failure(exception, None), took);
    events.revoked("i", true, Some(15), false);
    events.rejected("i", true);
    events.cancelled("i");
    events.sent("q", &message);
    let mut all = taken(&events);
    let (routing_key, sent) = all.pop().unwrap();
    assert_eq!(routing_key, "task.sent");
    assert_eq!(
        without_common(sent),
        json!({"hostname": "gen1@h", "clock": 9, "uuid": "i", "root_id": "r", "parent_id": null, "name": "t", "args": "(1,)",
            "kwargs": "{}", "retries": 2, "eta": "2026-11-23T10:38:06", "expires": null, "queue": "q", "exchange": "",
            "routing_key": "q", "type": "task-sent"})
    );
    let (routing_key, array) = all.pop().unwrap();
    assert_eq!((routing_key.as_str(), all.len()), ("task.multi", 0));
    let array: Vec<Value> = array
        .as_array()
        .unwrap()
        .iter()
        .cloned()
        .map(without_common)
        .collect();
    let expected = [
        json!({"name": "t", "args": "(1,)", "kwargs": "{}", "root_id": "r", "parent_id": null, "retries": 2,
            "eta": "2026-11-23T10:38:06+00:00", "expires": null, "type": "task-received"}),
        json!({"type": "task-started"}),
        json!({"result": "{'a': [1, 'x']}", "runtime": 1.5, "type": "task-succeeded"}),
        json!({"exception": r#"ValueError("it's", 42)"#, "traceback": "tb", "type": "task-retried"}),
        json!({"exception": r#"ValueError("it's", 42)"#, "traceback": null, "type": "task-failed"}),
        json!({"terminated": true, "signum": 15, "expired": false, "type": "task-revoked"}),
        json!({"requeue": true, "type": "task-rejected"}),
        json!({"type": "task-cancelled"}),
    ];
    for (clock, (mut event, expected)) in array.into_iter().zip(expected).enumerate() {
        let fields = event.as_object_mut().unwrap();
        for (field, value) in [
            ("hostname", json!("w@h")),
            ("clock", json!(clock + 1)),
            ("uuid", json!("i")),
        ] {
            assert_eq!(fields.shift_remove(field), Some(value));
        }
        assert_eq!(event, expected);
    }
}

#[test]
fn switched_off_nothing_is_written_and_the_clock_stands() {
    let (events, message) = (events(false, false), envelope());
    events.received(&message);
    events.started(&message);
    events.ended(&message, &TaskState::Success(json!(1)), Duration::ZERO);
    events.revoked("i", false, None, true);
    events.sent("q", &message);
    assert_eq!(taken(&events), []);
    assert_eq!(events.lamport().value(), 0);
    assert!(events.switch().enable());
    events.started(&message);
    assert_eq!(taken(&events).len(), 1);
}

#[test]
fn heartbeats_count_what_runs_and_ran() {
    let events = events(false, false);
    drop(events.running());
    let _running = events.running();
    let beat = events.beat("worker-heartbeat", [0.5, 1.0, 2.25]);
    let (body, _) = beat.body();
    let beat = without_common(serde_json::from_slice(body).unwrap());
    assert_eq!(
        beat,
        json!({"hostname": "w@h", "clock": 1, "freq": 2.0, "active": 1, "processed": 2, "loadavg": [0.5, 1.0, 2.25],
            "sw_ident": "tradebot-symbols", "sw_ver": env!("CARGO_PKG_VERSION"), "sw_sys": "Linux",
            "type": "worker-heartbeat"})
    );
    events.heartbeat_on_request();
    let told = taken(&events);
    let names: Vec<&str> = told.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(names, ["worker.heartbeat"]);
    assert_eq!(
        (&told[0].1["freq"], &told[0].1["active"]),
        (&json!(5.0), &Value::Null)
    );
}

#[test]
fn an_array_is_in_the_order_of_the_clock() {
    let events = events(true, false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..400).for_each(|_| events.cancelled("i")));
        }
    });
    let mut clocks = Vec::new();
    for (_, array) in taken(&events) {
        clocks.extend(
            array
                .as_array()
                .unwrap()
                .iter()
                .map(|event| event["clock"].as_u64().unwrap()),
        );
    }
    assert!(clocks.is_sorted());
    assert_eq!(clocks.iter().collect::<BTreeSet<_>>().len(), 1600);
}

/// A client shows `f\udcff.txt` as it is, with half of a surrogate pair.
#[test]
fn arguments_are_told_of_as_their_sender_shows_them() {
    let (events, raw) = (
        events(true, false),
        r#"{"headers": {"task": "t", "id": "i", "argsrepr": "('f\udcff.txt',)"}}"#,
    );
    events.received(&Envelope::parse(raw.as_bytes()).unwrap());
    let (chunks, _) = events.buffer().take();
    let message: Value = serde_json::from_slice(&message::message(&chunks[0], "w@h")).unwrap();
    let body = STANDARD.decode(message["body"].as_str().unwrap()).unwrap();
    let text = String::from_utf8(body).unwrap();
    assert!(
        text.contains(r#""args": "('f\udcff.txt',)", "kwargs": """#),
        "{text}"
    );
}
