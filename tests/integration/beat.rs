//! The beat as an operator sees it: commands, metrics, and what it does while the broker is away.

mod odd_keys;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use redis::cmd;
use serde_json::Value;
use tradebot_test_support::{
    Process, ProcessBuilder, RedisServer, Signal, bin, eventually, free_port, stretched,
};

const PATIENCE: Duration = Duration::from_secs(30);
const USAGE: Option<i32> = Some(64);

struct Scene {
    redis: RedisServer,
    schedule: tempfile::NamedTempFile,
}

impl Scene {
    fn with(schedule: &str) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), schedule).expect("a written file");
        Self {
            redis: RedisServer::start(),
            schedule: file,
        }
    }

    fn beat(&self) -> ProcessBuilder {
        Process::builder(bin("tradebot-beat"))
            .env("BEAT_SCHEDULE", self.schedule.path())
            .env("CELERY_BROKER_URL", self.redis.url())
            .env("CELERY_RESULT_BACKEND", self.redis.url())
            .env("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")
            .env("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", "0")
    }

    /// What a command prints.
    fn command(&self, args: &[&str]) -> String {
        let command = self.beat().args(args).spawn();
        assert_eq!(
            command.wait_exit(PATIENCE).code(),
            Some(0),
            "{}",
            command.output()
        );
        command.stdout()
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let mut connection = self.redis.connection().await;
        command
            .query_async(&mut connection)
            .await
            .expect("an answer of Redis")
    }

    /// The messages of a queue, in the order in which they were sent.
    async fn sent(&self, queue: &str) -> Vec<Value> {
        let mut messages: Vec<String> = self.ask(cmd("LRANGE").arg(&[queue, "0", "-1"])).await;
        messages.reverse();
        messages
            .iter()
            .map(|message| serde_json::from_str(message).expect("a message"))
            .collect()
    }

    /// The last slot of an entry that was sent or passed over, in microseconds.
    async fn last_slot(&self, entry: &str) -> i64 {
        let record: String = self
            .ask(cmd("HGET").arg("tradebot-symbols:beat-slots").arg(entry))
            .await;
        let last = record.split(' ').next().and_then(|last| last.parse().ok());
        last.unwrap_or_else(|| panic!("{entry}: {record}"))
    }

    async fn wait_for(&self, queue: &str, count: usize) -> Vec<Value> {
        eventually("messages", PATIENCE, async || {
            Some(self.sent(queue).await).filter(|sent| sent.len() >= count)
        })
        .await
    }
}

fn stop(beat: &Process) {
    beat.signal(Signal::SIGTERM);
    assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0), "{}", beat.output());
}

#[test]
fn a_schedule_is_explained_without_a_broker() {
    let scene = Scene::with(
        "[[entry]]\nname = \"nightly\"\ntask = \"t\"\nqueue = \"slow\"\ncrontab = \"30 2 * * *\"\ntimezone = \"Europe/Istanbul\"\n",
    );
    scene.redis.kill();
    let told = scene.command(&["--explain"]);
    assert!(
        told.contains(
            "nightly\n  task      t\n  plan      30 2 * * * Europe/Istanbul\n  queue     slow, priority 0\n"
        ),
        "{told}"
    );
    assert_eq!(told.matches("T02:30:00+03:00").count(), 5, "{told}");
}

#[test]
fn a_schedule_that_cannot_be_used_is_refused_with_file_and_line() {
    let scene = Scene::with("[[entry]]\nname = \"e\"\ntask = \"t\"\ncrontab = \"* * * * 7\"\n");
    for args in [&[][..], &["--explain"], &["list"]] {
        let beat = scene.beat().args(args).spawn();
        assert_eq!(beat.wait_exit(PATIENCE).code(), USAGE);
        let told = beat.stderr();
        let place = format!(
            "{}, line 4: day_of_week `7`: expected",
            scene.schedule.path().display()
        );
        assert!(told.contains(&place) && told.contains("Sunday is 0"), "{told}");
    }
    let both = scene.beat().args(["--dry-run", "--redbeat"]).spawn();
    assert_eq!(both.wait_exit(PATIENCE).code(), USAGE);
    assert!(both.stderr().contains("cannot be used with"), "{}", both.stderr());
    let missing = scene.beat().args(["--schedule", "/nowhere.toml"]).spawn();
    assert_eq!(missing.wait_exit(PATIENCE).code(), USAGE);
    let zone = Scene::with(
        "[[entry]]\nname = \"e\"\ntask = \"t\"\ncrontab = \"* * * * *\"\ntimezone = \"Asia/Tokyo\"\n",
    );
    let beat = zone.beat().arg("--redbeat").spawn();
    assert_ne!(beat.wait_exit(PATIENCE).code(), Some(0));
    assert!(
        beat.stderr().contains("RedBeat has one timezone"),
        "{}",
        beat.stderr()
    );
}

#[tokio::test]
async fn entries_are_listed_run_at_once_paused_and_resumed() {
    let scene = Scene::with(
        "[[entry]]\nname = \"a\"\ntask = \"t.a\"\ninterval = 0.2\nargs = [7]\n[[entry]]\nname = \"b\"\ntask = \"t.b\"\ncrontab = \"0 0 1 1 *\"\nqueue = \"other\"\n[[entry]]\nname = \"c\"\ntask = \"t.c\"\ninterval = 1\nenabled = false\n",
    );
    let beat = scene.beat().spawn();
    scene.wait_for("celery", 3).await;
    let id = scene.command(&["run-now", "b"]);
    let sent = scene.wait_for("other", 1).await;
    assert_eq!(sent[0]["headers"]["id"], id.trim());
    assert_eq!(sent[0]["headers"]["task"], "t.b");

    assert_eq!(
        scene.command(&["pause", "a", "b"]),
        "2 changed, now paused: a, b\n"
    );
    let listed = scene.command(&["list"]);
    let rows: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows.len(), 4, "{listed}");
    assert_eq!((rows[1][0], rows[1][1]), ("a", "paused"));
    assert!(rows[1][2].parse::<u32>().is_ok_and(|runs| runs >= 3), "{listed}");
    assert_eq!((rows[2][0], rows[2][2], rows[2][3]), ("b", "0", "-"));
    assert!(rows[2][4].ends_with("-01-01T00:00:00Z"), "{listed}");
    assert!(rows[3].join(" ").starts_with("c disabled"), "{listed}");

    // From the moment of the command slots pass, and nothing is sent.
    let paused = scene.sent("celery").await.len();
    let last = scene.last_slot("a").await;
    eventually("slots that pass", PATIENCE, async || {
        (scene.last_slot("a").await >= last + 1_000_000).then_some(())
    })
    .await;
    assert_eq!(scene.sent("celery").await.len(), paused);
    scene.command(&["resume", "a"]);
    let resumed = scene.wait_for("celery", paused + 2).await;
    assert!(
        resumed.len() <= paused + 10,
        "slots of the pause were made up for"
    );
    assert!(
        resumed
            .iter()
            .all(|message| message["headers"]["argsrepr"] == "(7,)")
    );
    assert!(
        resumed.iter().all(|message| message["headers"]["task"] == "t.a"),
        "a disabled entry was sent"
    );
    stop(&beat);

    let unknown = scene.beat().args(["pause", "d"]).spawn();
    assert_eq!(unknown.wait_exit(PATIENCE).code(), USAGE);
    assert!(
        unknown
            .stderr()
            .contains("there is no entry `d`; the schedule has a, b, c")
    );
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_send_and_writes_nothing() {
    let scene = Scene::with("[[entry]]\nname = \"a\"\ntask = \"t.a\"\ninterval = 0.2\n");
    let beat = scene.beat().arg("--dry-run").spawn();
    beat.wait_for_nth_line("would be sent beat.entry=\"a\" task.name=\"t.a\"", 3, PATIENCE);
    stop(&beat);
    assert_eq!(scene.ask::<u64>(&cmd("DBSIZE")).await, 0);
}

#[tokio::test]
async fn an_interval_goes_on_where_it_was_after_a_restart() {
    let scene = Scene::with("[[entry]]\nname = \"a\"\ntask = \"t.a\"\ninterval = 600\n");
    for _ in 0..2 {
        let beat = scene.beat().spawn();
        scene.wait_for("celery", 1).await;
        // The lease is there once it has looked at the schedule.
        eventually("a beat that sends", PATIENCE, async || {
            scene
                .ask::<Option<String>>(cmd("GET").arg("tradebot-symbols:beat-leader"))
                .await
        })
        .await;
        stop(&beat);
        assert_eq!(
            scene
                .ask::<u64>(cmd("EXISTS").arg("tradebot-symbols:beat-leader"))
                .await,
            0,
            "given back"
        );
    }
    assert_eq!(
        scene.sent("celery").await.len(),
        1,
        "the restart began the interval anew"
    );
}

#[tokio::test]
async fn what_an_outage_cost_is_made_up_for_as_each_entry_says() {
    let entry = |policy: &str| {
        format!(
            "[[entry]]\nname = \"{policy}\"\ntask = \"t\"\nqueue = \"{policy}\"\ninterval = 1\ncatch_up = \"{policy}\"\n"
        )
    };
    let schedule = [
        entry("skip"),
        entry("one"),
        entry("all"),
        "catch_up_limit = 4\n".to_owned(),
    ]
    .concat();
    let scene = Scene::with(&schedule);
    let port = free_port();
    let beat = scene
        .beat()
        .args(["--metrics-listen", &format!("127.0.0.1:{port}")])
        .spawn();
    scene.wait_for("all", 2).await;
    assert!(get(port, "/healthz").starts_with("HTTP/1.1 200"));
    scene.redis.pause();
    // Its answers are waited for for five seconds, and then the connection is given up.
    beat.wait_for_line("broker in trouble", PATIENCE);
    // That was one slot's claim; let further slots pass, which nothing tells of while the server stands still.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let counts = async || {
        let mut counts = Vec::new();
        for queue in ["skip", "one", "all"] {
            counts.push(scene.sent(queue).await.len());
        }
        counts
    };
    scene.redis.resume();
    let before = counts().await;
    eventually("messages of all three", PATIENCE, async || {
        let now = counts().await;
        now.iter()
            .zip(&before)
            .all(|(now, before)| now >= &(before + 2))
            .then_some(())
    })
    .await;
    let ids = async |queue: &str| {
        let sent = scene.sent(queue).await;
        let ids: std::collections::HashSet<String> = sent
            .iter()
            .map(|message| message["headers"]["id"].to_string())
            .collect();
        (ids.len(), sent.len())
    };
    for queue in ["skip", "one", "all"] {
        let (ids, sent) = ids(queue).await;
        assert_eq!(ids, sent, "a slot was sent twice");
    }
    let after = counts().await;
    assert!(after[2] >= after[1] + 2, "all made up for several: {after:?}");
    let numbers = get(port, "/metrics");
    let number = |name: &str| -> f64 {
        let line = numbers
            .lines()
            .find(|line| line.starts_with(&format!("tradebot_beat_{name} ")));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{name}: {numbers}"))
    };
    assert!(
        number("missed_total") >= 5.0 && number("broker_errors_total") >= 1.0,
        "{numbers}"
    );
    assert!(
        number("lateness_seconds_count") >= number("sent_total"),
        "{numbers}"
    );
    assert_eq!(number("leader"), 1.0);
    assert!(
        numbers.contains("Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n")
            && numbers.contains("# TYPE tradebot_beat_sent_total counter\n"),
        "{numbers}"
    );
    let numbers = get(
        port,
        "/metrics HTTP/1.1\r\naccept: application/openmetrics-text\r\nx:",
    );
    assert!(
        numbers.contains("Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n")
            && numbers.ends_with("# EOF\n"),
        "{numbers}"
    );
    for (path, status) in [("/", "404"), ("/metrics?x=1", "200")] {
        assert!(
            get(port, path).starts_with(&format!("HTTP/1.1 {status}")),
            "{path}"
        );
    }
    stop(&beat);
}

#[tokio::test]
async fn an_entry_that_waits_for_its_result_is_not_sent_while_there_is_none() {
    let scene = Scene::with(
        "[[entry]]\nname = \"a\"\ntask = \"t.a\"\ninterval = 0.3\nexpires = false\nunless_pending = true\n",
    );
    let beat = scene.beat().spawn();
    let sent = scene.wait_for("celery", 1).await;
    beat.wait_for_nth_line("the previous one is pending", 3, PATIENCE);
    assert_eq!(scene.sent("celery").await.len(), 1);
    let id = sent[0]["headers"]["id"].as_str().expect("an id");
    let key = format!("celery-task-meta-{id}");
    let _: () = scene
        .ask(cmd("SET").arg(&key).arg(r#"{"status": "RETRY"}"#))
        .await;
    beat.wait_for_nth_line("the previous one is pending", 6, PATIENCE);
    assert_eq!(scene.sent("celery").await.len(), 1);
    let _: () = scene
        .ask(cmd("SET").arg(&key).arg(r#"{"status": "SUCCESS"}"#))
        .await;
    scene.wait_for("celery", 2).await;
    stop(&beat);
}

#[tokio::test]
async fn a_beat_tells_of_itself_until_it_ends() {
    let scene = Scene::with("[[entry]]\nname = \"a\"\ntask = \"t.a\"\ninterval = 0.2\n");
    let beat = scene.beat().spawn();
    let heartbeat = eventually("a heartbeat", PATIENCE, async || {
        let keys: Vec<String> = scene.ask(cmd("KEYS").arg("tradebot-symbols:beat:*")).await;
        let heartbeat: Option<String> = scene.ask(cmd("GET").arg(keys.first()?)).await;
        let heartbeat: Value = serde_json::from_str(&heartbeat?).expect("JSON");
        // The first is written before anything was sent.
        heartbeat["last_slot"]
            .is_number()
            .then_some((keys[0].clone(), heartbeat))
    })
    .await;
    let (key, heartbeat) = heartbeat;
    assert_eq!(heartbeat["pid"], beat.pid());
    assert_eq!(
        (&heartbeat["entries"], &heartbeat["leader"]),
        (&1.into(), &true.into())
    );
    assert_eq!(heartbeat["version"], env!("CARGO_PKG_VERSION"));
    for name in ["started_at", "next_due"] {
        assert!(
            heartbeat[name].is_number() && heartbeat["host"].is_string(),
            "{heartbeat}"
        );
    }
    let left: i64 = scene.ask(cmd("TTL").arg(&key)).await;
    assert!((1..=15).contains(&left), "{left}");
    stop(&beat);
    assert_eq!(scene.ask::<u64>(cmd("EXISTS").arg(&key)).await, 0);
}

/// The listener takes 16 connections, five seconds for each and eight KiB of a request.
#[tokio::test]
async fn silent_and_verbose_clients_do_not_block_the_beats_metrics() {
    let scene = Scene::with("[[entry]]\nname = \"a\"\ntask = \"t.a\"\ninterval = 1\n");
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let beat = scene.beat().args(["--metrics-listen", &address]).spawn();
    scene.wait_for("celery", 1).await;
    let open = || TcpStream::connect(&address).expect("a connection");

    let mut long = open();
    let mut request = b"GET /healthz HTTP/1.1\r\nlong: ".to_vec();
    request.resize(8 << 10, b'x');
    long.write_all(&request).expect("a request without its end");
    assert!(answer(long).starts_with("HTTP/1.1 200"));

    let since = Instant::now();
    let silent: Vec<TcpStream> = (0..16).map(|_| open()).collect();
    assert!(get(port, "/healthz").starts_with("HTTP/1.1 200"));
    let took = since.elapsed();
    assert!(
        took > Duration::from_secs(3),
        "one more than 16 was served: {took:?}"
    );
    assert!(took < stretched(Duration::from_secs(10)), "{took:?}");
    drop(silent);
    stop(&beat);
}

fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: beat\r\n\r\n").expect("a request");
    answer(stream)
}

fn answer(mut stream: TcpStream) -> String {
    stream
        .set_read_timeout(Some(stretched(PATIENCE)))
        .expect("a timeout");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// A terminal that closes, or a supervisor that reloads: the beat ends in order, and its lease is free at once.
#[tokio::test]
async fn a_hangup_ends_a_beat_in_order() {
    for signal in [Signal::SIGHUP, Signal::SIGQUIT] {
        let scene = Scene::with("[[entry]]\nname = \"e\"\ntask = \"t\"\ninterval = 0.2\n");
        let beat = scene.beat().spawn();
        scene.wait_for("celery", 2).await;
        beat.signal(signal);
        assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0), "{}", beat.output());
        beat.wait_for_line("beat stopped", PATIENCE);
        if signal == Signal::SIGHUP {
            let lease: Option<String> = scene.ask(cmd("GET").arg("tradebot-symbols:beat-leader")).await;
            assert_eq!(lease, None);
        }
    }
}
