//! Workflows: the worker publishes what a message embeds, or leaves the message to workers that can.

use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::{Reply, eventually};
use tradebot_wire::envelope::Envelope;
use tradebot_wire::task_message::TaskMessage;

use crate::world::{MAX_RETRIES, PATIENCE, QUEUE, World, embedding, good_list, path, tried, warmup};

const SPOT: Market = Market::Spot;

/// A signature as Celery embeds it.
fn signature(name: &str, id: &str) -> Value {
    json!({"task": name, "args": [7], "kwargs": {"k": "v"}, "options": {"task_id": id, "reply_to": "producer"},
        "subtask_type": null, "immutable": false, "chord_size": null})
}

fn group(ids: &[&str]) -> Value {
    let tasks: Vec<Value> = ids.iter().map(|id| signature("app.tests.member", id)).collect();
    json!({"task": "celery.group", "args": [], "kwargs": {"tasks": tasks}, "options": {},
        "subtask_type": "group", "immutable": false})
}

/// Runs a task that succeeds, and returns its result with what lies in the queue then.
async fn run(world: &World, task: TaskMessage) -> (Value, Vec<Envelope>) {
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    let id = world.enqueue(task).await.id().to_owned();
    let result = world.ended(&id).await;
    assert!(world.unacked().await.is_empty());
    (result, queued(world).await)
}

async fn queued(world: &World) -> Vec<Envelope> {
    let parse = |text: &String| Envelope::parse(text.as_bytes()).expect("a task");
    world.waiting(QUEUE).await.iter().map(parse).collect()
}

#[tokio::test]
async fn a_link_is_published_with_the_result_before_its_arguments() {
    let world = World::new().await;
    let link = json!([signature("app.tests.after", "after")]);
    let (result, next) = run(&world, embedding(warmup(SPOT), "callbacks", link)).await;
    assert_eq!(result["result"], "WARMUP_OK:2");
    assert_eq!(result["children"], json!([[["after", null], null]]));
    let [next] = next.as_slice() else {
        panic!("{next:?}")
    };
    assert_eq!((next.task(), next.id()), ("app.tests.after", "after"));
    let body = next.body().expect("a body");
    assert_eq!(body.args, [json!("WARMUP_OK:2"), json!(7)]);
    assert_eq!(body.kwargs["k"], "v");
    assert_eq!(next.property("reply_to"), Some(json!("producer")));
    assert_eq!(
        next.text("parent_id").map(Value::from),
        Some(result["task_id"].clone())
    );
    assert_eq!(next.text("root_id"), next.text("parent_id"));
}

#[tokio::test]
async fn a_link_to_one_of_our_own_tasks_is_run() {
    let world = World::new().await;
    world.exchange_lists(Market::Futures);
    let mut link = signature(Market::Futures.warmup_task(), "after");
    (link["args"], link["kwargs"], link["immutable"]) = (json!([]), json!({}), json!(true));
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    world
        .enqueue(embedding(warmup(SPOT), "callbacks", json!([link])))
        .await;
    assert_eq!(world.ended("after").await["result"], "WARMUP_OK:2");
}

#[tokio::test]
async fn a_chain_goes_on_with_its_next_step_which_takes_the_rest_along() {
    let world = World::new().await;
    let chain = json!([
        group(&["x", "y"]),
        signature("app.tests.third", "third"),
        signature("app.tests.second", "second")
    ]);
    let (result, next) = run(&world, embedding(warmup(SPOT), "chain", chain.clone())).await;
    assert_eq!(result["status"], "SUCCESS");
    let [next] = next.as_slice() else {
        panic!("{next:?}")
    };
    assert_eq!((next.task(), next.id()), ("app.tests.second", "second"));
    let body = next.body().expect("a body");
    assert_eq!(body.args, [json!("WARMUP_OK:2"), json!(7)]);
    assert_eq!(body.embedded("chain"), &chain.as_array().expect("a list")[..2]);
}

#[tokio::test]
async fn embedded_signatures_survive_a_retry() {
    let world = World::new().await;
    world.exchange.reply(path(SPOT), Reply::status(404, ""));
    world.exchange.reply(path(SPOT), Reply::json(good_list()));
    let _worker = world.start_worker(&[]);
    let link = json!([signature("app.tests.after", "after")]);
    let id = world
        .enqueue(embedding(warmup(SPOT), "callbacks", link))
        .await
        .id()
        .to_owned();
    assert_eq!(world.ended(&id).await["status"], "SUCCESS");
    assert_eq!(
        queued(&world).await.iter().map(Envelope::id).collect::<Vec<_>>(),
        ["after"]
    );
    assert_eq!(world.exchange.count(path(SPOT)), 2);
}

#[tokio::test]
async fn a_failure_calls_the_errback_and_fails_the_rest_of_the_chain() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::status(404, ""));
    let _worker = world.start_worker(&[]);
    let mut task = tried(warmup(SPOT), MAX_RETRIES);
    task.body.embed.insert(
        "errbacks".into(),
        json!([signature("app.tests.failed", "errback")]),
    );
    task.body
        .embed
        .insert("callbacks".into(), json!([signature("app.tests.after", "after")]));
    task.body.embed.insert(
        "chain".into(),
        json!([
            signature("app.tests.third", "third"),
            signature("app.tests.second", "second")
        ]),
    );
    let id = world.enqueue(task).await.id().to_owned();
    assert_eq!(world.ended(&id).await["status"], "FAILURE");
    for abandoned in ["second", "third"] {
        let result = world.ended(abandoned).await;
        assert_eq!(result["status"], "FAILURE", "{result}");
        assert_eq!(result["result"]["exc_type"], "RuntimeError", "{result}");
    }
    let next = eventually("the errback", PATIENCE, async || {
        Some(queued(&world).await).filter(|next| !next.is_empty())
    })
    .await;
    let [next] = next.as_slice() else {
        panic!("{next:?}")
    };
    assert_eq!((next.task(), next.id()), ("app.tests.failed", "errback"));
    assert_eq!(next.body().expect("a body").args, [json!(id), json!(7)]);
    assert_eq!(world.stored("after").await, None);
}

/// A signature of a kind that Celery does not have.
fn sequence() -> Value {
    json!({"task": "app.sequence", "args": [], "kwargs": {}, "options": {}, "subtask_type": "sequence"})
}

#[tokio::test]
async fn a_message_whose_workflow_is_beyond_us_is_left_in_the_queue() {
    let world = World::new().await;
    let worker = world.start_worker(&["-c", "1"]);
    let mut routed = signature("app.tests.routed", "routed");
    routed["options"]["exchange"] = json!("topics");
    routed["options"]["routing_key"] = json!("a.b");
    let cases = [
        ("chord", sequence()),
        ("chain", json!([signature("app.tests.last", "last"), sequence()])),
        ("callbacks", json!([routed])),
    ];
    let mut left = Vec::new();
    for (number, (name, value)) in cases.into_iter().enumerate() {
        let sent = world.enqueue(embedding(warmup(SPOT), name, value)).await;
        worker.wait_for_nth_line("leaving a message to the Python workers", number + 1, PATIENCE);
        left.push(sent);
    }
    eventually("all of them in the queue", PATIENCE, async || {
        (world.waiting(QUEUE).await.len() == left.len() && world.unacked().await.is_empty()).then_some(())
    })
    .await;
    // It stays there, and others behind it are run.
    world.exchange_lists(SPOT);
    let (_, result) = world.run_last_try(SPOT).await;
    assert_eq!(result["status"], "SUCCESS");
    let queued = queued(&world).await;
    assert_eq!(queued.len(), left.len());
    for sent in &left {
        let queued = queued
            .iter()
            .find(|message| message.id() == sent.id())
            .expect("a message");
        assert_eq!(queued.body().expect("a body"), sent.body().expect("a body"));
        assert_eq!(world.stored(sent.id()).await, None);
    }
    assert_eq!(world.exchange.count(path(SPOT)), 1);
    assert_eq!(
        worker.output().matches("leaving a message").count(),
        left.len(),
        "each is taken once"
    );
    let index: usize = world.db().zcard("unacked_index").await.expect("a sorted set");
    assert_eq!(index, 0);
}
