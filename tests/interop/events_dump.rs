//! `celery events --dump` beside our worker.

use tradebot_base::clock::SystemClock;
use tradebot_test_support::{Process, Python, RedisServer, Signal, bin, eventually};
use tradebot_wire::body::Body;
use tradebot_wire::task_message::TaskMessage;

use crate::fleet::PATIENCE;

const OURS: &str = "ours@lab";

/// A task that is dumped.
struct Dumped {
    id: &'static str,
    task: &'static str,
    /// As JSON, and as the dump shows them.
    args: [&'static str; 2],
    /// What is printed of it, in this order.
    events: &'static [&'static str],
    /// What the last event tells besides.
    outcome: &'static str,
}

const DUMPED: [Dumped; 3] = [
    Dumped {
        id: "success",
        task: "tests.add",
        args: ["[2, 3]", "(2, 3)"],
        events: &["task received", "task started", "task succeeded"],
        outcome: "result=5, runtime=",
    },
    Dumped {
        id: "failure",
        task: "tests.fail",
        args: [r#"["boom"]"#, "('boom',)"],
        events: &["task received", "task started", "task failed"],
        outcome: "exception=ValueError('boom')",
    },
    Dumped {
        id: "retry",
        task: "tests.retry",
        args: ["[1]", "(1,)"],
        events: &[
            "task received",
            "task started",
            "task retried",
            "task received",
            "task started",
            "task succeeded",
        ],
        outcome: "result=2, runtime=",
    },
];

/// `celery events --dump` prints what it is told, and gives a task's name to whatever follows its `task-received`.
#[tokio::test]
async fn celery_events_dump_prints_our_worker_and_its_tasks() {
    let redis = RedisServer::start();
    let url = redis.url();
    let env = ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "REDIS_URL"].map(|name| (name, url.as_str()));
    let dumps = Python::ALL.map(|python| python.celery(&["-A", "tests_app", "events", "--dump"], &env));
    let mut connection = redis.connection().await;
    eventually("both to listen", PATIENCE, async || {
        let clients: String = redis::cmd("CLIENT")
            .arg(&["LIST", "TYPE", "pubsub"])
            .query_async(&mut connection)
            .await
            .expect("a list of clients");
        (clients.matches(" psub=1 ").count() == dumps.len()).then_some(())
    })
    .await;
    let worker = Process::builder(bin("test-worker"))
        .args(["-E", "-n", OURS, "-Q", "ours", "-c", "1"])
        .envs(env)
        .spawn();
    for order in DUMPED {
        let message = TaskMessage {
            task: order.task.into(),
            id: order.id.into(),
            body: Body {
                args: serde_json::from_str(order.args[0]).expect("a list"),
                ..Body::default()
            },
            queue: "ours".into(),
            ..TaskMessage::default()
        };
        let envelope = message.into_envelope("gen1@tests", SystemClock::shared().now());
        redis::cmd("LPUSH")
            .arg(&["ours", &envelope.to_json()])
            .exec_async(&mut connection)
            .await
            .expect("a pushed message");
    }
    for order in DUMPED {
        for dump in &dumps {
            let last = order.events.last().expect("an end");
            wait_for(dump, &format!("{last}: "), &format!("({})", order.id)).await;
        }
    }
    worker.signal(Signal::SIGTERM);
    for (dump, python) in dumps.iter().zip(Python::ALL) {
        wait_for(dump, "] shutdown: ", "active=0").await;
        let printed = dump.stdout();
        let about = format!("{}\n{printed}", python.name());
        for head in ["started: active=0, clock=", "shutdown: active=0, clock="] {
            assert_eq!(lines(&printed, head).len(), 1, "{head}: {about}");
        }
        for order in DUMPED {
            let shown = format!("{}({}) args={} kwargs={{}} ", order.task, order.id, order.args[1]);
            let told = lines(&printed, &shown);
            let events: Vec<&str> = told
                .iter()
                .map(|line| line.split(&format!(": {shown}")).next().expect("a part"))
                .collect();
            assert_eq!(events, order.events, "{about}");
            let last = told.last().expect("lines");
            assert!(last.contains(order.outcome), "{}: {about}", order.outcome);
        }
    }
}

/// Waits until a dump has a line with both texts.
async fn wait_for(dump: &Process, one: &str, other: &str) {
    eventually(&format!("{one} and {other} of a dump"), PATIENCE, async || {
        let printed = dump.stdout();
        let mut lines = printed.lines();
        lines
            .any(|line| line.contains(one) && line.contains(other))
            .then_some(())
    })
    .await;
}

/// What follows node name and time in the lines that contain `text`.
fn lines<'a>(printed: &'a str, text: &str) -> Vec<&'a str> {
    let ours = printed.lines().filter(|line| line.contains(text));
    ours.map(|line| {
        let line = line.strip_prefix(OURS).expect("the node first");
        let (time, rest) = line
            .strip_prefix(" [")
            .and_then(|line| line.split_once("] "))
            .expect("the time");
        assert!(time.starts_with("20"), "{line}");
        rest
    })
    .collect()
}
