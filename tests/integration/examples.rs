//! The programs in `examples` do what they say.

use std::path::{Path, PathBuf};

use redis::AsyncCommands;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, bin, eventually};

use crate::world::{GOOD_TEXT, PATIENCE, World, connected};

/// An example, which `cargo test` builds.
fn example(name: &str) -> PathBuf {
    let path = bin("tradebot-symbols").with_file_name("examples").join(name);
    assert!(
        path.is_file(),
        "there is no {}; build it first: cargo build --examples",
        path.display()
    );
    path
}

fn run(world: &World, name: &str) -> String {
    let program = Process::builder(example(name)).envs(world.environment()).spawn();
    let status = program.wait_exit(PATIENCE);
    assert!(status.success(), "{}", program.output());
    program.stdout()
}

#[tokio::test]
async fn the_client_gets_its_results_from_the_worker() {
    let world = World::new().await;
    let _worker = connected(Process::builder(example("worker")).envs(world.environment()));
    assert_eq!(run(&world, "client"), "2 + 3 = 5\ntwice the sum = 20\n");
}

#[tokio::test]
async fn the_reader_prints_both_lists() {
    let world = World::new().await;
    for market in Market::ALL {
        world.set(&CacheKeys(market).primary(), GOOD_TEXT).await;
    }
    assert_eq!(run(&world, "reader"), "spot: 2 symbols\nfutures: 2 symbols\n");
}

#[tokio::test]
async fn the_schedule_sends_a_task_that_the_worker_runs() {
    let world = World::new().await;
    let worker = connected(Process::builder(example("worker")).envs(world.environment()));
    let schedule = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/schedule.toml");
    let _beat = Process::builder(bin("tradebot-beat"))
        .arg("--schedule")
        .arg(schedule)
        .envs(world.environment())
        .spawn();
    worker.wait_for_line("task.name=\"proj.add\"", PATIENCE);
    eventually("the result", PATIENCE, async || {
        let keys: Vec<String> = world.db().keys("celery-task-meta-*").await.ok()?;
        let document = world.get(keys.first()?).await?;
        document
            .contains(r#""status": "SUCCESS", "result": 4,"#)
            .then_some(())
    })
    .await;
}
