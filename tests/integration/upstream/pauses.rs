//! An exchange that demands a pause gets no requests.

use chrono::TimeDelta;
use redis::AsyncCommands;
use tradebot_base::market::{Market, Network};
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Reply, ScriptedExchange};
use tradebot_wire::envelope::Envelope;

use super::{assert_told, with_good_list};
use crate::world::{PATIENCE, World, connected, good_list, now, path, warmup};

#[tokio::test]
async fn after_a_429_or_418_the_exchange_is_left_alone_for_as_long_as_it_said() {
    let ban = r#"{"code":-1003,"msg":"Way too much request weight used"}"#;
    let answers = [
        (
            Reply::status(429, ban).header("Retry-After", "60"),
            60,
            "status 429, the exchange asked for a pause of 60 s",
        ),
        (
            Reply::status(418, ban).header("Retry-After", "120"),
            120,
            "status 418, the exchange asked for a pause of 120 s",
        ),
        (Reply::status(429, ban), 60, "status 429, too many requests"),
        (
            Reply::status(418, "<html>").header("Retry-After", "soon"),
            60,
            "status 418, too many requests",
        ),
        (Reply::json(ban), 60, "status 200, too many requests"),
    ];
    for (answer, pause, reason) in answers {
        for market in Market::ALL {
            assert_left_alone(market, answer.clone(), pause, reason).await;
        }
    }
}

/// One answer makes a worker leave the exchange alone, also in the next task, and puts the retry off.
async fn assert_left_alone(market: Market, answer: Reply, pause: i64, reason: &str) {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    let good = with_good_list(&world, market).await;
    world.exchange.always(path(market), answer);
    let asked_at = now();
    let sent = world.enqueue(warmup(market)).await;
    let result = world.result(sent.id(), "RETRY").await;
    assert!(
        result["result"]["exc_message"][0]
            .as_str()
            .is_some_and(|text| text.contains(reason)),
        "{result}"
    );

    let waiting = world.unacked().await;
    let [record] = waiting
        .values()
        .collect::<Vec<_>>()
        .try_into()
        .expect("the next try, waiting");
    let message = &serde_json::from_str::<serde_json::Value>(record).expect("JSON")[0];
    let next = Envelope::parse(message.to_string().as_bytes()).expect("a task");
    assert_eq!((next.id(), next.retries()), (sent.id(), 1));
    let eta = next.eta().expect("a time").expect("a time");
    let earliest = asked_at + TimeDelta::seconds(pause);
    assert!(
        eta >= earliest && eta < earliest + TimeDelta::seconds(30),
        "{eta}, {earliest}"
    );

    // The exchange would answer now, and is not asked.
    world.exchange_lists(market);
    let asked = world.exchange.count(path(market));
    let (id, _) = world.run_last_try(market).await;
    assert_told(
        &worker,
        &id,
        market,
        &world.exchange.base_url(),
        "no request made: the exchange asked for a pause, which lasts another",
    );
    assert_eq!(world.exchange.count(path(market)), asked);
    assert_eq!(world.lists(market).await, good);
    assert_eq!(world.errors(market).await, 2);

    // The other market's hosts said nothing of the kind.
    let other = if market == Market::Spot {
        Market::Futures
    } else {
        Market::Spot
    };
    world.exchange_lists(other);
    assert_eq!(world.run_last_try(other).await.1["status"], "SUCCESS");
}

#[tokio::test]
async fn an_exchange_that_counts_us_as_heavy_is_asked_more_slowly() {
    let world = World::new().await;
    let worker = world.start_worker(&[]);
    let heavy = Reply::json(good_list()).header("X-MBX-USED-WEIGHT-1M", "1100");
    world.exchange.always(path(Market::Spot), heavy);
    assert_eq!(world.run_last_try(Market::Spot).await.1["status"], "SUCCESS");
    let line = worker.wait_for_line("request weight is above the threshold", PATIENCE);
    assert!(
        line.contains("market=spot") && line.contains("used_weight=1100"),
        "{line}"
    );
    let started = tokio::time::Instant::now();
    assert_eq!(world.run_last_try(Market::Spot).await.1["status"], "SUCCESS");
    assert!(started.elapsed() >= std::time::Duration::from_secs(1));
}

/// The seconds for which the key that all processes obey still exists, and its value.
async fn stored_pause(world: &World, market: Market) -> (i64, String) {
    let key = CacheKeys(market).ban(Network::Mainnet);
    let left: i64 = world.db().ttl(&key).await.expect("a time");
    (left, world.get(&key).await.unwrap_or_default())
}

#[tokio::test]
async fn the_end_of_a_ban_is_read_from_the_text_and_from_dates() {
    for (status, header) in [
        (418, None),
        (429, None),
        (200, None),
        (418, Some(1)),
        (429, Some(600)),
    ] {
        let world = World::new().await;
        let end = now() + TimeDelta::seconds(600);
        let until = match header {
            None => end.timestamp_millis(),
            // In the past: unusable.
            Some(_) => 1_664_376_368_817,
        };
        let text = format!(
            r#"{{"code":-1003,"msg":"Way too much request weight used; IP banned until {until}. Please use WebSocket."}}"#
        );
        let mut answer = Reply::status(status, text);
        match header {
            Some(600) => {
                let date = end.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
                answer = answer.header("Retry-After", &date);
            }
            Some(_) => answer = answer.header("Retry-After", "600"),
            None => {}
        }
        world.exchange.always(path(Market::Spot), answer);
        let _workers = [
            world.start_worker(&["-n", "one"]),
            world.start_worker(&["-n", "two"]),
        ];
        for _ in 0..4 {
            assert_eq!(world.run_last_try(Market::Spot).await.1["status"], "FAILURE");
        }
        assert_eq!(
            world.exchange.count(path(Market::Spot)),
            1,
            "{status}, {header:?}"
        );
        let (left, value) = stored_pause(&world, Market::Spot).await;
        assert!(
            (500..=600).contains(&left) && value == "1",
            "{status}, {header:?}: {left} s"
        );
    }
}

#[tokio::test]
async fn hosts_that_refuse_are_asked_once_and_left_alone_by_all_processes() {
    for (status, what) in [(403, "firewall"), (451, "location")] {
        let world = World::new().await;
        let spot = path(Market::Spot);
        world.exchange.always(spot, Reply::status(status, what));
        let workers = [
            world.start_worker(&["-n", "one"]),
            world.start_worker(&["-n", "two"]),
        ];
        for _ in 0..4 {
            let (_, result) = world.run_last_try(Market::Spot).await;
            assert_eq!(result["status"], "FAILURE");
        }
        assert_eq!(world.exchange.count(spot), 1);
        let (left, value) = stored_pause(&world, Market::Spot).await;
        assert!((500..=600).contains(&left), "{left} s");
        assert_eq!(value, format!("{status} {}", world.exchange.base_url()));
        drop(workers);

        // A new process obeys as well, unless it is configured with other hosts.
        world.exchange_lists(Market::Spot);
        let worker = world.start_worker(&[]);
        let (_, result) = world.run_last_try(Market::Spot).await;
        let told = format!("no request made: every host refused with status {status}");
        assert!(
            result["result"]["exc_message"][0]
                .as_str()
                .is_some_and(|it| it.contains(&told)),
            "{result}"
        );
        drop(worker);
        let other = world.exchange.base_url().replace("127.0.0.1", "localhost");
        let _worker = connected(world.worker(&[]).env("BINANCE_SPOT_BASE_URL", other));
        assert_eq!(world.run_last_try(Market::Spot).await.1["status"], "SUCCESS");
    }
}

#[tokio::test]
async fn one_host_that_refuses_does_not_pause_the_others() {
    let (world, second) = (World::new().await, ScriptedExchange::start().await);
    let spot = path(Market::Spot);
    world.exchange.always(spot, Reply::status(451, "location"));
    second.always(spot, Reply::status(500, "boom"));
    let hosts = format!("{},{}", world.exchange.base_url(), second.base_url());
    let _worker = connected(world.worker(&[]).env("BINANCE_SPOT_BASE_URL", hosts));
    world.run_last_try(Market::Spot).await;
    assert_eq!((world.exchange.count(spot), second.count(spot)), (1, 2));
    assert_eq!(stored_pause(&world, Market::Spot).await.0, -2);
}
