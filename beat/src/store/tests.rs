//! The scripts on a real server, also with several beats.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tradebot_base::secret::RedisUrl;
use tradebot_test_support::{RedisServer, seeded_rng};

use super::*;
use crate::due::{Decision, Progress, decide};
use crate::entry::{CatchUp, ScheduleEntry};
use crate::slots::Plan;

const SECOND: Micros = 1_000_000;
const START: Micros = 1_800_000_000 * SECOND;

fn store(redis: &RedisServer) -> Store {
    let connection = || Connection::new(&RedisUrl::new(redis.url()), "beat").unwrap();
    Store::new(connection(), connection(), Keys::default(), String::new())
}

fn claim(guard: Guard, slot: Micros, message: Option<&str>) -> SlotClaim<'static> {
    SlotClaim {
        entry: "e",
        guard,
        slot,
        anchor: 5,
        message: message.map(str::to_owned),
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
async fn a_slot_is_claimed_once_and_only_as_its_guard_allows() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let record = |last, sent, runs| {
        Some(SlotRecord {
            last,
            anchor: 5,
            sent,
            runs,
        })
    };
    let taken = |record| ClaimResult::Taken(record);
    for (guard, slot, message, expected) in [
        (Guard::First, 10, None, ClaimResult::Passed),
        (Guard::First, 11, Some("x"), taken(record(10, None, 0))),
        (Guard::After, 10, Some("x"), taken(record(10, None, 0))),
        (Guard::After, 20, Some("a"), ClaimResult::Sent),
        (Guard::After, 20, Some("x"), taken(record(20, Some(20), 1))),
        (Guard::After, 19, Some("x"), taken(record(20, Some(20), 1))),
        (Guard::Instead(19), 3, Some("x"), taken(record(20, Some(20), 1))),
        (Guard::Instead(20), 3, Some("b"), ClaimResult::Sent),
        (Guard::After, 4, None, ClaimResult::Passed),
        (Guard::After, 1_800_000_000_000_001, Some("c"), ClaimResult::Sent),
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
async fn a_paused_entry_passes_its_slots_and_a_refused_push_does_not_affect_other_entries() {
    let redis = RedisServer::start();
    let store = store(&redis);
    assert_eq!(store.set_paused(&["e".into()], true).await.unwrap(), 1);
    assert_eq!(store.paused().await.unwrap(), ["e"]);
    let first = claim(Guard::First, 10, Some("x"));
    assert_eq!(
        store.claim(std::slice::from_ref(&first)).await.unwrap(),
        [ClaimResult::Paused]
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
        matches!(&answers[0], ClaimResult::Refused(reason) if reason.contains("WRONGTYPE")),
        "{answers:?}"
    );
    assert_eq!(answers[1], ClaimResult::Sent);
    assert_eq!(store.records(&["odd"]).await.unwrap(), [None]);
    assert_eq!(queued(&redis, "q\u{6}\u{16}3").await, ["a"]);
}

#[tokio::test]
async fn the_lease_has_one_holder_until_it_is_released() {
    let redis = RedisServer::start();
    let store = store(&redis);
    let lease = Duration::from_secs(60);
    let holder = store.renew_lease("a", None, lease, Some("{}")).await.unwrap();
    assert_eq!((holder.instance.as_str(), holder.ahead), ("a", None));
    let holder = store.renew_lease("b", Some(7), lease, None).await.unwrap();
    assert_eq!((holder.instance.as_str(), holder.ahead), ("a", None));
    assert_eq!(
        store.renew_lease("a", Some(-7), lease, None).await.unwrap().ahead,
        Some(-7)
    );
    let key = store.keys().beat_leader();
    store.leave(&key, "b").await.unwrap();
    assert_eq!(
        store.renew_lease("b", None, lease, None).await.unwrap().instance,
        "a"
    );
    store.leave(&key, "a").await.unwrap();
    assert_eq!(
        store.renew_lease("b", None, lease, None).await.unwrap().instance,
        "b"
    );
}

/// Five beats with different clocks pause, restart without memory, run at random times and lose answers. Each of ten
/// thousand slots is sent once; `catch_up` is `all`, so that none may be missing.
#[tokio::test]
async fn ten_thousand_slots_get_one_message_each_from_five_unreliable_beats() {
    const SLOTS: Micros = 10_000;
    let redis = RedisServer::start();
    let store = store(&redis);
    let mut entry = ScheduleEntry::new("e", "t", "q", Plan::every(Duration::from_secs(1)));
    entry.catch_up = CatchUp::All(1000);
    let mut rng = seeded_rng();
    let mut beats = [Progress::default(); 5];
    let (mut now, mut lost, mut refused) = (START, 0, 0);
    let mut asleep = [START; 5];
    while now < START + SLOTS * SECOND {
        now += rng.i64(1..=SECOND);
        let number = rng.usize(0..beats.len());
        match rng.u32(0..100) {
            0 => asleep[number] = now + rng.i64(0..60 * SECOND),
            1 => beats[number] = Progress::default(),
            _ => {}
        }
        if asleep[number] > now {
            continue;
        }
        let skew = rng.i64(-SECOND / 2..SECOND / 2);
        let progress = &mut beats[number];
        if progress.record().is_none() {
            progress.adopt(store.records(&["e"]).await.unwrap()[0]);
        }
        let Decision::Act(act) = decide(&entry, progress, now + skew, false) else {
            continue;
        };
        assert_eq!(act.pass, None);
        for slot in act.slots {
            let mut one = claim(
                act.guard,
                slot,
                Some(&entry.message(entry.task_id(slot), None, now, "o")),
            );
            (one.anchor, one.priority) = (act.anchor, Priority(0));
            let answer = store.claim(&[one]).await.unwrap().remove(0);
            if rng.u32(0..10) == 0 {
                // The answer is lost: this beat goes on as if it had not claimed.
                lost += 1;
                break;
            }
            match answer {
                ClaimResult::Sent => {}
                ClaimResult::Taken(_) => refused += 1,
                other => panic!("{other:?}"),
            }
            progress.adopt(store.records(&["e"]).await.unwrap()[0]);
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
