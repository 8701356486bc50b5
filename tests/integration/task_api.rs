//! What tasks can ask of their worker, seen by the Rust client. The tasks are those of Celery's integration suite, which
//! `make conformance` runs as a whole.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_symbols::client::{AsyncResult, Client, ClientSettings, ResultError, Signature};
use tradebot_test_support::{Process, bin, eventually};

use crate::world::{PATIENCE, QUEUE, World, connected};

/// A worker with the suite's tasks, and a client.
struct Scene {
    world: World,
    client: Client,
    _worker: Process,
}

async fn scene() -> Scene {
    let world = World::new().await;
    let worker = connected(
        Process::builder(bin("test-worker"))
            .args(["--celery-suite", "-c", "2"])
            .envs(world.environment()),
    );
    let client = client(&world);
    Scene {
        world,
        client,
        _worker: worker,
    }
}

fn client(world: &World) -> Client {
    let environment = world.environment();
    let environment: BTreeMap<&str, &str> = environment
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let settings = ClientSettings::read(&environment).expect("settings");
    Client::new(&settings, "tests").expect("a client")
}

fn s(name: &str) -> Signature {
    Signature::task(&format!("t.integration.tasks.{name}"))
}

impl Scene {
    async fn send(&self, signature: Signature) -> AsyncResult {
        self.client.send(signature).await.expect("a task that was sent")
    }

    async fn run(&self, signature: Signature) -> Value {
        let result = self.send(signature).await;
        result.get(PATIENCE).await.expect("a result")
    }

    /// How many runs of `tests.record` are noted under a key.
    async fn runs(&self, key: &str) -> u64 {
        self.world.db().hlen(key).await.expect("a number")
    }

    /// The exception of a task that fails.
    async fn failure(&self, signature: Signature) -> String {
        let result = self.send(signature).await;
        match result.get(PATIENCE).await {
            Err(ResultError::Task { exception, .. }) => exception.line(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_sends_every_kind_of_signature_and_gets_its_result() {
    let scene = scene().await;
    let add = |x: i64, y: i64| s("add").args([x, y]);
    assert_eq!(scene.run(add(1, 2)).await, json!(3));
    assert_eq!(scene.run(add(1, 2) | s("add").arg(3)).await, json!(6));
    assert_eq!(
        scene.run(Signature::group([add(1, 2), add(3, 4)])).await,
        json!([3, 7])
    );
    let chord = Signature::chord([add(1, 2), add(3, 4)], s("tsum"));
    assert_eq!(scene.run(chord).await, json!(10));
    let long = add(1, 1) | Signature::group([s("add").arg(1), s("add").arg(2)]) | s("tsum") | s("add").arg(1);
    assert_eq!(scene.run(long).await, json!(8));
    let all = scene.send(add(1, 1) | s("add").arg(1)).await;
    all.get(Duration::MAX).await.expect("a result");
    let first = all.parent().expect("the first step");
    assert_eq!(first.get(PATIENCE).await.expect("a result"), json!(2));
    let error = scene.failure(s("fail").arg("now")).await;
    assert_eq!(error, "ExpectedException: ('Task expected to fail', 'now')");
}

#[tokio::test]
async fn a_client_revokes_what_waits_and_what_runs() {
    let scene = scene().await;
    let running = scene.send(s("sleeping").arg(60)).await;
    let waiting = scene.send(s("sleeping").arg(60).countdown(60.0)).await;
    eventually("both tasks are held", PATIENCE, async || {
        (scene.world.unacked().await.len() == 2).then_some(())
    })
    .await;
    for (result, terminate) in [(&running, true), (&waiting, false)] {
        result.revoke(terminate).await.expect("a revocation");
        let ended = result.get(PATIENCE).await;
        assert!(
            matches!(&ended, Err(ResultError::Task { state, .. }) if state == "REVOKED"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn what_a_task_has_sent_leaves_when_a_revocation_ends_it() {
    let scene = scene().await;
    let sender = Signature::task("tests.send").arg("sent").arg(60_000);
    let sender = scene.send(sender).await;
    eventually("the task runs", PATIENCE, async || {
        (scene.world.unacked().await.len() == 1).then_some(())
    })
    .await;
    // The one slot beside it is free: whatever was sent before would run.
    scene.run(s("identity").arg(1)).await;
    assert_eq!(scene.runs("sent").await, 0);
    sender.revoke(true).await.expect("a revocation");
    let ended = sender.get(PATIENCE).await;
    assert!(
        matches!(&ended, Err(ResultError::Task { state, .. }) if state == "REVOKED"),
        "{ended:?}"
    );
    eventually("the task that was sent", PATIENCE, async || {
        (scene.runs("sent").await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_a_task_sends_is_its_child_and_leaves_with_its_result() {
    let scene = scene().await;
    let built = scene.send(s("build_chain_inside_task")).await;
    let tree = built.get(PATIENCE).await.expect("a result");
    let stored = scene.world.stored(built.id()).await.expect("a document");
    let mut first = &tree;
    while !first[0][1].is_null() {
        first = &first[0][1];
    }
    assert_eq!(stored["children"], json!([first]));
    // (1 + 1 + 2 + 3) + (1 + 1 + 2 + 4) + 5 needs a list, which `add` refuses: the chord's body fails.
    let id = tree[0][0].as_str().expect("an id");
    assert!(scene.client.result(id).get(PATIENCE).await.is_err());
}

#[tokio::test]
async fn a_replacement_has_the_id_and_the_successors_of_the_task() {
    let scene = scene().await;
    assert_eq!(scene.run(s("add_replaced").args([1, 2])).await, json!(3));
    let chain = s("add_replaced_with_chain").args([1, 2]) | s("add").arg(4);
    assert_eq!(scene.run(chain).await, json!(7));
    let chord = Signature::chord(
        [
            s("add_to_all").args([json!([1, 2]), json!(10)]),
            s("identity").arg(json!([])),
        ],
        s("identity"),
    );
    assert_eq!(scene.run(chord).await, json!([[11, 12], []]));
    let nesting = s("record_replaced_task_nesting").arg(3);
    assert_eq!(scene.run(nesting).await, json!([0, 1, 2, 3]));
    let error = scene.failure(s("replace_with_empty_chain")).await;
    assert_eq!(error, "ImproperlyConfigured: Cannot replace with an empty chain");
    let grown = Signature::chord(
        [s("add_to_all_to_chord").args([json!([1, 2, 3]), json!(4)])],
        s("tsum"),
    );
    assert_eq!(scene.run(grown).await, json!(5 + 6 + 7));
}

#[tokio::test]
async fn a_retry_may_have_other_arguments_and_another_limit() {
    let scene = scene().await;
    let retried = s("retry_with_args_after_kwargs")
        .kwarg("foo", 1)
        .kwarg("bar", 2)
        .kwarg("label", "l");
    let expected = json!({"foo": 2, "bar": 3, "label": "l", "retries": 1, "is_eager": false});
    assert_eq!(scene.run(retried).await, expected);
    let retried = s("retry_with_kwargs_after_args").args([1, 2]);
    let expected = json!({"foo": 2, "bar": 2, "retries": 1, "is_eager": false});
    assert_eq!(scene.run(retried).await, expected);
    let limit = json!({"max_retries": 1, "countdown": 0.0});
    let error = s("retry_unpickleable")
        .args(["foo", "bar"])
        .kwarg("retry_kwargs", limit);
    assert!(
        scene
            .failure(error)
            .await
            .starts_with("UnpickleableExceptionWrapper")
    );
    let headers = s("retry_once_headers").option("headers", json!({"mine": 7}));
    assert_eq!(scene.run(headers).await["mine"], 7);
}

#[tokio::test]
async fn a_rejected_message_fails_or_comes_again() {
    let scene = scene().await;
    assert_eq!(scene.run(s("reject_then_succeed")).await, "second-pass");
    let error = scene.failure(s("reject_without_requeue")).await;
    assert_eq!(error, "Reject: ('rejected', False)");
}

#[tokio::test]
async fn an_ignored_task_is_acknowledged_and_stores_nothing() {
    let scene = scene().await;
    let ignored = scene.send(Signature::task("tests.ignore")).await;
    // The worker takes messages in their order.
    scene.run(s("identity").arg(1)).await;
    eventually("the acknowledgement", PATIENCE, async || {
        let gone = scene.world.unacked().await.is_empty() && scene.world.waiting(QUEUE).await.is_empty();
        gone.then_some(())
    })
    .await;
    assert_eq!(ignored.state().await.expect("a state"), "PENDING");
}

#[tokio::test]
async fn a_running_task_stores_states_of_its_own() {
    let scene = scene().await;
    let running = scene
        .send(Signature::task("tests.progress").args([40, 2_000]))
        .await;
    eventually("PROGRESS", PATIENCE, async || {
        (running.state().await.ok()? == "PROGRESS").then_some(())
    })
    .await;
    assert_eq!(
        running.info().await.expect("an answer"),
        Some(json!({"done": 40}))
    );
    assert_eq!(running.get(PATIENCE).await.expect("a result"), Value::Null);
    assert_eq!(running.state().await.expect("a state"), "SUCCESS");
}

#[tokio::test]
async fn a_task_that_catches_its_soft_time_limit_may_finish() {
    let scene = scene().await;
    let guarded = s("delayed_sum_with_soft_guard").args([json!([1, 2]), json!(60)]);
    let caught = guarded
        .clone()
        .option("soft_time_limit", 0.2)
        .option("time_limit", 30);
    assert_eq!(scene.run(caught).await, json!(0));
    let uncaught = s("delayed_sum")
        .args([json!([1, 2]), json!(60)])
        .option("soft_time_limit", 0.2);
    assert_eq!(scene.failure(uncaught).await, "SoftTimeLimitExceeded");
}

#[tokio::test]
async fn an_errback_gets_the_request_if_it_asks_for_it() {
    let scene = scene().await;
    for (errback, times) in [("errback_old_style", 1), ("errback_new_style", 1)] {
        let failing = s("fail").on_error(s(errback));
        let id = scene.send(failing).await.id().to_owned();
        scene.world.ended(&id).await;
        eventually(errback, PATIENCE, async || {
            (scene.world.get(&id).await? == times.to_string()).then_some(())
        })
        .await;
    }
    let labelled = s("fail").on_error(s("errback_new_style_with_args").arg("label"));
    let id = scene.send(labelled).await.id().to_owned();
    scene.world.ended(&id).await;
    assert_eq!(scene.world.waiting(&id).await, ["label"]);
}

#[tokio::test]
async fn an_errback_that_panics_or_hangs_does_not_keep_the_failure() {
    let scene = scene().await;
    for hang in [false, true] {
        let errback = Signature::task("tests.errback").arg(hang);
        let failing = s("fail").on_error(errback).on_error(s("errback_old_style"));
        let id = scene.send(failing).await.id().to_owned();
        assert_eq!(scene.world.ended(&id).await["status"], "FAILURE");
        eventually("the other errback", PATIENCE, async || scene.world.get(&id).await).await;
    }
}

#[tokio::test]
async fn maps_run_here_if_they_map_a_task_of_ours() {
    let scene = scene().await;
    let map = |name: &str, task: &str, items: Value| {
        let task = Signature::task(task).into_value();
        Signature::task(name).kwarg("task", task).kwarg("it", items)
    };
    let ours = map("celery.map", "t.integration.tasks.identity", json!([1, 2]));
    assert_eq!(scene.run(ours).await, json!([1, 2]));
    let ours = map(
        "celery.starmap",
        "t.integration.tasks.add",
        json!([[1, 2], [3, 4]]),
    );
    assert_eq!(scene.run(ours).await, json!([3, 7]));
    let wrong = map("celery.map", "t.integration.tasks.add", json!([1]));
    let error = scene.failure(wrong).await;
    assert_eq!(error, "TypeError: add(): missing field `y`");
    let others = map("celery.map", "app.other", json!([1]));
    let left = scene.send(others).await;
    scene.run(s("identity").arg(1)).await;
    let still = left.get(Duration::from_millis(300)).await;
    assert!(matches!(still, Err(ResultError::Timeout(_))), "{still:?}");
    assert_eq!(scene.world.waiting(QUEUE).await.len(), 1);
}
