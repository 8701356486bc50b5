use serde_json::json;

use super::*;

/// A message as Celery 5.6 sent it for `add.delay(2, 3)`, with ids shortened.
const CAPTURED: &str = r#"{"body": "W1syLCAzXSwge30sIHsiY2FsbGJhY2tzIjogbnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjogbnVsbCwgImNob3JkIjogbnVsbH1d", "content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": "wire.add", "id": "0c5d9859", "shadow": null, "eta": null, "expires": null, "group": null, "group_index": null, "retries": 0, "timelimit": [30, 2.5], "root_id": "0c5d9859", "parent_id": null, "argsrepr": "(2, 3)", "kwargsrepr": "{}", "origin": "gen13208@vm", "ignore_result": false, "x-mine": {"a": [1]}}, "properties": {"correlation_id": "0c5d9859", "reply_to": "37e81fd3", "delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 4, "body_encoding": "base64", "delivery_tag": "7e285ca1"}}"#;

#[test]
fn a_captured_message_is_read_and_written_back_unchanged() {
    let envelope = Envelope::parse(CAPTURED.as_bytes()).unwrap();
    assert_eq!((envelope.task(), envelope.id()), ("wire.add", "0c5d9859"));
    assert_eq!(envelope.timelimit(), (Some(30.0), Some(2.5)));
    assert_eq!(envelope.priority().step(&PRIORITY_STEPS), 3);
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

/// Everything that can be asked of an envelope.
fn answers(envelope: &Envelope) -> impl PartialEq + std::fmt::Debug + use<> {
    let names = [
        "task",
        "id",
        "group",
        "root_id",
        "eta",
        "timelimit",
        "stamps",
        "x",
    ];
    let of_names = names.map(|name| {
        let text = |text: Option<&str>| text.map(str::to_owned);
        (
            envelope.header(name),
            text(envelope.text(name)),
            envelope.property(name),
            text(envelope.property_text(name)),
        )
    });
    (
        of_names,
        (
            envelope.retries(),
            envelope.priority().0,
            envelope.redelivered(),
            envelope.ignore_result(),
        ),
        (envelope.timelimit(), envelope.publisher_tag().map(str::to_owned)),
        envelope.eta().map_err(|error| error.to_string()),
        envelope.body().map_err(|error| error.to_string()),
    )
}

/// What is written is read back as the same message, and written the same again.
fn assert_read_back(raw: &[u8]) {
    let Ok(envelope) = Envelope::parse(raw) else {
        return;
    };
    let written = envelope.to_json();
    assert!(written.is_ascii(), "{written}");
    let again = Envelope::parse(written.as_bytes()).unwrap();
    assert_eq!(answers(&again), answers(&envelope), "{written}");
    assert_eq!(again.to_json(), written);
}

#[test]
fn odd_messages_are_read_and_written_back() {
    for raw in [
        CAPTURED,
        r#"{"headers": {"task": "caf\u00e9", "id": "i", "ignore_result": 1, "redelivered": "yes", "x": [1e3]}}"#,
        r#"{"headers": {"ta\u0073k": "t", "id": "i", "retries": -1, "timelimit": [18446744073709551615]}}"#,
        r#"{"headers": {"task": "t", "id": "i", "retries": 1e3, "timelimit": {"0": 3}, "stamps": {"a": null}}}"#,
        r#"{"headers": {"task": "t", "id": "i", "eta": 7}, "properties": [], "body": 3, "body": "[[1], {}, {}]"}"#,
        r#"{"headers": {"task": "t", "id": "i"}, "properties": {"priority": 2.5, "delivery_tag": 5, "x": ""}}"#,
        r#"{"headers": 1, "headers": {"task": "t", "id": "i"}, "properties": {"priority": 18446744073709551615}}"#,
    ] {
        assert!(Envelope::parse(raw.as_bytes()).is_ok(), "{raw}");
        assert_read_back(raw.as_bytes());
    }
}

#[test]
fn the_last_of_two_members_counts_and_other_types_count_as_absent() {
    let raw = r#"{"headers": {"task": "t", "id": "i", "id": "j", "retries": "3", "timelimit": [1, "x"], "group": 7,
        "ignore_result": 1, "redelivered": "yes"}, "properties": {"priority": 2.5, "delivery_tag": 5}}"#;
    let envelope = Envelope::parse(raw.as_bytes()).unwrap();
    assert_eq!((envelope.id(), envelope.retries()), ("j", 0));
    assert_eq!(envelope.timelimit(), (Some(1.0), None));
    assert_eq!(
        (envelope.text("group"), envelope.header("group")),
        (None, Some(json!(7)))
    );
    assert_eq!((envelope.ignore_result(), envelope.redelivered()), (None, false));
    assert_eq!(
        (envelope.priority(), envelope.publisher_tag()),
        (Priority(0), None)
    );
}

#[test]
fn what_is_not_asked_for_passes_as_its_own_text() {
    let deep = "[".repeat(1000) + &"]".repeat(1000);
    for value in [
        "1e999",
        "NaN",
        r#"{"\ud800": [-Infinity, "NaN"]}"#,
        r#""\ud800""#,
        r#"{"a": ["\udfff", 1.50, 1e+16, -0]}"#,
        &"9".repeat(99),
        &deep,
    ] {
        let message = |retries: u32| {
            format!(
                r#"{{"z": {value}, "headers": {{"x": {value}, "retries": {retries}, "task": "t", "id": "i"}}, "properties": {{"y": {value}}}}}"#
            )
        };
        let mut envelope = Envelope::parse(message(0).as_bytes()).unwrap();
        assert_eq!(envelope.to_json(), message(0));
        envelope.set_header("retries", json!(1));
        assert_eq!(envelope.to_json(), message(1));
    }
}

/// What `add.apply_async((1, 2), task_id=uuid.uuid4())` sends.
#[test]
fn an_id_may_be_a_uuid_object() {
    let typed = json!({"__type__": "uuid", "__value__": {"hex": "12345678123456781234567812345678"}});
    let raw = json!({"headers": {"task": "t", "id": typed, "root_id": typed, "parent_id": null}});
    let envelope = Envelope::parse(raw.to_string().as_bytes()).unwrap();
    let text = "12345678-1234-5678-1234-567812345678";
    assert_eq!((envelope.id(), envelope.text("root_id")), (text, Some(text)));
    assert_eq!(envelope.header("id"), Some(typed), "its client looks for this");
    let other = r#"{"headers": {"task": "t", "id": {"__type__": "decimal", "__value__": "1"}}}"#;
    assert!(Envelope::parse(other.as_bytes()).is_err());
}

/// kombu reads a message with `bytes.decode(errors='replace')`.
#[test]
fn bytes_that_are_not_utf_8_are_replaced() {
    let raw = [
        br#"{"headers": {"task": "t", "id": "i", "x": "caf"#.as_slice(),
        b"\xe9",
        br#""}}"#,
    ]
    .concat();
    let envelope = Envelope::parse(&raw).unwrap();
    assert_eq!(envelope.text("x"), Some("caf\u{fffd}"));
}

#[test]
fn damage_is_refused_wherever_it_stands() {
    for value in ["[", "nul", r#""\x""#, "{1: 2}", "nan", "{NaN: 1}"] {
        let raw = format!(r#"{{"headers": {{"task": "t", "id": "i", "x": {value}}}}}"#);
        let error = Envelope::parse(raw.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("not JSON"), "{value}: {error}");
    }
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
        assert_read_back(&raw);
    }
}
