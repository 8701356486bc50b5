//! Keys that hold a value of a wrong type are named, and replaced where they are ours.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_a_wrong_type_is_named() {
    for key in ["unacked", "unacked_index", QUEUE] {
        let world = World::new().await;
        world.exchange_lists(SPOT);
        for market in Market::ALL {
            answer_pings(&world, market);
        }
        let worker = world.start_worker(&[]);
        let _: u64 = world.db().del(key).await.expect("DEL");
        world.set(key, "a text").await;
        let id = {
            let list = if key == QUEUE { "celery\u{6}\u{16}3" } else { QUEUE };
            let message = warmup(SPOT).into_envelope("gen1@tests", now());
            world.push(list, message.to_json()).await;
            message.id().to_owned()
        };
        let line = worker.wait_for_line("the broker refuses, this worker claims nothing", PATIENCE);
        let named = format!("`{key}` holds a string");
        assert!(
            line.contains(&named) && line.contains("rename or delete it"),
            "{line}"
        );
        assert!(!worker.output().contains("unreachable"), "{}", worker.output());
        let examined = Process::builder(bin("tradebot-symbols"))
            .args(["doctor", "--json"])
            .envs(world.environment())
            .spawn();
        examined.wait_exit(PATIENCE);
        let report = examined.stdout();
        assert!(
            report.contains(&named) || report.contains("queue-wrong-type"),
            "{report}"
        );
        let _: u64 = world.db().del(key).await.expect("DEL");
        assert_eq!(world.ended(&id).await["status"], "SUCCESS");
    }
}

/// What only our workers use stops none of them.
#[tokio::test]
async fn keys_of_our_own_of_a_wrong_type_are_replaced_and_named() {
    for (key, kind) in [("workers", "hash"), ("suspects", "none")] {
        let world = World::new().await;
        world.exchange_lists(SPOT);
        let key = format!("tradebot-symbols:{key}");
        world.set(&key, "a text").await;
        let worker = world.start_worker(&[]);
        assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS", "{key}");
        let named = format!("key=\"{key}\"");
        worker.wait_for_line(&named, PATIENCE);
        // It may happen later, too. One other worker, so that suspects are looked up.
        let _other = world.start_worker(&["-n", "other@tests"]);
        world.set(&key, "a text").await;
        eventually("a key of the right type", PATIENCE, async || {
            let found: String = cmd("TYPE")
                .arg(&key)
                .query_async(&mut world.db())
                .await
                .expect("a type");
            (found == kind).then_some(())
        })
        .await;
        assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS", "{key}");
    }
}

#[tokio::test]
async fn a_result_key_of_a_wrong_type_is_replaced_and_named() {
    let world = World::new().await;
    world.exchange_lists(SPOT);
    let worker = world.start_worker(&[]);
    let message = warmup(SPOT).into_envelope("gen1@tests", now());
    let key = task_meta("", message.id());
    let _: u64 = world.db().rpush(&key, "an element").await.expect("RPUSH");
    world.push(QUEUE, message.to_json()).await;
    let line = worker.wait_for_line("held a value of another type", stretched(Duration::from_secs(30)));
    assert!(line.contains(&key), "{line}");
    assert_eq!(world.ended(message.id()).await["status"], "SUCCESS");
}
