//! Stopping: the worker finishes or hands back what runs, leaves nothing in `unacked`, and does not take long.

use std::process::ExitStatus;
use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use tradebot_base::market::Market;
use tradebot_test_support::{Process, Reply, Signal, bin, eventually};
use tradebot_wire::envelope::Envelope;

use crate::world::{PATIENCE, QUEUE, World, connected, good_list, now, path, warmup};

const SPOT: Market = Market::Spot;

/// Waits for the end of a process that was told to stop, within a time that is part of the promise.
fn ended_within(worker: &Process, limit: Duration) -> ExitStatus {
    let started = Instant::now();
    let status = worker.wait_exit(PATIENCE);
    let (took, limit) = (started.elapsed(), tradebot_test_support::stretched(limit));
    assert!(took <= limit, "{took:?} is longer than {limit:?}");
    status
}

/// The messages in the queue are these, marked as handed out before, and otherwise as they were sent.
async fn assert_handed_back(world: &World, sent: &[Envelope]) {
    let mut expected: Vec<String> = sent
        .iter()
        .map(|message| {
            let mut message = message.clone();
            message.mark_redelivered();
            message.to_json()
        })
        .collect();
    let mut queued = world.waiting(QUEUE).await;
    expected.sort();
    queued.sort();
    assert_eq!(queued, expected);
    assert!(
        queued
            .iter()
            .all(|text| text.matches(r#""redelivered": true"#).count() == 2)
    );
    assert!(world.unacked().await.is_empty());
}

/// A refresh that has begun, and takes this long.
async fn running_for(world: &World, time: Duration) -> Envelope {
    world
        .exchange
        .always(path(SPOT), Reply::json(good_list()).delay(time));
    let sent = world.enqueue(warmup(SPOT)).await;
    world.asked(SPOT, 1).await;
    sent
}

#[tokio::test]
async fn a_running_task_is_finished_and_nothing_else_is_begun() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let world = World::new().await;
        let worker = world.start_worker(&["-c", "1"]);
        let running = running_for(&world, Duration::from_secs(1)).await;
        let next = world.enqueue(warmup(SPOT)).await.to_json();
        worker.signal(signal);
        assert_eq!(worker.wait_exit(PATIENCE).code(), Some(0));
        let result = world.stored(running.id()).await.expect("a result");
        assert_eq!(result["result"], "WARMUP_OK:2");
        assert!(world.unacked().await.is_empty());
        assert_eq!(world.waiting(QUEUE).await, [next]);
        assert_eq!(world.exchange.count(path(SPOT)), 1);
    }
}

#[tokio::test]
async fn a_task_that_outlasts_the_deadline_goes_back_to_its_queue() {
    let world = World::new().await;
    let worker = connected(
        world
            .worker(&["-c", "2"])
            .env("WORKER_SHUTDOWN_TIMEOUT_SECONDS", "1"),
    );
    let mut sent = Vec::new();
    for market in Market::ALL {
        world.exchange.always(path(market), Reply::json("").hang());
        sent.push(world.enqueue(warmup(market)).await);
        world.asked(market, 1).await;
    }
    worker.signal(Signal::SIGTERM);
    let status = ended_within(&worker, Duration::from_secs(4));
    assert_eq!(status.code(), Some(0));
    worker.wait_for_line("warm stop took too long, cold stop", PATIENCE);
    assert_handed_back(&world, &sent).await;
    for message in &sent {
        assert_eq!(world.stored(message.id()).await, None);
    }
}

#[tokio::test]
async fn a_second_signal_ends_running_tasks_at_once() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let sent = world.enqueue(warmup(SPOT)).await;
    world.asked(SPOT, 1).await;
    worker.signal(Signal::SIGTERM);
    worker.wait_for_line("warm stop", PATIENCE);
    assert!(worker.is_running());
    worker.signal(Signal::SIGTERM);
    let status = ended_within(&worker, Duration::from_secs(2));
    assert_eq!(status.code(), Some(0));
    assert_handed_back(&world, &[sent]).await;
}

#[tokio::test]
async fn a_message_handed_back_is_run_by_the_next_worker() {
    let world = World::new().await;
    let worker = connected(world.worker(&[]).env("WORKER_SHUTDOWN_TIMEOUT_SECONDS", "0"));
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.asked(SPOT, 1).await;
    worker.signal(Signal::SIGTERM);
    worker.wait_exit(PATIENCE);
    world.exchange_lists(SPOT);
    let _next = world.start_worker(&[]);
    assert_eq!(world.ended(&id).await["result"], "WARMUP_OK:2");
}

#[tokio::test]
async fn messages_that_wait_for_their_eta_go_back_at_once() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    let mut sent = Vec::new();
    for hours in 1..=3 {
        let mut task = warmup(SPOT);
        task.eta = Some(now() + TimeDelta::hours(hours));
        sent.push(world.enqueue(task).await);
    }
    eventually("all three in unacked", PATIENCE, async || {
        (world.unacked().await.len() == 3).then_some(())
    })
    .await;
    worker.signal(Signal::SIGTERM);
    let status = ended_within(&worker, Duration::from_secs(2));
    assert_eq!(status.code(), Some(0));
    assert_handed_back(&world, &sent).await;
    assert_eq!(world.exchange.requests(), []);
}

#[tokio::test]
async fn an_idle_worker_stops_within_a_second() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    worker.signal(Signal::SIGTERM);
    let status = ended_within(&worker, Duration::from_secs(1));
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_worker_that_waits_for_its_redis_stops_within_a_second_or_two() {
    let world = World::new().await;
    world.redis.kill();
    let worker = world.worker(&[]).spawn();
    worker.wait_for_line("broker in trouble", PATIENCE);
    worker.signal(Signal::SIGTERM);
    let status = ended_within(&worker, Duration::from_secs(2));
    assert_eq!(status.code(), Some(0));
}

/// A server that stands still takes every command and answers none: each part that takes its leave waits in vain.
#[tokio::test]
async fn a_worker_whose_redis_stands_still_stops_within_seconds() {
    let world = World::new().await;
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let worker = connected(world.worker(&[]).env("WORKER_SHUTDOWN_TIMEOUT_SECONDS", "1"));
    world.enqueue(warmup(SPOT)).await;
    world.asked(SPOT, 1).await;
    world.redis.pause();
    worker.signal(Signal::SIGTERM);
    ended_within(&worker, Duration::from_millis(6_500));
    world.redis.resume();
}

#[tokio::test]
async fn a_stop_while_redis_is_away_leaves_the_message_in_unacked_and_says_so() {
    let world = World::on(tradebot_test_support::RedisServer::start_with(&[
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
    ]))
    .await;
    let worker = connected(world.worker(&[]).env("WORKER_SHUTDOWN_TIMEOUT_SECONDS", "1"));
    world.exchange.always(path(SPOT), Reply::json("").hang());
    let sent = world.enqueue(warmup(SPOT)).await;
    world.asked(SPOT, 1).await;
    world.redis.kill();
    worker.signal(Signal::SIGTERM);
    let status = ended_within(&worker, Duration::from_secs(5));
    worker.wait_for_line("the message stays in unacked", PATIENCE);
    assert_eq!(status.code(), Some(0));
    world.redis.restart();
    let world = world.reconnected().await;
    let unacked: Vec<String> = world.unacked().await.into_values().collect();
    assert_eq!(unacked, [format!(r#"[{}, "", "celery"]"#, sent.to_json())]);
}

/// The supervisor starts it again; Celery's worker starts itself again.
#[tokio::test]
async fn a_hangup_is_a_warm_stop_and_a_second_one_changes_nothing() {
    let world = World::new().await;
    let worker = world.start_worker(&["-c", "1"]);
    let running = running_for(&world, Duration::from_secs(1)).await;
    worker.signal(Signal::SIGHUP);
    worker.wait_for_line("warm stop", PATIENCE);
    worker.signal(Signal::SIGHUP);
    assert_eq!(worker.wait_exit(PATIENCE).code(), Some(0));
    let result = world.stored(running.id()).await.expect("a result");
    assert_eq!(result["result"], "WARMUP_OK:2");
    assert!(world.unacked().await.is_empty());
}

#[tokio::test]
async fn a_quit_signal_hands_running_tasks_back_at_once() {
    // Alone, and during a warm stop.
    for before in [None, Some(Signal::SIGTERM)] {
        let world = World::new().await;
        let worker = world.start_worker(&[]);
        world.exchange.always(path(SPOT), Reply::json("").hang());
        let sent = world.enqueue(warmup(SPOT)).await;
        world.asked(SPOT, 1).await;
        if let Some(before) = before {
            worker.signal(before);
            worker.wait_for_line("warm stop", PATIENCE);
        }
        worker.signal(Signal::SIGQUIT);
        let status = ended_within(&worker, Duration::from_secs(2));
        assert_eq!(status.code(), Some(0), "{}", worker.output());
        assert_handed_back(&world, &[sent]).await;
    }
}

#[tokio::test]
async fn a_user_signal_has_the_log_say_where_the_tasks_stand() {
    let world = World::new().await;
    let worker = world.start_worker(&["-c", "1"]);
    let active = running_for(&world, Duration::from_secs(3)).await;
    worker.signal(Signal::SIGUSR1);
    worker.wait_for_line("where the tasks stand", PATIENCE);
    let line = worker.wait_for_line("runtime_seconds", PATIENCE);
    for part in [active.id(), SPOT.warmup_task(), "phase=\"active\""] {
        assert!(line.contains(part), "{part}: {line}");
    }
    // It runs on, and says it again.
    assert_eq!(world.ended(active.id()).await["result"], "WARMUP_OK:2");
    worker.signal(Signal::SIGUSR1);
    worker.wait_for_line("active=0", PATIENCE);
    assert!(worker.is_running());
}

/// One for the log rotation of another program must not end a service.
#[tokio::test]
async fn a_user_signal_ends_no_program() {
    let world = World::new().await;
    for market in Market::ALL {
        world.exchange_lists(market);
    }
    for (program, arguments, ready) in [
        (
            "tradebot-symbols",
            &["serve", "--listen", "127.0.0.1:0"][..],
            "http is listening",
        ),
        (
            "tradebot-symbols",
            &["sandbox", "--listen", "127.0.0.1:0"],
            "sandbox is listening",
        ),
        ("tradebot-symbols", &["up"], "using the environment's Redis"),
        ("tradebot-beat", &[], " sent"),
    ] {
        let process = Process::builder(bin(program))
            .args(arguments)
            .envs(world.environment())
            .spawn();
        process.wait_for_line(ready, PATIENCE);
        process.signal(Signal::SIGUSR1);
        // It comes after the first, which would have ended the process.
        process.signal(Signal::SIGTERM);
        let status = process.wait_exit(2 * PATIENCE);
        assert_eq!(status.code(), Some(0), "{program} {arguments:?}: {status}");
    }
}
