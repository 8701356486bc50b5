//! Queues as kombu serves and names them: in turn, with the priority steps and the separator of the deployment.

use redis::cmd;
use serde_json::{Value, json};
use tradebot_test_support::{Python, eventually};

use crate::fleet::PATIENCE;
use crate::remote::{OURS, Remote, THEIRS, answer, send};

/// Tasks that wait in the first queue, 50 ms each.
const BACKLOG: usize = 100;

#[tokio::test]
async fn a_queue_is_served_in_turn_whatever_waits_in_another() {
    for python in Python::ALL {
        let mut left = Vec::new();
        for is_ours in [true, false] {
            let remote = Remote::start(python);
            let queues = ["-Q", "a,b", "-c", "1"];
            let _worker = match is_ours {
                true => remote.worker(&queues),
                false => remote.python_worker(&queues),
            };
            let to = |queue: &str| json!({"queue": queue});
            let mut steps: Vec<Value> = (0..BACKLOG)
                .map(|number| send("tests.sleep", &format!("a{number}"), json!([0.05]), to("a")))
                .collect();
            steps.push(send("tests.noop", "b", json!([]), to("b")));
            steps.push(json!({"get": "b"}));
            let outcomes = remote.steps(&steps);
            assert_eq!(outcomes[BACKLOG + 1]["state"], "SUCCESS");
            let waiting: usize = remote.redis(cmd("LLEN").arg("a")).await;
            left.push(waiting);
        }
        println!("left in the other queue: {left:?}");
        assert!(left.iter().all(|waiting| *waiting > BACKLOG / 4), "{left:?}");
    }
}

#[tokio::test]
async fn all_priorities_and_the_separator_of_the_clients_are_understood() {
    for python in Python::ALL {
        let remote = Remote::start(python)
            .with("CELERY_PRIORITY_STEPS", "0,1,2,3,4,5,6,7,8,9")
            .with("CELERY_SEP", ":");
        let ours = remote.worker(&["-Q", "ours"]);
        let _theirs = remote.python_worker(&[]);
        let id = |priority: usize| format!("priority {priority}");
        let mut steps: Vec<Value> = (0..10)
            .map(|priority| {
                let options = json!({"queue": "ours", "priority": priority});
                send("tests.sleep", &id(priority), json!([0]), options)
            })
            .collect();
        // Through the exchange: Python reads all of its bindings.
        let options = json!({"exchange": "ours", "routing_key": "ours"});
        steps.push(send("tests.sleep", "exchange", json!([0]), options));
        steps.extend((0..10).map(|priority| json!({"get": id(priority)})));
        steps.push(json!({"get": "exchange"}));
        steps.push(json!({"ask": "ping", "to": [OURS, THEIRS]}));
        let outcomes = remote.steps(&steps);
        for outcome in &outcomes[11..22] {
            assert_eq!(outcome["state"], "SUCCESS", "{outcome}");
        }
        for node in [OURS, THEIRS] {
            assert_eq!(answer(&outcomes[22], node)["ok"], "pong");
        }
        let members: Vec<String> = remote.redis(cmd("SMEMBERS").arg("_kombu.binding.ours")).await;
        assert_eq!(members, ["ours::ours"]);
        assert!(ours.is_running());
    }
}

/// One binding in the form of another separator, and each publish of Python through the exchange raises `ValueError`.
#[tokio::test]
async fn a_queue_is_not_bound_in_a_form_that_its_clients_cannot_read() {
    let python = Python::ALL[0];
    let remote = Remote::start(python)
        .with("CELERY_PRIORITY_STEPS", "0,3,6,9")
        .with("CELERY_SEP", ":");
    let bound: usize = remote
        .redis(cmd("SADD").arg("_kombu.binding.ours").arg("ours::ours"))
        .await;
    assert_eq!(bound, 1);
    let ours = remote.worker_in(OURS, &["-Q", "ours"], &[("CELERY_SEP", "|")]);
    let warned = eventually("a warning", PATIENCE, async || {
        let output = ours.output();
        output.contains("did not bind a queue").then_some(output)
    })
    .await;
    assert!(warned.contains("CELERY_SEP"), "{warned}");
    let members: Vec<String> = remote.redis(cmd("SMEMBERS").arg("_kombu.binding.ours")).await;
    assert_eq!(members, ["ours::ours"]);
    let options = json!({"exchange": "ours", "routing_key": "ours"});
    let outcomes = remote.steps(&[
        send("tests.sleep", "exchange", json!([0]), options),
        json!({"get": "exchange"}),
    ]);
    assert_eq!(outcomes[1]["state"], "SUCCESS");
}
