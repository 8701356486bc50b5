//! The queue is shared: other tasks stay as they are, ours are found wherever they lie.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::{Process, Reply, bin, eventually};
use tradebot_wire::keys::SEP;
use tradebot_wire::task_message::TaskMessage;

use crate::world::{PATIENCE, QUEUE, World, connected, good_list, now, path, task, warmup};

const SPOT: Market = Market::Spot;
const BOT_TASKS: [&str; 3] = [
    "app.core.bot_tasks.run_bot_task_for_all",
    "app.core.bot_tasks.reactivate_bots_after_reset",
    "app.core.bot_tasks.run_bot_task",
];

/// A task in the form of Celery 3, where everything is in the body.
pub(crate) fn protocol_1(name: &str, id: &str, tag: &str) -> String {
    let body = json!({"task": name, "id": id, "args": [], "kwargs": {}, "retries": 0, "eta": null,
        "expires": null, "utc": true, "callbacks": null, "errbacks": null, "timelimit": [null, null],
        "taskset": null, "chord": null});
    json!({"body": BASE64_STANDARD.encode(body.to_string()), "content-encoding": "utf-8",
        "content-type": "application/json", "headers": {}, "properties": {"body_encoding": "base64",
        "correlation_id": id, "delivery_info": {"exchange": "celery", "routing_key": "celery"},
        "delivery_mode": 2, "delivery_tag": tag, "priority": 0}})
    .to_string()
}

/// Messages of others in every form that could be mistaken for one of ours, or for none of theirs.
fn foreign() -> Vec<String> {
    let ours = SPOT.warmup_task();
    let message = |task: TaskMessage| task.into_envelope("gen1@tests", now()).to_json();
    let mut messages: Vec<String> = BOT_TASKS.map(|name| message(task(name))).into();
    let mut talks_of_ours = task(BOT_TASKS[2]);
    talks_of_ours.body.args = vec![json!(ours), json!({"task": ours})];
    talks_of_ours.headers.insert("x-next".into(), json!(ours));
    messages.push(message(talks_of_ours));
    let begins_like_ours = task(&format!("{ours}_all"));
    messages.push(message(begins_like_ours));
    messages.push(protocol_1(BOT_TASKS[2], "old", "tag-of-old"));
    // From a producer that writes no blanks and escapes more than it must.
    messages.push(
        message(task("app.other"))
            .replace(": ", ":")
            .replace("app.other", r"app.\u006fther"),
    );
    messages
}

/// The ids of the tasks in the order in which they succeeded.
fn order_of_success(worker: &Process) -> Vec<String> {
    let output = worker.output();
    let ended = output.lines().filter(|line| line.contains("task succeeded"));
    let id = |line: &str| Some(line.split_once("task.id=\"")?.1.split_once('"')?.0.to_owned());
    ended.filter_map(id).collect()
}

#[tokio::test]
async fn messages_of_other_tasks_stay_byte_for_byte_and_in_order() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    // In front of ours, between them and behind them, some of it before there is a worker and some after.
    let mut ids = Vec::new();
    let mut others = Vec::new();
    for message in foreign() {
        world.push(QUEUE, &message).await;
        others.push(message);
        ids.push(world.enqueue(warmup(SPOT)).await.id().to_owned());
    }
    let _worker = world.start_worker(&[]);
    for message in foreign() {
        world.push(QUEUE, &message).await;
        others.push(message);
        ids.push(world.enqueue(warmup(SPOT)).await.id().to_owned());
    }
    for id in &ids {
        assert_eq!(world.ended(id).await["status"], "SUCCESS");
    }
    assert_eq!(world.waiting(QUEUE).await, others);
    assert!(world.unacked().await.is_empty());
    assert_eq!(world.waiting("tradebot-symbols:parked").await, [""; 0]);
}

#[tokio::test]
async fn how_many_messages_of_which_other_tasks_wait_is_published() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    let published = async || {
        let numbers: BTreeMap<String, usize> = world
            .db()
            .hgetall("tradebot-symbols:waiting")
            .await
            .expect("an answer");
        numbers
    };
    for number in [1, 2] {
        let message = task(BOT_TASKS[0]).into_envelope("gen1@tests", now());
        world.push(QUEUE, message.to_json()).await;
        eventually("the number of waiting messages", PATIENCE, async || {
            (published().await == BTreeMap::from([(BOT_TASKS[0].to_owned(), number)])).then_some(())
        })
        .await;
    }
    let kept: i64 = world
        .db()
        .pttl("tradebot-symbols:waiting")
        .await
        .expect("an answer");
    assert!((1..=60_000).contains(&kept), "{kept} ms");
    world.db().del::<_, ()>(QUEUE).await.expect("an answer");
    eventually("no waiting messages", PATIENCE, async || {
        published().await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn our_task_in_the_form_of_celery_3_is_run() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    let id = "f6b2c7f0-0000-4000-8000-000000000001";
    world.push(QUEUE, protocol_1(SPOT.warmup_task(), id, "tag")).await;
    assert_eq!(world.ended(id).await["result"], "WARMUP_OK:2");
    assert_eq!(world.waiting(QUEUE).await, [""; 0]);
}

#[tokio::test]
async fn a_message_with_nothing_but_a_name_and_an_id_is_run() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    let bare = json!({"body": "[[], {}, null]", "headers": {"task": SPOT.warmup_task(), "id": "bare"}});
    world.push(QUEUE, bare.to_string()).await;
    assert_eq!(world.ended("bare").await["result"], "WARMUP_OK:2");
}

#[tokio::test]
async fn lists_of_all_priorities_are_served_in_their_order() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let mut expected = Vec::new();
    for priority in [9, 6, 3, 0] {
        let id = format!("priority-{priority}");
        let mut task = warmup(SPOT);
        (task.id, task.priority.0) = (id.clone(), priority);
        world.enqueue(task).await;
        let list = if priority == 0 {
            QUEUE.to_owned()
        } else {
            format!("{QUEUE}{SEP}{priority}")
        };
        assert_eq!(world.waiting(&list).await.len(), 1, "{list}");
        expected.insert(0, id);
    }
    let worker = world.start_worker(&["-c", "1"]);
    worker.wait_for_nth_line("task succeeded", 4, PATIENCE);
    assert_eq!(order_of_success(&worker), expected);
}

#[tokio::test]
async fn a_retry_goes_to_the_list_its_message_came_from() {
    let world = World::new().await;
    world
        .exchange
        .always(path(SPOT), Reply::status(429, "").header("Retry-After", "60"));
    let worker = world.start_worker(&["-Q", "celery,other"]);
    let mut task = warmup(SPOT);
    task.queue = "other".into();
    task.priority.0 = 6;
    let sent = world.enqueue(task).await;
    world.result(sent.id(), "RETRY").await;
    worker.signal(tradebot_test_support::Signal::SIGTERM);
    worker.wait_exit(PATIENCE);
    let next = world.waiting(&format!("other{SEP}6")).await;
    assert_eq!(next.len(), 1);
    let next: Value = serde_json::from_str(&next[0]).expect("JSON");
    assert_eq!(
        (&next["headers"]["id"], &next["headers"]["retries"]),
        (&json!(sent.id()), &json!(1))
    );
}

#[tokio::test]
async fn several_queues_are_consumed_and_others_are_not() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let to = |queue: &str| {
        let mut task = warmup(SPOT);
        queue.clone_into(&mut task.queue);
        task
    };
    let elsewhere = world.enqueue(to("elsewhere")).await.to_json();
    let _worker = connected(world.worker(&["-Q", "one, two"]));
    for queue in ["one", "two"] {
        let id = world.enqueue(to(queue)).await.id().to_owned();
        assert_eq!(world.ended(&id).await["status"], "SUCCESS", "{queue}");
        let binding = format!("_kombu.binding.{queue}");
        let bound: bool = world
            .db()
            .sismember(binding, format!("{queue}{SEP}{SEP}{queue}"))
            .await
            .expect("a set");
        assert!(bound, "{queue}");
    }
    assert_eq!(world.waiting("elsewhere").await, [elsewhere]);
}

/// kombu takes one message from each queue in turn. A claim takes at most a quarter of the slots from one.
#[tokio::test]
async fn two_loaded_queues_are_served_alike() {
    for slots in [1, 8, 64] {
        let world = World::new().await;
        for number in 0..400 {
            let mut noop = task("tests.noop");
            noop.queue = ["one", "two"][number / 200].to_owned();
            noop.id = format!("{}-{number}", noop.queue);
            world.enqueue(noop).await;
        }
        let worker = Process::builder(bin("test-worker"))
            .args(["-c", &slots.to_string(), "-Q", "one,two"])
            .envs(world.environment())
            .spawn();
        worker.wait_for_nth_line("task succeeded", 400, PATIENCE);
        let mut ahead = 0_i32;
        let mut most = 0;
        for id in order_of_success(&worker) {
            ahead += if id.starts_with("one") { 1 } else { -1 };
            most = most.max(ahead.abs());
        }
        println!("{slots} slots: one queue is at most {most} ahead");
        assert!(most <= slots, "{slots} slots: {most}");
    }
}

#[tokio::test]
async fn two_workers_share_the_work_and_run_each_message_once() {
    let world = World::new().await;
    world.exchange.always(
        path(SPOT),
        Reply::json(good_list()).delay(std::time::Duration::from_millis(20)),
    );
    let _workers = [
        world.start_worker(&["-n", "one"]),
        world.start_worker(&["-n", "two"]),
    ];
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(world.enqueue(warmup(SPOT)).await.id().to_owned());
    }
    for id in &ids {
        assert_eq!(world.ended(id).await["status"], "SUCCESS");
    }
    assert_eq!(world.lists(SPOT).await.successes, 40);
    assert_eq!(world.exchange.count(path(SPOT)), 40);
}

#[tokio::test]
async fn a_message_of_others_without_a_delivery_tag_does_not_hide_ours() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    let others = [
        protocol_1(BOT_TASKS[2], "old", ""),
        protocol_1(BOT_TASKS[2], "older", "a"),
    ];
    for other in &others {
        world.push(QUEUE, other).await;
        assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS");
    }
    assert_eq!(world.waiting(QUEUE).await, others);
}
