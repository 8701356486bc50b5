//! Bounds on what an exchange may send, and on what a dead process leaves behind.

use redis::AsyncCommands;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::Reply;

use crate::world::{World, exchange_info, path, warmup};

#[tokio::test]
async fn a_list_is_refused_for_its_size_beyond_64_mib_of_spot_and_16_of_futures() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    for (market, bound) in [(Market::Spot, 64), (Market::Futures, 16)] {
        for (mebibytes, too_large) in [(bound - 1, false), (bound + 1, true)] {
            let blanks = Reply::json(vec![b' '; 1 << 20]).times(mebibytes);
            world.exchange.always(path(market), blanks.without_length());
            let result = world.run_last_try(market).await.1;
            assert_eq!(result["status"], "FAILURE");
            let reason = result["result"]["exc_message"][0].as_str().expect("a reason");
            assert_eq!(
                reason.contains("larger than"),
                too_large,
                "{mebibytes} MiB: {reason}"
            );
        }
    }
}

#[tokio::test]
async fn a_process_that_dies_over_its_refresh_keeps_others_from_it_for_fifteen_seconds() {
    let world = World::new().await;
    world.exchange.always(path(Market::Spot), Reply::json("").hang());
    let _worker = world.start_worker(&[]);
    world.enqueue(warmup(Market::Spot)).await;
    world.asked(Market::Spot, 1).await;
    let left: i64 = world
        .db()
        .pttl(CacheKeys(Market::Spot).lock())
        .await
        .expect("an answer");
    assert!((1..=15_000).contains(&left), "{left} ms");
}

#[tokio::test]
async fn the_last_thousand_changes_of_the_lists_are_kept() {
    let world = World::new().await;
    let mut earlier = redis::pipe();
    for _ in 0..1_500 {
        let change = [("market", "spot"), ("at", "1"), ("change", "{}")];
        earlier.xadd("cache:symbols:changes", "*", &change).ignore();
    }
    let added: Result<(), _> = earlier.query_async(&mut world.db()).await;
    added.expect("a stream");
    let _worker = world.start_worker(&[]);
    for base in ["XRP", "SOL"] {
        let list = [
            ("BTC", "USDT", "TRADING"),
            ("ETH", "USDT", "TRADING"),
            (base, "USDT", "TRADING"),
        ];
        world
            .exchange
            .always(path(Market::Spot), Reply::json(exchange_info(&list)));
        assert_eq!(world.run_last_try(Market::Spot).await.1["status"], "SUCCESS");
    }
    let kept: usize = world.db().xlen("cache:symbols:changes").await.expect("a length");
    assert_eq!(kept, 1_000);
}
