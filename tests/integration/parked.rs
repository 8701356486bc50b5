//! Many parked messages: they are read in pages, and the worker warns about them.

use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_test_support::{Process, bin};

use crate::world::{PATIENCE, QUEUE, World};

const PARKED: &str = "tradebot-symbols:parked";
const MANY: usize = 1_250;

/// Parks [`MANY`] messages. The last but one came from no known queue.
async fn park(world: &World) -> Vec<String> {
    let entry = |number: usize| {
        let queue = if number == MANY - 2 { "" } else { QUEUE };
        json!({"id": format!("{number:032x}"), "reason": "a test", "queue": queue, "list": queue,
            "parked_at": 1.5, "message": format!("message {number}")})
        .to_string()
    };
    let entries: Vec<String> = (0..MANY).map(entry).collect();
    let mut db = world.db();
    let _: usize = db.lpush(PARKED, &entries).await.expect("a list");
    // Another program's entry stays as it is and does no harm.
    let _: usize = db.rpush(PARKED, "not an entry").await.expect("a list");
    entries
}

fn run(world: &World, args: &[&str]) -> Process {
    let process = Process::builder(bin("tradebot-symbols"))
        .arg("parked")
        .args(args)
        .envs(world.environment())
        .spawn();
    process.wait_exit(PATIENCE);
    process
}

fn shown(process: &Process) -> Vec<Value> {
    let text = process.stdout();
    let lines = text.lines().map(serde_json::from_str);
    lines.collect::<Result<_, _>>().expect("one JSON object a line")
}

/// How many times elements of lists were read.
async fn ranges(world: &World) -> usize {
    let info: String = redis::cmd("INFO")
        .arg("commandstats")
        .query_async(&mut world.db())
        .await
        .expect("INFO");
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_lrange:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok())
        .unwrap_or_default()
}

#[tokio::test]
async fn many_parked_messages_are_listed_replayed_and_dropped_in_pages() {
    let world = World::new().await;
    let entries = park(&world).await;
    let listed = shown(&run(&world, &["list", "--json"]));
    assert!(ranges(&world).await > MANY / 200, "read in one piece");
    let ids = |values: &[Value]| -> Vec<String> {
        values
            .iter()
            .map(|value| value["id"].as_str().expect("an id").to_owned())
            .collect()
    };
    let sent: Vec<Value> = entries
        .iter()
        .map(|text| serde_json::from_str(text).expect("JSON"))
        .collect();
    assert_eq!(ids(&listed), ids(&sent), "all of them, the oldest first");

    // One on a late page, one that fits several, one that fits none.
    let last = ids(&sent).pop().expect("an id");
    assert!(run(&world, &["drop", &last]).stdout().contains("dropped"));
    assert!(
        run(&world, &["drop", "0000"])
            .stderr()
            .contains("several parked messages")
    );
    assert!(run(&world, &["drop", "f"]).stderr().contains("no parked message"));

    let refusal = run(&world, &["replay", "--all"]).stderr();
    assert!(refusal.contains("1 came from no known queue"), "{refusal}");
    let expected: Vec<String> = (0..MANY - 2).map(|number| format!("message {number}")).collect();
    assert_eq!(world.waiting(QUEUE).await, expected, "in their order");
    let dropped = run(&world, &["drop", "--all"]);
    assert_eq!(dropped.stdout().lines().count(), 1);
    assert_eq!(world.waiting(PARKED).await, ["not an entry"]);
}

#[tokio::test]
async fn a_worker_says_that_many_messages_are_parked() {
    let world = World::new().await;
    park(&world).await;
    let worker = world.start_worker(&[]);
    let line = worker.wait_for_line("many messages are parked", PATIENCE);
    assert!(
        line.contains("ERROR") && line.contains(&format!("messages={}", MANY + 1)),
        "{line}"
    );
}
