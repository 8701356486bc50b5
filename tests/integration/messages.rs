//! Malformed messages. Those that are not proven to be ours stay unchanged. If a task of ours cannot run, its client and
//! its workflow get a failure.
//!
//! These are all the ways in which a message leaves its queue without running. Tests elsewhere are named:
//! - `Settlement::refuse`: body, `eta`, `expires`; too many dead workers (`faults::poison`): FAILURE, parked.
//! - `Engine::refuse`: the arguments do not fit: FAILURE.
//! - `Settlement::settle_revoked`: revoked, expired (`integration::outcomes`): REVOKED.
//! - `Settlement::without_misdirected`: the key of a queue is no list: FAILURE, parked.
//! - `Settlement::return_part`: the keys of a chord are broken: its body fails.
//! - `Settlement::park`, `Transport::park_unclaimed`, `Transport::restore`: there is no id to store a result for.
//! - `Verdict::LeaveToOthers`: goes back to its queue (`integration::canvas`).

use base64::prelude::{BASE64_STANDARD, Engine};
use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_test_support::{Process, bin, eventually};
use tradebot_wire::keys::Keys;

use crate::queue::protocol_1;
use crate::world::{PATIENCE, QUEUE, World, connected, embedding, now, task};

const ECHO: &str = "tests.echo";

fn worker(world: &World, node: &str, env: &[(&str, &str)]) -> Process {
    connected(
        Process::builder(bin("test-worker"))
            .args(["-n", node, "-c", "4"])
            .envs(world.environment())
            .envs(env.iter().copied()),
    )
}

async fn parked(world: &World) -> Vec<Value> {
    let entries = world.waiting(&Keys::default().parked()).await;
    entries
        .iter()
        .map(|entry| serde_json::from_str(entry).expect("an entry is JSON"))
        .collect()
}

/// A message of the given body, and what it should differ in from the usual.
fn message(name: &str, id: &str, body: &str, edit: impl FnOnce(&mut Value)) -> Value {
    let message = tradebot_wire::task_message::TaskMessage {
        id: id.to_owned(),
        ..task(name)
    };
    let text = message.into_envelope("gen1@tests", now()).to_json();
    let mut message: Value = serde_json::from_str(&text).expect("JSON");
    message["body"] = json!(BASE64_STANDARD.encode(body));
    edit(&mut message);
    message
}

fn signature(name: &str, id: &str) -> Value {
    json!({"task": name, "args": [], "kwargs": {}, "options": {"task_id": id}, "subtask_type": null, "immutable": false})
}

/// Odd messages that no worker of ours runs: of kombu, and not.
fn foreign() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let odd = [
        "[NaN, Infinity, -Infinity]".to_owned(),
        r#"["f\udcff.txt", {"\ud800": ["tests.echo"]}]"#.to_owned(),
        deep(130),
        deep(5_000),
        "12345678901234567890123".to_owned(),
        r#"{"task": "tests.echo"}"#.to_owned(),
    ];
    let mut of_kombu: Vec<Vec<u8>> = Vec::new();
    for (number, odd) in odd.iter().enumerate() {
        for name in ["app.other", r"app.\u006fther", "g\u{f6}rev"] {
            let body = format!("[[{odd}], {{}}, {{}}]");
            let text = message(name, &format!("two-{number}"), &body, |_| {}).to_string();
            // In a header, before the name and behind it, which the test writes as JSON.
            of_kombu.push(
                text.replacen(r#""headers":{"#, &format!(r#""headers":{{"x-odd":{odd},"#), 1)
                    .into(),
            );
            of_kombu.push(
                text.replacen(
                    r#""headers":{"#,
                    &format!(r#""x":{{"headers":{odd},"task":"tests.echo"}},"headers":{{"#),
                    1,
                )
                .into(),
            );
            of_kombu.push(text.into());
        }
        let old = protocol_1("app.other", &format!("one-{number}"), &format!("tag-{number}"));
        let body =
            format!(r#"{{"task": "app.other", "id": "one-{number}", "args": [{odd}], "kwargs": {{}}}}"#);
        let mut old: Value = serde_json::from_str(&old).expect("JSON");
        old["body"] = json!(BASE64_STANDARD.encode(&body));
        of_kombu.push(old.to_string().into());
        // As `base64.encodebytes` writes it.
        let encoded = BASE64_STANDARD.encode(&body);
        let lines = encoded
            .as_bytes()
            .chunks(76)
            .map(|line| String::from_utf8_lossy(line) + "\n");
        old["body"] = json!(lines.collect::<String>());
        of_kombu.push(old.to_string().into());
        let text = old.to_string();
        of_kombu.push(
            text.replacen(
                r#""headers":{"#,
                &format!(r#""headers":{{"x":{{"task": "tests.echo"}},"odd":{odd}"#),
                1,
            )
            .into(),
        );
    }
    let latin_1 = [b"[\"caf".as_slice(), b"\xe9\"]"].concat();
    let mut old: Value = serde_json::from_str(&protocol_1("app.other", "latin", "tag-latin")).expect("JSON");
    old["body"] = json!(BASE64_STANDARD.encode(&latin_1));
    of_kombu.push(old.to_string().into());
    for (content_type, body) in [
        ("application/x-python-serialize", "gAJ9Lg=="),
        ("application/json", "e30="),
        ("", "%"),
    ] {
        old["content-type"] = json!(content_type);
        old["body"] = json!(body);
        of_kombu.push(old.to_string().into());
    }
    let text = message("app.other", "bytes", "[]", |message| {
        message["headers"]["x"] = json!("MARK");
    })
    .to_string();
    let at = text.find("MARK").expect("the mark");
    of_kombu.push([&text.as_bytes()[..at], b"\xe9\xff", &text.as_bytes()[at + 4..]].concat());
    let rubbish: [&[u8]; 12] = [
        b"no message",
        b"",
        b"{",
        b"7",
        b"[1]",
        b"\x00\xff\x01",
        br#""tests.echo""#,
        br#"{"task": "tests.echo"}"#,
        br#"{"task": "tests.echo", "id": "x", "args": [1]}"#,
        br#"{"x": {"headers": {"task": "tests.echo", "id": "x"}}}"#,
        b"{\"headers\": {\"x\": \"\n\", \"task\": \"app.other\"}}",
        br#"{"headers": ["tests.echo"]}"#,
    ];
    (of_kombu, rubbish.map(<[u8]>::to_vec).to_vec())
}

#[tokio::test]
async fn what_is_not_proven_to_be_ours_stays_byte_for_byte_in_its_order() {
    let world = World::new().await;
    let (of_kombu, rubbish) = foreign();
    let all: Vec<Vec<u8>> = of_kombu.into_iter().chain(rubbish).collect();
    for element in &all {
        world.push(QUEUE, element).await;
    }
    let workers = ["one@test", "other@test"].map(|node| worker(&world, node, &[]));
    // Ours are found behind them, whatever the spelling, and each is a change after which both look again.
    for number in 0..6 {
        let id = format!("ours-{number}");
        let ours = message(ECHO, &id, r#"[["f\udcff"], {}, {}]"#, |_| {}).to_string();
        let ours = match number {
            0 => ours,
            1 => ours.replace(ECHO, r"tests.\u0065cho"),
            2 => ours.replacen(r#""headers":{"#, r#""headers":{"x":{"y":NaN},"#, 1),
            3 => ours.replacen('{', r#"{"x":{"task":"app.other"},"#, 1),
            4 => ours.replace("\":", "\" : "),
            _ => protocol_1("tests.noop", &id, "ours"),
        };
        world.push(QUEUE, ours).await;
        eventually(&id, PATIENCE, async || {
            let document = world.get(&format!("celery-task-meta-{id}")).await?;
            document.starts_with(r#"{"status": "SUCCESS""#).then_some(())
        })
        .await;
    }
    let mut left: Vec<Vec<u8>> = world.db().lrange(QUEUE, 0, -1).await.expect("a list");
    left.reverse();
    for (left, sent) in left.iter().zip(&all) {
        assert_eq!(String::from_utf8_lossy(left), String::from_utf8_lossy(sent));
    }
    assert_eq!(left.len(), all.len());
    assert_eq!(parked(&world).await, [Value::Null; 0]);
    assert!(world.unacked().await.is_empty());
    assert!(workers.iter().all(Process::is_running));
}

/// kombu's `_do_restore_message`, given the records of `unacked` as hexadecimal digits.
const RESTORED_BY_KOMBU: &str = r#"
import json, sys
sys.setrecursionlimit(100000)
for line in sys.stdin:
    payload, _, _ = json.loads(bytes.fromhex(line).decode(errors="replace"))
    try:
        payload["headers"]["redelivered"] = True
        payload["properties"]["delivery_info"]["redelivered"] = True
    except KeyError:
        pass
    print(json.dumps(payload))
"#;

#[tokio::test]
async fn what_others_abandoned_is_restored_as_kombu_restores_it() {
    let world = World::new().await;
    let (of_kombu, _) = foreign();
    let mut records = String::new();
    for (number, element) in of_kombu.iter().enumerate() {
        let record = [b"[".as_slice(), element, br#", "", "celery"]"#].concat();
        records.extend(record.iter().map(|byte| format!("{byte:02x}")));
        records.push('\n');
        let tag = format!("tag-{number}");
        let _: usize = world.db().hset("unacked", &tag, &record).await.expect("a hash");
        let _: usize = world.db().zadd("unacked_index", &tag, 1).await.expect("a set");
    }
    let _worker = worker(&world, "one@test", &[("CELERY_VISIBILITY_TIMEOUT", "5")]);
    eventually("restored messages", PATIENCE * 2, async || {
        let left: usize = world.db().hlen("unacked").await.expect("a hash");
        (left == 0).then_some(())
    })
    .await;
    let expected = std::thread::spawn(move || {
        use std::io::Write as _;
        let mut python = std::process::Command::new("python3")
            .args(["-c", RESTORED_BY_KOMBU])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("Python 3, which the tests need");
        let mut stdin = python.stdin.take().expect("a pipe");
        let feeding = std::thread::spawn(move || stdin.write_all(records.as_bytes()));
        let output = python.wait_with_output().expect("an end");
        feeding.join().expect("no panic").expect("a reader");
        String::from_utf8(output.stdout).expect("ASCII")
    })
    .join()
    .expect("no panic");
    let mut restored = world.waiting(QUEUE).await;
    let mut expected: Vec<&str> = expected.lines().collect();
    restored.sort_unstable();
    expected.sort_unstable();
    for (restored, expected) in restored.iter().zip(&expected) {
        assert_eq!(restored, expected);
    }
    assert_eq!(restored.len(), of_kombu.len());
    assert_eq!(parked(&world).await, [Value::Null; 0]);
}

/// Messages of ours that cannot be run, by the exception that their clients get.
fn refused() -> Vec<(Value, &'static str)> {
    let body = r#"[[1], {}, {"errbacks": [], "chord": null}]"#;
    let of = |id: &str, body: &str, edit: &dyn Fn(&mut Value)| message(ECHO, id, body, edit);
    vec![
        (
            of("pickle", body, &|it| {
                it["content-type"] = json!("application/x-python-serialize");
            }),
            "ContentDisallowed",
        ),
        (
            of("lzma", body, &|it| {
                it["headers"]["compression"] = json!("application/x-lzma");
            }),
            "DecodeError",
        ),
        (
            of("no-zlib", body, &|it| {
                it["headers"]["compression"] = json!("application/x-gzip");
            }),
            "DecodeError",
        ),
        (of("base64", body, &|it| it["body"] = json!("A")), "DecodeError"),
        (of("not-json", "[[nan], {}, {}]", &|_| {}), "DecodeError"),
        (
            of("latin-1", "", &|it| {
                it["body"] = json!(BASE64_STANDARD.encode(b"[[\"\xe9\"], {}, {}]"));
            }),
            "DecodeError",
        ),
        (of("control", "[[\"\n\"], {}, {}]", &|_| {}), "DecodeError"),
        (
            of("msgpack", "", &|it| {
                it["content-type"] = json!("application/x-msgpack");
                it["body"] = json!(BASE64_STANDARD.encode(vec![0x91; 5_000]));
            }),
            "DecodeError",
        ),
        (
            of("no-body", body, &|it| it["body"] = Value::Null),
            "InvalidTaskError",
        ),
        (of("short", "[[1], {}]", &|_| {}), "InvalidTaskError"),
        (of("number", "7", &|_| {}), "InvalidTaskError"),
        (of("args", "[1, {}, {}]", &|_| {}), "InvalidTaskError"),
        (of("kwargs", "[[], [], {}]", &|_| {}), "InvalidTaskError"),
        (
            of("eta", body, &|it| it["headers"]["eta"] = json!("soon")),
            "InvalidTaskError",
        ),
        (
            of("expires", body, &|it| it["headers"]["expires"] = json!([])),
            "InvalidTaskError",
        ),
        (
            of("eta-nan", body, &|it| it["headers"]["eta"] = json!("MARK")),
            "InvalidTaskError",
        ),
    ]
}

#[tokio::test]
async fn a_client_is_told_why_its_task_cannot_run() {
    let world = World::new().await;
    let _worker = worker(&world, "one@test", &[]);
    let all = refused();
    for (message, _) in &all {
        world
            .push(QUEUE, message.to_string().replace("\"MARK\"", "NaN"))
            .await;
    }
    for (message, kind) in &all {
        let id = message["headers"]["id"].as_str().expect("an id");
        let result = world.ended(id).await;
        assert_eq!(
            (&result["status"], &result["result"]["exc_type"]),
            (&json!("FAILURE"), &json!(kind)),
            "{id}: {result}"
        );
        let modules = ["kombu.exceptions", "celery.exceptions"].map(Value::from);
        assert!(
            modules.contains(&result["result"]["exc_module"]),
            "{id}: {result}"
        );
    }
    eventually("all of them parked", PATIENCE, async || {
        (parked(&world).await.len() == all.len()).then_some(())
    })
    .await;
    // What does not fit a task's parameters is a failure like any other.
    let nan = message("tests.add", "nan", "[[NaN, 1], {}, {}]", |_| {});
    world.push(QUEUE, nan.to_string()).await;
    let result = world.ended("nan").await;
    assert_eq!(result["result"]["exc_message"], json!(["add(): cannot take nan"]));
    assert_eq!(parked(&world).await.len(), all.len());
    assert!(world.unacked().await.is_empty() && world.waiting(QUEUE).await.is_empty());
}

#[tokio::test]
async fn errbacks_and_chords_are_told_why_a_task_cannot_run() {
    let world = World::new().await;
    let _worker = worker(&world, "one@test", &[]);
    type Edit = fn(&mut Value);
    let cases: [(&str, &str, Edit); 3] = [
        ("args", "1", |_| {}),
        ("eta", "[1]", |it| it["headers"]["eta"] = json!("soon")),
        ("kwargs", "[NaN], []", |_| {}),
    ];
    for (id, args, edit) in cases {
        let body_id = format!("body-of-{id}");
        let mut body = signature("tests.xsum", &body_id);
        body["options"]["link_error"] = json!([signature(ECHO, &format!("body-errback-{id}"))]);
        let embed = json!({"errbacks": [signature(ECHO, &format!("errback-{id}"))], "chord": body});
        let kwargs = if args.contains(']') && args.contains("], [") {
            ""
        } else {
            ", {}"
        };
        let message = message(ECHO, id, &format!("[{args}{kwargs}, {embed}]"), |it| {
            it["headers"]["group"] = json!(format!("group-{id}"));
            it["headers"]["group_index"] = json!(0);
            edit(it);
        });
        world.set(&format!("celery-taskset-meta-group-{id}.s"), "1").await;
        world.push(QUEUE, message.to_string()).await;
        assert_eq!(
            world.ended(id).await["result"]["exc_type"],
            "InvalidTaskError",
            "{id}"
        );
        assert_eq!(world.ended(&format!("errback-{id}")).await["result"], json!(id));
        let failed = world.ended(&body_id).await;
        assert_eq!(failed["result"]["exc_type"], "ChordError", "{failed}");
        assert_eq!(
            world.ended(&format!("body-errback-{id}")).await["result"],
            json!(body_id)
        );
    }
    assert_eq!(parked(&world).await.len(), cases.len());
}

/// Only the body of a message names the chord.
#[tokio::test]
async fn a_part_whose_body_cannot_be_read_is_not_counted() {
    let world = World::new().await;
    let _worker = worker(&world, "one@test", &[]);
    world.set("celery-taskset-meta-group.s", "2").await;
    let chord = json!({"chord": signature("tests.xsum", "body")});
    for (index, body) in ["[[nan], {}, {}]".to_owned(), format!("[[1], {{}}, {chord}]")]
        .iter()
        .enumerate()
    {
        let part = message(ECHO, &format!("part-{index}"), body, |it| {
            it["headers"]["group"] = json!("group");
            it["headers"]["group_index"] = json!(index);
        });
        world.push(QUEUE, part.to_string()).await;
    }
    assert_eq!(world.ended("part-0").await["result"]["exc_type"], "DecodeError");
    assert_eq!(world.ended("part-1").await["status"], "SUCCESS");
    eventually("an end", PATIENCE, async || {
        world.unacked().await.is_empty().then_some(())
    })
    .await;
    let counted: usize = world
        .db()
        .zcard("celery-taskset-meta-group.j")
        .await
        .expect("a sorted set");
    assert_eq!((counted, world.stored("body").await), (1, None));
}

#[tokio::test]
async fn tasks_whose_queue_is_no_list_fail() {
    let world = World::new().await;
    let _worker = worker(&world, "one@test", &[]);
    world.set("occupied", "text").await;
    let astray = |id: &str| {
        let mut astray = signature(ECHO, id);
        astray["options"]["queue"] = json!("occupied");
        astray["options"]["link_error"] = json!([signature(ECHO, &format!("errback-of-{id}"))]);
        astray["options"]["chain"] = json!([signature(ECHO, &format!("after-{id}"))]);
        astray
    };
    // Beside one that can be sent.
    let links = json!([astray("callback"), signature(ECHO, "good")]);
    world
        .enqueue(embedding(task("tests.noop"), "callbacks", links))
        .await;
    let mut part = embedding(task("tests.noop"), "chord", astray("body"));
    part.headers.insert("group".into(), json!("header"));
    part.headers.insert("group_index".into(), json!(0));
    world.set("celery-taskset-meta-header.s", "1").await;
    world.enqueue(part).await;
    for id in ["callback", "body"] {
        let failed = world.ended(id).await;
        assert_eq!(failed["result"]["exc_type"], "OperationalError", "{failed}");
        assert_eq!(
            world.ended(&format!("errback-of-{id}")).await["result"],
            json!(id)
        );
        assert_eq!(world.ended(&format!("after-{id}")).await["status"], "FAILURE");
    }
    assert_eq!(world.ended("good").await["status"], "SUCCESS");
    eventually("an end", PATIENCE, async || {
        world.unacked().await.is_empty().then_some(())
    })
    .await;
    assert_eq!(parked(&world).await.len(), 2);
    assert_eq!(world.get("occupied").await.as_deref(), Some("text"));
}

#[tokio::test]
async fn a_chord_whose_keys_are_broken_fails() {
    let world = World::new().await;
    let _worker = worker(&world, "one@test", &[]);
    for (number, suffix) in [".j", ".d", ".t", ".s", ""].iter().enumerate() {
        let group = format!("group-{number}");
        let key = |suffix: &str| format!("celery-taskset-meta-{group}{suffix}");
        world.set(&key(".s"), "2").await;
        let _: usize = world.db().del(key(suffix)).await.expect("a number");
        let _: usize = world
            .db()
            .hset(key(suffix), "not", "Celery's")
            .await
            .expect("a hash");
        let body_id = format!("body-{number}");
        for index in 0..2 {
            let mut part = embedding(task("tests.noop"), "chord", signature("tests.xsum", &body_id));
            part.headers.insert("group".into(), json!(group));
            part.headers.insert("group_index".into(), json!(index));
            part.id = format!("part-{number}-{index}");
            world.enqueue(part).await;
        }
        let failed = world.ended(&body_id).await;
        assert_eq!(failed["result"]["exc_type"], "ChordError", "{suffix}: {failed}");
        for index in 0..2 {
            assert_eq!(
                world.ended(&format!("part-{number}-{index}")).await["status"],
                "SUCCESS"
            );
        }
    }
    eventually("an end", PATIENCE, async || {
        world.unacked().await.is_empty().then_some(())
    })
    .await;
}
