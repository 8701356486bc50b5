//! The scripts on a real server, with as many beats as it takes.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tradebot_base::secret::RedisUrl;
use tradebot_test_support::RedisServer;

use super::*;
use crate::due::{Decision, State, decide};
use crate::entry::{CatchUp, Entry};
use crate::slots::Plan;

const SECOND: Micros = 1_000_000;
const START: Micros = 1_800_000_000 * SECOND;

fn store(redis: &RedisServer) -> Store {
    let connection = || Connection::new(&RedisUrl::new(redis.url()), "beat").unwrap();
    Store::new(connection(), connection(), Keys::default(), String::new())
}

fn claim(guard: Guard, slot: Micros, message: Option<&str>) -> Claim<'static> {
    Claim {
        entry: "e",
        guard,
        slot,
        anchor: 5,
        message: message.map(|message| message.to_owned().into()),
        queue: "q",
        priority: Priority(3),
    }
}

async fn queued(redis: &RedisServer, list: &str) -> Vec<String> {
    let mut connection: MultiplexedConnection = redis.connection().await;
    cmd("LRANGE")
        .arg(&[list, "0", "-1"])
        .query_async(&mut connection)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_slot_is_taken_once_and_only_as_its_guard_says() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let record = |last, sent, runs| {
        Some(Record {
            last,
            anchor: 5,
            sent,
            runs,
        })
    };
    let taken = |record| Answer::Taken(record);
    for (guard, slot, message, expected) in [
        (Guard::First, 10, None, Answer::Passed),
        (Guard::First, 11, Some("x"), taken(record(10, None, 0))),
        (Guard::After, 10, Some("x"), taken(record(10, None, 0))),
        (Guard::After, 20, Some("a"), Answer::Sent),
        (Guard::After, 20, Some("x"), taken(record(20, Some(20), 1))),
        (Guard::After, 19, Some("x"), taken(record(20, Some(20), 1))),
        (Guard::Instead(19), 3, Some("x"), taken(record(20, Some(20), 1))),
        (Guard::Instead(20), 3, Some("b"), Answer::Sent),
        (Guard::After, 4, None, Answer::Passed),
        (Guard::After, 1_800_000_000_000_001, Some("c"), Answer::Sent),
        (
            Guard::After,
            1_800_000_000_000_001,
            Some("x"),
            taken(record(1_800_000_000_000_001, Some(1_800_000_000_000_001), 3)),
        ),
    ] {
        let answers = store.claim(&[claim(guard, slot, message)]).await.unwrap();
        assert_eq!(answers, [expected], "{guard:?} {slot}");
    }
    assert_eq!(queued(&redis, "q\u{6}\u{16}3").await, ["c", "b", "a"]);
    let records = store.records(&["e", "f"]).await.unwrap();
    assert_eq!(
        records,
        [
            record(1_800_000_000_000_001, Some(1_800_000_000_000_001), 3),
            None
        ]
    );
}

#[tokio::test]
async fn a_paused_entry_passes_its_slots_and_a_queue_that_is_none_costs_no_other_entry_anything() {
    let redis = RedisServer::start();
    let store = store(&redis);
    assert_eq!(store.set_paused(&["e".into()], true).await.unwrap(), 1);
    assert_eq!(store.paused().await.unwrap(), ["e"]);
    let first = claim(Guard::First, 10, Some("x"));
    assert_eq!(
        store.claim(std::slice::from_ref(&first)).await.unwrap(),
        [Answer::Paused]
    );
    assert_eq!(store.set_paused(&["e".into()], false).await.unwrap(), 1);
    let mut connection = redis.connection().await;
    let _: () = cmd("SET")
        .arg(&["odd", "text"])
        .query_async(&mut connection)
        .await
        .unwrap();
    let mut odd = claim(Guard::First, 20, Some("x"));
    (odd.entry, odd.queue, odd.priority) = ("odd", "odd", Priority(0));
    let answers = store
        .claim(&[odd.clone(), claim(Guard::After, 20, Some("a")), odd])
        .await
        .unwrap();
    assert!(
        matches!(&answers[0], Answer::Refused(reason) if reason.contains("WRONGTYPE")),
        "{answers:?}"
    );
    assert_eq!(answers[1], Answer::Sent);
    assert_eq!(store.records(&["odd"]).await.unwrap(), [None]);
    assert_eq!(queued(&redis, "q\u{6}\u{16}3").await, ["a"]);
}

#[tokio::test]
async fn the_lease_has_one_holder_until_it_is_given_back() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let lease = Duration::from_secs(60);
    let holder = store.keep("a", None, lease, Some(("{}", 15))).await.unwrap();
    assert_eq!((holder.instance.as_str(), holder.ahead), ("a", None));
    let holder = store.keep("b", Some(7), lease, None).await.unwrap();
    assert_eq!((holder.instance.as_str(), holder.ahead), ("a", None));
    assert_eq!(
        store.keep("a", Some(-7), lease, None).await.unwrap().ahead,
        Some(-7)
    );
    store.leave("b").await.unwrap();
    assert_eq!(store.keep("b", None, lease, None).await.unwrap().instance, "a");
    store.leave("a").await.unwrap();
    assert_eq!(store.keep("b", None, lease, None).await.unwrap().instance, "b");
}

/// Five beats whose clocks differ, that stop for a while, start anew without memory, are asked at any time, and lose
/// answers: of ten thousand slots each is sent once. (`all` of what was missed, so that no slot may be left out.)
#[tokio::test]
async fn ten_thousand_slots_get_one_message_each_whatever_becomes_of_five_beats() {
    const SLOTS: Micros = 10_000;
    let redis = RedisServer::start();
    let store = store(&redis);
    let mut entry = Entry::new("e", "t", "q", Plan::every(Duration::from_secs(1)));
    entry.catch_up = CatchUp::All(1000);
    let mut rng = fastrand::Rng::new();
    let mut beats = [State::default(); 5];
    let (mut now, mut lost, mut refused) = (START, 0, 0);
    let mut asleep = [START; 5];
    while now < START + SLOTS * SECOND {
        now += rng.i64(1..=SECOND);
        let number = rng.usize(0..beats.len());
        match rng.u32(0..100) {
            0 => asleep[number] = now + rng.i64(0..60 * SECOND),
            1 => beats[number] = State::default(),
            _ => {}
        }
        if asleep[number] > now {
            continue;
        }
        let skew = rng.i64(-SECOND / 2..SECOND / 2);
        let state = &mut beats[number];
        if state.record().is_none() {
            state.adopt(store.records(&["e"]).await.unwrap()[0]);
        }
        let Decision::Act(act) = decide(&entry, state, now + skew, false) else {
            continue;
        };
        assert_eq!(act.pass, None);
        for slot in act.slots {
            let mut one = claim(
                act.guard,
                slot,
                Some(&entry.message(entry.task_id(slot), slot, act.anchor, now, "o")),
            );
            (one.anchor, one.priority) = (act.anchor, Priority(0));
            let answer = store.claim(&[one]).await.unwrap().remove(0);
            if rng.u32(0..10) == 0 {
                // The answer is lost: this beat goes on as if it had not asked.
                lost += 1;
                break;
            }
            match answer {
                Answer::Sent => {}
                Answer::Taken(_) => refused += 1,
                other => panic!("{other:?}"),
            }
            state.adopt(store.records(&["e"]).await.unwrap()[0]);
        }
    }
    let record = store.records(&["e"]).await.unwrap()[0].unwrap();
    let mut sent: HashMap<String, usize> = HashMap::new();
    for message in queued(&redis, "q").await {
        let message: Value = serde_json::from_str(&message).unwrap();
        *sent
            .entry(message["headers"]["id"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    let mut slot = record.anchor;
    let mut expected = 0;
    while slot <= record.last {
        assert_eq!(sent.remove(&entry.task_id(slot)), Some(1), "slot {slot}");
        (slot, expected) = (slot + SECOND, expected + 1);
    }
    println!("{expected} slots, {lost} answers lost, {refused} claims refused");
    assert!(sent.is_empty() && expected > SLOTS - 100 && lost > 0 && refused > 0);
    assert_eq!(i64::try_from(record.runs), Ok(expected));
}
