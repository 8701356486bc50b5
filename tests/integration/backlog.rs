//! A queue with a long backlog of other workers' messages: ours are found, theirs stay, and looking costs little.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use redis::{AsyncCommands, cmd};
use tokio::sync::Notify;
use tradebot_base::clock::SystemClock;
use tradebot_base::connection::Connection;
use tradebot_base::market::Market;
use tradebot_base::secret::RedisUrl;
use tradebot_core::transport::{LeftOut, Passes, Transport, Wish};
use tradebot_test_support::{RedisServer, eventually, seeded_rng, stretched};
use tradebot_wire::keys::Keys;

use crate::world::{PATIENCE, QUEUE, World, now, task, warmup};

const SPOT: Market = Market::Spot;

/// A message of another worker's task; no two are alike.
fn foreign(number: usize) -> String {
    let mut task = task("app.core.bot_tasks.run_bot_task");
    task.body.args = vec![number.into()];
    task.into_envelope("gen1@tests", now()).to_json()
}

fn ours(id: &str) -> String {
    format!(r#"{{"body": "[[], {{}}, null]", "headers": {{"task": "tests.ours", "id": "{id}"}}}}"#)
}

/// A transport and what it has seen, without a worker.
struct Looker {
    transport: Transport,
    passes: Passes,
}

impl Looker {
    fn new(redis: &RedisServer) -> Self {
        let changed = Arc::new(Notify::new());
        let connection = Connection::new(&RedisUrl::new(redis.url()), "looker").expect("a URL");
        let queues = [QUEUE.to_owned()];
        Self {
            transport: Transport::new(
                connection,
                changed,
                Keys::default(),
                &queues,
                SystemClock::shared(),
            ),
            passes: Passes::default(),
        }
    }

    /// Claims until there is nothing more to be found without a wait, and returns the ids in their order.
    async fn claim(&mut self, messages: usize) -> Vec<String> {
        let mut ids = Vec::new();
        let tasks = ["tests.ours".to_owned()];
        let left_out = LeftOut::default();
        loop {
            let wish = Wish {
                messages,
                tasks: &tasks,
                not_now: &[],
                left_out: &left_out,
                leave_etas: false,
            };
            let claim = self
                .transport
                .claim(&wish, &self.passes)
                .await
                .expect("an answer");
            assert!(claim.unclear.is_empty());
            self.passes.adopt(&claim.looks, Duration::ZERO);
            let found = claim.claimed.len();
            for one in claim.claimed {
                let message: serde_json::Value = serde_json::from_slice(&one.raw).expect("JSON");
                ids.push(message["headers"]["id"].as_str().expect("an id").to_owned());
                assert!(
                    self.transport
                        .settle(&one.tag, None, &[])
                        .await
                        .expect("settled")
                        .held
                );
            }
            if found == 0 && !self.passes.go_on() {
                return ids;
            }
        }
    }
}

async fn push_foreign(world: &World, number: usize) {
    let others: Vec<String> = (0..number).map(foreign).collect();
    for some in others.chunks(1_000) {
        world
            .db()
            .lpush::<_, _, ()>(QUEUE, some)
            .await
            .expect("pushed elements");
    }
}

#[tokio::test]
async fn what_a_push_costs_does_not_grow_with_the_backlog() {
    let mut costs = BTreeMap::new();
    for backlog in [500, 15_000] {
        let world = World::new().await;
        push_foreign(&world, backlog).await;
        let _worker = world.start_worker(&[]);
        let counted = async || {
            let waiting: BTreeMap<String, usize> = world
                .db()
                .hgetall("tradebot-symbols:waiting")
                .await
                .expect("a hash");
            waiting.values().sum::<usize>()
        };
        eventually("the end of the first pass", PATIENCE, async || {
            (counted().await == backlog).then_some(())
        })
        .await;
        let before = calls(&world, "lrange").await;
        for number in 0..50 {
            world.push(QUEUE, foreign(backlog + number)).await;
        }
        eventually("all counted", PATIENCE, async || {
            (counted().await == backlog + 50).then_some(())
        })
        .await;
        costs.insert(backlog, calls(&world, "lrange").await - before);
        assert_eq!(world.waiting(QUEUE).await.len(), backlog + 50);
    }
    println!("LRANGE calls by backlog: {costs:?}");
    // A pass through the longer one takes 60 windows of 8 calls.
    assert!(costs.values().all(|calls| *calls < 400), "{costs:?}");
}

async fn calls(world: &World, command: &str) -> u64 {
    let stats: String = cmd("INFO")
        .arg("commandstats")
        .query_async(&mut world.db())
        .await
        .expect("statistics");
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    let calls = line.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().expect("a number"))
}

#[tokio::test]
async fn ours_behind_a_long_backlog_start_soon_and_in_their_order() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    push_foreign(&world, 30_000).await;
    let _worker = world.start_worker(&[]);
    for number in 0..5 {
        let pushed = tokio::time::Instant::now();
        let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
        assert_eq!(world.ended(&id).await["status"], "SUCCESS");
        println!("warm-up {number} ended after {:?}", pushed.elapsed());
        world.push(QUEUE, foreign(30_000 + number)).await;
    }
    assert_eq!(world.waiting(QUEUE).await.len(), 30_005);
}

/// Two that claim and a Python worker that takes foreign messages, in a random order of events.
#[tokio::test]
async fn every_message_of_ours_is_found_whatever_happens_to_the_list() {
    let redis = RedisServer::start();
    let mut db = redis.connection().await;
    let mut rng = seeded_rng();
    let mut lookers = [Looker::new(&redis), Looker::new(&redis)];
    let (mut pushed, mut found, mut others) = (Vec::new(), Vec::new(), 0);
    for round in 0..400 {
        for _ in 0..rng.usize(0..40) {
            let number = pushed.len();
            let (element, at_the_front) = match rng.u8(0..10) {
                0 => {
                    pushed.push(number.to_string());
                    (ours(&number.to_string()), rng.bool())
                }
                1 => (foreign(others), true),
                _ => (foreign(others), false),
            };
            others += 1;
            let _: u64 = match at_the_front {
                true => db.rpush(QUEUE, element).await,
                false => db.lpush(QUEUE, element).await,
            }
            .expect("a pushed element");
        }
        // A Python worker takes what comes first, and leaves ours because it has put them back.
        for _ in 0..rng.usize(0..60) {
            let next: Option<String> = db.lindex(QUEUE, -1).await.expect("an element");
            if next.is_none_or(|next| next.contains("tests.ours")) {
                break;
            }
            let _: Option<String> = db.rpop(QUEUE, None).await.expect("an element");
        }
        if round % 100 == 99 {
            // A burst, longer than the marker is searched for.
            let burst: Vec<String> = (0..6_000).map(|number| foreign(others + number)).collect();
            others += burst.len();
            let _: u64 = db.lpush(QUEUE, burst).await.expect("pushed elements");
        }
        let looker = &mut lookers[rng.usize(0..2)];
        found.extend(looker.claim([1, 3, 64][rng.usize(0..3)]).await);
    }
    // What is hidden in the list is found by a check, which may have to wait for its time.
    let end = tokio::time::Instant::now() + stretched(Duration::from_secs(20));
    let missed = loop {
        for looker in &mut lookers {
            found.extend(looker.claim(64).await);
        }
        let left: Vec<String> = db.lrange(QUEUE, 0, -1).await.expect("a list");
        let missed = left
            .iter()
            .filter(|element| element.contains("tests.ours"))
            .count();
        if missed == 0 || tokio::time::Instant::now() >= end {
            break missed;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(missed, 0, "of {} messages of ours among {others}", pushed.len());
    found.sort_by_key(|id| id.parse::<u64>().expect("a number"));
    assert_eq!(found, pushed);
}

#[tokio::test]
async fn ours_are_taken_in_their_order_from_wherever_they_lie() {
    let redis = RedisServer::start();
    let mut db = redis.connection().await;
    let mut looker = Looker::new(&redis);
    let mut expected = Vec::new();
    let mut number = 0;
    for _ in 0..3 {
        let mut elements = Vec::new();
        for _ in 0..4_000 {
            number += 1;
            if number % 7 == 0 {
                expected.push(number.to_string());
                elements.push(ours(&number.to_string()));
            } else {
                elements.push(foreign(number));
            }
        }
        for some in elements.chunks(500) {
            let _: u64 = db.lpush(QUEUE, some).await.expect("pushed elements");
        }
        assert_eq!(looker.claim(5).await, expected);
        expected.clear();
    }
}

/// Redis does not undo a script that fails half-way.
#[tokio::test]
async fn nothing_is_taken_while_a_key_of_the_broker_is_of_a_wrong_type() {
    let redis = RedisServer::start();
    let mut db = redis.connection().await;
    let looker = Looker::new(&redis);
    let _: u64 = db.lpush(QUEUE, ours("one")).await.expect("a pushed element");
    let tasks = ["tests.ours".to_owned()];
    let wish = Wish {
        messages: 1,
        tasks: &tasks,
        not_now: &[],
        left_out: &LeftOut::default(),
        leave_etas: false,
    };
    for key in ["unacked", "unacked_index", "celery\u{6}\u{16}9"] {
        let _: () = db.set(key, "text").await.expect("a key");
        let claim = looker.transport.claim(&wish, &looker.passes).await;
        assert!(claim.is_err(), "{key}");
        let waiting: u64 = db.llen(QUEUE).await.expect("a length");
        assert_eq!(waiting, 1, "{key}");
        let _: u64 = db.del(key).await.expect("a number");
    }
    let claim = looker.transport.claim(&wish, &looker.passes).await;
    assert_eq!(claim.expect("an answer").claimed.len(), 1);
}
