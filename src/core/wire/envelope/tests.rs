use super::*;

/// A message as Celery 5.6 sent it for `add.delay(2, 3)`, with ids shortened.
const CAPTURED: &str = r#"{"body": "W1syLCAzXSwge30sIHsiY2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjogbnVsbCwgImNob3JkIjogbnVsbH1d", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": "wire.add", "id": "0c5d9859", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [30, 2.5], "root_id": "0c5d9859", "parent_id": null, "argsrepr": "(2, 3)", "kwargsrepr": "{}", "origin": "gen13208@vm", "ignore_result": false, "x-mine": {"a": [1]}}, "properties": {"correlation_id": "0c5d9859", "reply_to": "37e81fd3", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 4, "body_encoding": "base64", "delivery_tag": "7e285ca1"}}"#;

#[test]
fn a_captured_message_is_read_and_written_back_unchanged() {
    let envelope = Envelope::parse(CAPTURED.as_bytes()).unwrap();
    assert_eq!((envelope.task(), envelope.id()), ("wire.add", "0c5d9859"));
    assert_eq!(envelope.timelimit(), (Some(30.0), Some(2.5)));
    assert_eq!(envelope.priority().step(), 3);
    assert_eq!(envelope.publisher_tag(), Some("7e285ca1"));
    assert_eq!(envelope.ignore_result(), Some(false));
    assert_eq!(envelope.body().unwrap().args, [json!(2), json!(3)]);
    assert_eq!(envelope.to_json(), CAPTURED);
}

#[test]
fn a_redelivery_is_marked_where_both_kombu_and_celery_look() {
    let mut envelope = Envelope::parse(CAPTURED.as_bytes()).unwrap();
    assert!(!envelope.redelivered());
    envelope.mark_redelivered();
    assert!(envelope.redelivered());
    assert_eq!(
        envelope.property("delivery_info").unwrap()["redelivered"],
        json!(true)
    );
    assert_eq!(envelope.publisher_tag(), Some("7e285ca1"));
}

#[test]
fn protocol_1_becomes_protocol_2() {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let body = json!({"task": "old.add", "id": "o1", "args": [1], "kwargs": {"b": 2}, "retries": 1,
        "eta": "2026-11-23T10:00:00", "expires": null, "utc": true, "callbacks": [{"task": "cb"}],
        "errbacks": null, "timelimit": [null, 3], "taskset": null, "chord": null});
    let raw = json!({"body": BASE64_STANDARD.encode(body.to_string()), "content-type": "application/json",
        "content-encoding": "utf-8", "headers": {},
        "properties": {"body_encoding": "base64", "delivery_tag": "t", "delivery_info": {}}});
    let envelope = Envelope::parse(raw.to_string().as_bytes()).unwrap();
    assert_eq!(
        (envelope.task(), envelope.id(), envelope.retries()),
        ("old.add", "o1", 1)
    );
    assert_eq!(envelope.timelimit(), (None, Some(3.0)));
    assert!(envelope.eta().unwrap().is_some());
    let body = envelope.body().unwrap();
    assert_eq!((body.args, body.kwargs["b"].clone()), (vec![json!(1)], json!(2)));
    assert_eq!(body.embed["callbacks"], json!([{"task": "cb"}]));
}

#[test]
fn a_protocol_1_message_that_others_may_read_is_not_called_damaged() {
    let message = |content_type: &str, properties: &str| {
        let raw = format!(
            r#"{{"body": "AAAA", "content-type": "{content_type}", "headers": {{}}, "properties": {properties}}}"#
        );
        Envelope::parse(raw.as_bytes()).unwrap_err()
    };
    let tagged = r#"{"delivery_tag": "t1", "body_encoding": "base64"}"#;
    assert!(matches!(
        message("application/x-python-serialize", tagged),
        EnvelopeError::Foreign { publisher_tag, .. } if publisher_tag == "t1"
    ));
    assert!(matches!(
        message("application/json", tagged),
        EnvelopeError::NoTask(_)
    ));
    assert!(matches!(
        message("application/x-python-serialize", "{}"),
        EnvelopeError::NoTask(_)
    ));
}

#[test]
fn absent_fields_have_defaults() {
    let raw = r#"{"body": "[[], {}, null]", "headers": {"task": "t", "id": "i"}}"#;
    let envelope = Envelope::parse(raw.as_bytes()).unwrap();
    assert_eq!(envelope.retries(), 0);
    assert_eq!(envelope.timelimit(), (None, None));
    assert_eq!(envelope.priority(), Priority(0));
    assert_eq!(envelope.eta().unwrap(), None);
    assert!(envelope.body().unwrap().args.is_empty());
}

#[test]
fn what_is_no_task_says_why() {
    for (raw, reason) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[1]", "not an object"),
        (r#"{"headers": {"task": "t"}}"#, "`id`"),
        (r#"{"headers": {"id": "i"}, "body": "[]"}"#, "`task`"),
        (r#"{"headers": {"task": 7, "id": "i"}}"#, "`task`"),
        (r#"{"headers": {"task": "t", "id": ""}}"#, "`id`"),
        (r#"{"headers": 3}"#, "names no task"),
    ] {
        let error = Envelope::parse(raw.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(reason), "{raw}: {error}");
    }
    let raw = r#"{"headers": {"task": "t", "id": "i", "eta": "tomorrow"}}"#;
    let error = Envelope::parse(raw.as_bytes())
        .unwrap()
        .eta()
        .unwrap_err()
        .to_string();
    assert!(error.contains("`eta`") && error.contains("tomorrow"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(raw: Vec<u8>) {
        if let Ok(envelope) = Envelope::parse(&raw) {
            let _ = envelope.body();
        }
    }

    #[test]
    fn no_mutation_of_a_real_message_panics(at in 0..CAPTURED.len(), byte: u8, cut in 0..CAPTURED.len()) {
        let mut raw = CAPTURED.as_bytes().to_vec();
        raw[at] = byte;
        raw.truncate(cut.max(at));
        if let Ok(envelope) = Envelope::parse(&raw) {
            let _ = (envelope.body(), envelope.eta(), envelope.timelimit(), envelope.to_json());
        }
    }
}
