//! Schedulers: Celery's own beat with our worker, our beat with a Python worker, and our beat by itself.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tradebot_test_support::{Process, Python, Signal, eventually, stretched};

use crate::fleet::{
    Fleet, PATIENCE, PYTHON_OK, SPOT_OK, SPOT_PATH, WARMUP_FUTURES, WARMUP_SPOT, WARMUPS, WITH_WARMUPS,
    message, task_of, text,
};

#[tokio::test]
async fn celerys_own_beat_keeps_lists_coming_from_our_worker() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _processes = (fleet.worker(), fleet.python_beat("1"));
        for market in ["spot", "futures"] {
            let counter = format!("metrics:warmup_{market}_symbols_cache:success");
            eventually("three refreshes", PATIENCE, async || {
                (fleet.number(&counter).await >= 3).then_some(())
            })
            .await;
        }
        let lists = fleet.lists();
        for (market, count) in [("spot", 3), ("futures", 2)] {
            let list = &lists[format!("cache:symbols:{market}:v1")];
            assert_eq!(list["value"].as_array().map(Vec::len), Some(count), "{lists}");
            assert_eq!(
                lists[format!("metrics:warmup_{market}_symbols_cache:error")],
                Value::Null
            );
            let refreshed =
                lists[format!("metrics:{market}_symbols_cache:last_refresh_ts")]["value"].as_i64();
            assert!(
                refreshed.expect("a time").abs_diff(now().timestamp()) < 30,
                "{lists}"
            );
        }
    }
}

#[tokio::test]
async fn our_beat_has_a_python_worker_run_both_warm_ups() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        let _worker = fleet.python_worker(&[WITH_WARMUPS]);
        let started = now();
        let beat = fleet.beat("120", "240");
        let runs = fleet.wait_for_runs(2).await;
        for (name, interval) in WARMUPS.iter().zip([120, 240]) {
            let run = runs
                .iter()
                .find(|run| run["task"] == *name)
                .expect("a run of each");
            let expires = time(&run["expires"]);
            assert_eq!((&run["args"], &run["kwargs"]), (&json!([]), &json!({})));
            assert_eq!(
                (&run["argsrepr"], &run["kwargsrepr"]),
                (&json!("()"), &json!("{}"))
            );
            assert_eq!(run["retries"], json!(0), "an integer, or Python cannot count");
            assert_eq!(
                run["timelimit"],
                json!([null, null]),
                "the worker's own limits hold"
            );
            assert_eq!((&run["eta"], &run["lang"]), (&Value::Null, &json!("py")));
            assert_eq!(
                (&run["root_id"], &run["correlation_id"]),
                (&run["id"], &run["id"])
            );
            let origin = text(&run["origin"]);
            assert!(origin.starts_with(&format!("gen{}@", beat.pid())), "{origin}");
            let interval = Duration::from_secs(interval);
            assert!(
                started + interval <= expires && expires <= now() + interval,
                "{run}"
            );
        }
        let ids: Vec<String> = runs.iter().map(|run| text(&run["id"])).collect();
        for result in fleet.results(&ids) {
            assert_eq!(result["result"], PYTHON_OK, "{result}");
        }
        stop(&beat);
    }
}

#[tokio::test]
async fn the_first_run_is_at_once_and_each_later_slot_gets_exactly_one_message() {
    let fleet = Fleet::start(Python::CELERY_NEWEST).await;
    let started = now();
    let beat = fleet.beat("1", "1");
    wait_for_messages(&fleet, 2 * 6).await;
    stop(&beat);

    let messages: Vec<Value> = fleet.waiting().await.iter().map(|raw| message(raw)).collect();
    // A message expires one interval after it was sent.
    let sent = |message: &Value| time(&message["headers"]["expires"]) - Duration::from_secs(1);
    let first = messages.iter().map(sent).min().expect("a message");
    let at_once = (first - started).num_milliseconds();
    assert!(at_once < 5000, "the first message came after {at_once} ms");
    for name in WARMUPS {
        let times = messages
            .iter()
            .filter(|message| message["headers"]["task"] == name)
            .map(sent);
        let off_the_grid: Vec<i64> = times
            .zip(0..)
            .map(|(time, slot)| (time - first).num_milliseconds() - 1000 * slot)
            .collect();
        println!("{name}: first after {at_once} ms, then off the grid by {off_the_grid:?} ms");
        assert!(off_the_grid.len() >= 6, "{off_the_grid:?}");
        assert!(
            off_the_grid.iter().all(|millis| millis.abs() <= 200),
            "a slot missed or filled twice, or drift"
        );
    }
    let ids: HashSet<String> = messages
        .iter()
        .map(|message| text(&message["headers"]["id"]))
        .collect();
    assert_eq!(ids.len(), messages.len(), "an id came twice");
}

#[tokio::test]
async fn messages_not_taken_within_their_interval_are_revoked() {
    for python in Python::ALL {
        let fleet = Fleet::start(python).await;
        // An interval of zero takes a market off the schedule.
        let beat = fleet.beat("2", "0");
        wait_for_messages(&fleet, 4).await;
        stop(&beat);
        let messages = fleet.waiting().await;
        let ids: Vec<String> = messages
            .iter()
            .map(|raw| text(&message(raw)["headers"]["id"]))
            .collect();
        let _worker = fleet.worker();
        let results = fleet.results(&ids);
        let states: Vec<&Value> = results.iter().map(|result| &result["state"]).collect();
        assert_eq!(states, ["REVOKED", "REVOKED", "REVOKED", "SUCCESS"]);
        for revoked in &results[..3] {
            assert_eq!(revoked["exception"]["message"], "expired", "{revoked}");
        }
        assert_eq!(results[3]["result"], SPOT_OK);
        assert_eq!(fleet.exchange.count(SPOT_PATH), 1, "expired tasks are not run");
        assert!(messages.iter().all(|raw| task_of(raw) == WARMUP_SPOT));
    }
}

#[tokio::test]
async fn a_beat_waits_for_a_redis_that_is_not_there_and_then_sends_once() {
    let fleet = Fleet::start(Python::CELERY_NEWEST).await;
    fleet.redis.kill();
    let impatient = fleet.beat("60", "60");
    impatient.wait_for_line("broker in trouble", PATIENCE);
    stop(&impatient);

    let beat = fleet.beat("60", "60");
    beat.wait_for_line("broker in trouble", PATIENCE);
    fleet.redis.restart();
    wait_for_messages(&fleet, 2).await;
    stop(&beat);
    let mut tasks: Vec<String> = fleet.waiting().await.iter().map(|raw| task_of(raw)).collect();
    tasks.sort();
    assert_eq!(tasks, [WARMUP_FUTURES, WARMUP_SPOT]);
    assert_eq!(beat.output().matches("broker in trouble").count(), 1, "said once");
}

#[tokio::test]
async fn a_beat_that_waits_for_a_stopped_redis_ends_within_the_time_it_gives_itself() {
    let fleet = Fleet::start(Python::CELERY_NEWEST).await;
    let beat = fleet.beat("0.02", "0");
    wait_for_messages(&fleet, 3).await;
    fleet.redis.pause();
    let (mut printed, mut unchanged) = (String::new(), 0);
    eventually("a beat that waits for an answer", PATIENCE, async || {
        let now = beat.output();
        unchanged = if now == printed { unchanged + 1 } else { 0 };
        printed = now;
        (unchanged == 10).then_some(())
    })
    .await;
    let asked = Instant::now();
    stop(&beat);
    // Two seconds for a warm stop; an answer of Redis would have been waited for for five.
    assert!(
        asked.elapsed() < stretched(Duration::from_millis(3500)),
        "{:?}",
        asked.elapsed()
    );
    fleet.redis.resume();
}

#[tokio::test]
async fn a_beat_says_at_its_start_what_it_will_send() {
    let fleet = Fleet::start(Python::CELERY_NEWEST).await;
    let beat = fleet.beat("7", "0.5");
    for (entry, task, every) in [
        ("warmup-spot-symbols-cache", WARMUP_SPOT, "7"),
        ("warmup-futures-symbols-cache", WARMUP_FUTURES, "0.5"),
    ] {
        let line = beat.wait_for_line(&format!("beat.entry=\"{entry}\""), PATIENCE);
        for part in [
            "scheduled",
            task,
            "queue=\"celery\"",
            &format!("plan=every {every} s"),
        ] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    stop(&beat);
}

#[tokio::test]
async fn a_beat_with_nothing_to_send_refuses_to_start_and_says_why() {
    let fleet = Fleet::start(Python::CELERY_NEWEST).await;
    let beat = fleet.beat("0", "0");
    assert_eq!(beat.wait_exit(PATIENCE).code(), Some(64));
    let reason = beat.stderr();
    for part in [
        "schedule is empty",
        "SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS",
        "FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    assert!(fleet.waiting().await.is_empty());
}

async fn wait_for_messages(fleet: &Fleet, count: usize) {
    eventually("messages of the beat", PATIENCE, async || {
        (fleet.waiting().await.len() >= count).then_some(())
    })
    .await;
}

fn stop(beat: &Process) {
    beat.signal(Signal::SIGTERM);
    assert_eq!(beat.wait_exit(PATIENCE).code(), Some(0));
}

fn now() -> DateTime<Utc> {
    SystemTime::now().into()
}

fn time(value: &Value) -> DateTime<Utc> {
    text(value)
        .parse()
        .unwrap_or_else(|error| panic!("{value}: {error}"))
}
