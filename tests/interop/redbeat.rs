//! Our beat and RedBeat on the same keys: its tooling, and its scheduler taking over and back.

use redis::cmd;
use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, RedisServer, Signal, bin, eventually};

use crate::fleet::PATIENCE;

struct Shared {
    redis: RedisServer,
    schedule: tempfile::NamedTempFile,
}

impl Shared {
    fn start() -> Self {
        let schedule = tempfile::NamedTempFile::new().expect("a file");
        let text = "[[entry]]\nname = \"ours\"\ntask = \"tests.ours\"\ninterval = 1\npriority = 3\n\
                    [[entry]]\nname = \"daily\"\ntask = \"tests.daily\"\ncrontab = \"30 4 * * 1-5\"\n";
        std::fs::write(schedule.path(), text).expect("a written file");
        Self {
            redis: RedisServer::start(),
            schedule,
        }
    }

    fn beat(&self) -> Process {
        Process::builder(bin("tradebot-beat"))
            .arg("--redbeat")
            .arg("--schedule")
            .arg(self.schedule.path())
            .env("CELERY_BROKER_URL", self.redis.url())
            .env("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")
            .env("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")
            .spawn()
    }

    fn tool(&self, orders: Value) -> Vec<Value> {
        let answers =
            Python::CELERY_NEWEST.script("redbeat_tool.py", &[&self.redis.url(), &orders.to_string()], &[]);
        answers.as_array().expect("a list").clone()
    }

    /// How many messages of a task were sent, at whatever priority.
    async fn sent(&self, task: &str) -> usize {
        self.messages(task).await.len()
    }

    /// The messages of a task, at whatever priority, the last one first.
    async fn messages(&self, task: &str) -> Vec<Value> {
        let mut connection = self.redis.connection().await;
        let mut found = Vec::new();
        for list in ["celery", "celery\u{6}\u{16}3"] {
            let messages: Vec<String> = cmd("LRANGE")
                .arg(&[list, "0", "-1"])
                .query_async(&mut connection)
                .await
                .expect("messages");
            let messages = messages
                .iter()
                .map(|message| serde_json::from_str::<Value>(message).expect("a message"));
            found.extend(messages.filter(|message| message["headers"]["task"] == task));
        }
        found
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut connection = self.redis.connection().await;
        let answer = cmd(words[0]).arg(&words[1..]).query_async(&mut connection).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    async fn wait_for(&self, task: &str, further: usize) {
        let wanted = self.sent(task).await + further;
        eventually("further messages", PATIENCE, async || {
            (self.sent(task).await >= wanted).then_some(())
        })
        .await;
    }

    /// While the scheduler that has the lock sends on, for some rounds of the one that waits, that one does not say
    /// that it has the lock.
    async fn wait_without(&self, waiting: &Process, line: &str) {
        self.wait_for("tests.theirs", 3).await;
        let said = waiting.output();
        assert!(!said.contains(line), "two schedulers at a time: {said}");
    }
}

#[tokio::test]
async fn redbeats_tooling_reads_and_writes_what_our_beat_runs() {
    let shared = Shared::start();
    shared.tool(json!([
        ["save", "theirs", "tests.theirs", 1.0],
        ["crontab", "hourly", "tests.hourly", "5"]
    ]));
    let beat = shared.beat();
    shared.wait_for("tests.ours", 3).await;
    shared.wait_for("tests.theirs", 3).await;
    let loaded = shared.tool(json!([
        ["load", "ours"],
        ["load", "daily"],
        ["load", "theirs"],
        ["disable", "theirs"]
    ]));
    let [ours, daily, theirs, disabled] = &loaded[..] else {
        panic!("{loaded:?}")
    };
    assert_eq!(
        (&ours["task"], &ours["enabled"]),
        (&json!("tests.ours"), &json!(true)),
        "{ours}"
    );
    assert_eq!(
        ours["options"],
        json!({"queue": "celery", "priority": 3, "expires": 1.0})
    );
    assert_eq!(ours["schedule"], "<freq: 1.00 second>");
    assert!(
        daily["schedule"]
            .as_str()
            .is_some_and(|text| text.contains("30 4 * * 1-5")),
        "{daily}"
    );
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a time")
        .as_secs_f64();
    for entry in [ours, theirs] {
        let last = entry["last_run_at"].as_f64().expect("a last run");
        assert!((now - last).abs() < 10.0 && entry["rank"].is_number(), "{entry}");
    }
    assert!(daily["due_at"].as_f64().is_some_and(|due| due > now), "{daily}");
    assert_eq!(disabled["enabled"], json!(false));
    // What is disabled is not sent, once a tick that was on its way is over.
    shared.wait_for("tests.ours", 2).await;
    let before = shared.sent("tests.theirs").await;
    shared.wait_for("tests.ours", 2).await;
    assert_eq!(shared.sent("tests.theirs").await, before);
    assert_eq!(
        shared.sent("tests.hourly").await + shared.sent("tests.daily").await,
        shared.sent("tests.hourly").await
    );
    shared.tool(json!([["delete", "theirs"]]));
    beat.signal(Signal::SIGTERM);
    assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0));
}

#[tokio::test]
async fn a_python_redbeat_takes_over_and_back() {
    let shared = Shared::start();
    let url = shared.redis.url();
    shared.tool(json!([["save", "theirs", "tests.theirs", 1.0]]));
    let ours = shared.beat();
    shared.wait_for("tests.theirs", 2).await;

    // Python waits for the lock, and has it once our beat has ended.
    let args = [
        "-A",
        "tradebot_app",
        "beat",
        "-S",
        "redbeat.RedBeatScheduler",
        "--pidfile=",
        "--loglevel",
        "info",
    ];
    let env = [
        ("CELERY_BROKER_URL", url.as_str()),
        ("CELERY_RESULT_BACKEND", &url),
    ];
    let python = Python::CELERY_NEWEST.celery(&[&args[..], &["--max-interval", "1"]].concat(), &env);
    python.wait_for_line("Starting", PATIENCE);
    shared.wait_without(&python, "Acquired lock").await;
    ours.signal(Signal::SIGTERM);
    assert_eq!(ours.wait_exit(PATIENCE).code(), Some(0));
    python.wait_for_line("Acquired lock", PATIENCE);
    shared.wait_for("tests.theirs", 3).await;

    let ours = shared.beat();
    ours.wait_for_line("scheduled", PATIENCE);
    shared.wait_without(&ours, "this beat holds").await;
    python.signal(Signal::SIGTERM);
    python.wait_exit(PATIENCE);
    ours.wait_for_line("this beat holds RedBeat's lock", PATIENCE);
    shared.wait_for("tests.theirs", 3).await;
    shared.wait_for("tests.ours", 1).await;

    // Killed, it leaves the lock for as long as that lasts. Another of ours goes on.
    let other = shared.beat();
    ours.signal(Signal::SIGKILL);
    other.wait_for_line("this beat holds RedBeat's lock", PATIENCE);
    shared.wait_for("tests.theirs", 2).await;
}

/// Numbers beyond 64 bits, times, objects with a type: the message is the one that RedBeat sends.
#[tokio::test]
async fn values_that_json_has_no_form_for_are_sent_as_redbeat_sends_them() {
    const KINDS: [&str; 7] = [
        "big",
        "nan",
        "time",
        "typed",
        "expires",
        "expires_text",
        "expires_after",
    ];
    let shared = Shared::start();
    let orders = |order: &str| KINDS.map(|kind| json!([order, kind])).to_vec();
    shared.tool(json!(orders("odd")));
    let beat = shared.beat();
    for kind in KINDS {
        shared.wait_for(&format!("tests.{kind}"), 1).await;
    }
    beat.signal(Signal::SIGTERM);
    beat.wait_exit(PATIENCE);
    shared.tool(json!(orders("send")));
    for kind in KINDS {
        let messages = shared.messages(&format!("tests.{kind}")).await;
        let (theirs, ours) = (&messages[0], &messages[1]);
        assert_eq!(ours["body"], theirs["body"], "{kind}");
        assert_eq!(
            ours["properties"]["priority"], theirs["properties"]["priority"],
            "{kind}"
        );
        let at = |message: &Value| {
            let text = message["headers"]["expires"].as_str()?;
            Some(
                tradebot_wire::timestamp::parse(text)
                    .expect("a time")
                    .timestamp_micros(),
            )
        };
        if kind != "expires_after" {
            assert_eq!(at(ours), at(theirs), "{kind}");
        }
        if kind == "big" {
            let shown = ours["headers"]["argsrepr"].as_str().expect("a text");
            assert_eq!(shown, "(1180591620717411303424, -1180591620717411303424)");
        }
    }
}

/// One bad key costs no other entry, and the log names it once.
#[tokio::test]
async fn a_key_that_is_no_entry_stops_no_other() {
    let shared = Shared::start();
    shared.tool(json!([["save", "theirs", "tests.theirs", 1.0]]));
    let bad = [
        "redbeat:list",
        "redbeat:gone",
        "redbeat:text",
        "redbeat:ours",
        "redbeat:args",
    ];
    let _: u64 = shared.ask(&["LPUSH", "redbeat:list", "x"]).await;
    let _: u64 = shared
        .ask(&["HSET", "redbeat:text", "definition", "no JSON"])
        .await;
    let schedule = r#"{"__type__": "interval", "every": 1, "relative": false}"#;
    let definition =
        format!(r#"{{"name": "args", "task": "tests.args", "args": [{schedule}], "schedule": {schedule}}}"#);
    let _: u64 = shared
        .ask(&["HSET", "redbeat:args", "definition", &definition])
        .await;
    // One of our own entries, too.
    let _: u64 = shared.ask(&["SADD", "redbeat:ours", "x"]).await;
    let _: u64 = shared.ask(&["LPUSH", "redbeat::statics", "x"]).await;
    for key in bad {
        let _: u64 = shared.ask(&["ZADD", "redbeat::schedule", "1", key]).await;
    }
    let beat = shared.beat();
    shared.wait_for("tests.theirs", 3).await;
    for key in bad {
        let line = format!("\"{key}\" ");
        beat.wait_for_line(
            &format!("cannot run a RedBeat entry, leaving it to Python key={line}"),
            PATIENCE,
        );
        assert_eq!(
            beat.output()
                .lines()
                .filter(|said| said.contains("cannot run") && said.contains(&line))
                .count(),
            1
        );
    }
    // A key that the beat itself needs is replaced.
    for key in ["redbeat::lock", "redbeat::schedule"] {
        // In one step: the beat writes it again at any time.
        let _: u64 = shared.ask(&["LPUSH", "odd", "x"]).await;
        let _: () = shared.ask(&["RENAME", "odd", key]).await;
        beat.wait_for_line(&format!("key=\"{key}\""), PATIENCE);
    }
    // What is left of the schedule are our own entries.
    let _: u64 = shared.ask(&["DEL", "redbeat:ours"]).await;
    let _: () = shared.ask(&["SET", "redbeat::schedule", "x"]).await;
    shared.wait_for("tests.ours", 2).await;
}
