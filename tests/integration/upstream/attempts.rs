//! How often and for what the exchange is asked, and what follows a failed refresh.

use chrono::TimeDelta;
use redis::AsyncCommands;
use serde_json::Value;
use tradebot_base::market::Market;
use tradebot_test_support::{Reply, ScriptedExchange};
use tradebot_wire::envelope::Envelope;

use super::with_good_list;
use crate::world::{PATIENCE, QUEUE, World, connected, good_list, now, path, tried, warmup};

#[tokio::test]
async fn requests_ask_for_no_more_than_is_needed_and_reveal_nothing() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    for market in Market::ALL {
        with_good_list(&world, market).await;
    }
    let requests = world.exchange.requests();
    assert_eq!(requests.len(), 2);
    let of = |market| {
        requests
            .iter()
            .find(|request| request.path == path(market))
            .expect("a request")
    };
    assert_eq!(of(Market::Spot).query, "showPermissionSets=false");
    assert_eq!(of(Market::Futures).query, "");
    for request in &requests {
        assert_eq!(request.method, "GET");
        assert_eq!(request.header("accept"), Some("application/json"));
        assert!(
            request
                .header("accept-encoding")
                .is_some_and(|codings| codings.contains("gzip"))
        );
        assert!(
            request
                .header("user-agent")
                .is_some_and(|agent| agent.starts_with("tradebot-symbols/"))
        );
        assert_eq!(
            (request.header("x-mbx-apikey"), request.header("cookie")),
            (None, None)
        );
    }
}

#[tokio::test]
async fn an_exchange_in_trouble_is_asked_as_often_as_configured() {
    let world = World::new().await;
    for market in Market::ALL {
        world.exchange.always(path(market), Reply::status(500, "boom"));
    }
    for attempts in [1, 2, 5] {
        let worker = world
            .worker(&[])
            .env("BINANCE_RETRY_MAX_ATTEMPTS", attempts.to_string());
        let _worker = connected(worker);
        for market in Market::ALL {
            let before = world.exchange.count(path(market));
            world.run_last_try(market).await;
            assert_eq!(world.exchange.count(path(market)) - before, attempts, "{market}");
        }
    }
}

#[tokio::test]
async fn an_attempt_that_succeeds_after_failed_ones_is_a_success() {
    let world = World::new().await;
    let _worker = world.start_worker(&[]);
    let spot = path(Market::Spot);
    world.exchange.reply(spot, Reply::status(500, "boom"));
    world
        .exchange
        .reply(spot, Reply::json(good_list()).truncated_at(9));
    world.exchange.reply(spot, Reply::json(good_list()));
    let (_, result) = world.run_last_try(Market::Spot).await;
    assert_eq!(result["result"], "WARMUP_OK:2");
    assert_eq!(
        (world.exchange.count(spot), world.errors(Market::Spot).await),
        (3, 0)
    );
}

#[tokio::test]
async fn a_second_host_is_asked_when_the_first_cannot_or_will_not_answer() {
    let answers = [
        Reply::status(500, "boom"),
        Reply::status(451, r#"{"code":0,"msg":"restricted"}"#),
        Reply::json(r#"{"code":0,"msg":"restricted"}"#),
        Reply::status(403, "<html>"),
        Reply::status(404, "<html>"),
        Reply::json("<html>"),
        Reply::json(r#"{"code":-1001,"msg":"Internal error; unable to process your request."}"#),
        Reply::json(futures_list()),
        Reply::json(r#"{"symbols":[]}"#),
        Reply::json(good_list().replace("TRADING", "BREAK")),
    ];
    let (world, second) = (World::new().await, ScriptedExchange::start().await);
    let spot = path(Market::Spot);
    second.always(spot, Reply::json(good_list()));
    let hosts = format!("{},{}", world.exchange.base_url(), second.base_url());
    let worker = world.worker(&[]).env("BINANCE_SPOT_BASE_URL", hosts);
    // However few attempts there are, every host is asked.
    let _worker = connected(worker.env("BINANCE_RETRY_MAX_ATTEMPTS", "1"));
    for (number, answer) in answers.into_iter().enumerate() {
        world.exchange.always(spot, answer);
        let (_, result) = world.run_last_try(Market::Spot).await;
        assert_eq!(result["result"], "WARMUP_OK:2", "answer {number}: {result}");
        let asked = (world.exchange.count(spot), second.count(spot));
        assert_eq!(asked, (number + 1, number + 1));
    }
    let source: Value =
        serde_json::from_str(&world.lists(Market::Spot).await.source.expect("a source")).expect("JSON");
    assert_eq!(source["host"], second.base_url());
}

/// A list of another market: each entry has a member that only futures have.
fn futures_list() -> String {
    good_list().replace(r#""symbol":"#, r#""contractType":"PERPETUAL","symbol":"#)
}

#[tokio::test]
async fn a_mirror_that_does_not_know_our_parameters_is_asked_without_them_from_then_on() {
    for code in [-1104, -1101] {
        let world = World::new().await;
        let spot = path(Market::Spot);
        let refusal = format!(r#"{{"code":{code},"msg":"Not all sent parameters were read."}}"#);
        world.exchange.reply(spot, Reply::status(400, refusal));
        world.exchange.reply(spot, Reply::json(good_list()));
        let _worker = world.start_worker(&[]);
        for _ in 0..2 {
            let (_, result) = world.run_last_try(Market::Spot).await;
            assert_eq!(result["result"], "WARMUP_OK:2", "{result}");
        }
        let requests = world.exchange.requests();
        let queries: Vec<bool> = requests.iter().map(|it| it.query.is_empty()).collect();
        assert_eq!(queries, [false, true, true]);
    }
}

#[tokio::test]
async fn a_failed_refresh_is_tried_again_later_as_the_same_task() {
    let world = World::new().await;
    let spot = path(Market::Spot);
    world.exchange.always(spot, Reply::status(500, "boom"));
    // The only slot is taken by this one next, so the message of the next try stays where it can be seen.
    world
        .exchange
        .always(path(Market::Futures), Reply::json("").hang());
    // The wait is drawn from zero on, zero being legal; of several one is surely above it.
    let mut waits = Vec::new();
    for (round, retries) in [0, 4, 4, 4, 4, 4].into_iter().enumerate() {
        let sent = world.enqueue(tried(warmup(Market::Spot), retries)).await;
        world.enqueue(warmup(Market::Futures)).await;
        let worker = connected(world.worker(&["-c", "1"]).env("BINANCE_RETRY_MAX_ATTEMPTS", "1"));
        let result = world.result(sent.id(), "RETRY").await;
        world.asked(Market::Futures, round + 1).await;

        assert_eq!(result["result"]["exc_type"], "RuntimeError", "{result}");
        assert_eq!(result["result"]["exc_module"], "builtins", "{result}");
        assert_eq!(result["date_done"], Value::Null, "{result}");
        let runs = (world.errors(Market::Spot).await, world.exchange.count(spot));
        assert_eq!(runs, (round as u64 + 1, round + 1));
        let line = worker.wait_for_line("will be tried again", PATIENCE);
        assert!(
            line.contains("cannot fetch the spot list") && line.contains("status 500: boom"),
            "{line}"
        );

        let [next] = world.waiting(QUEUE).await.try_into().expect("one message");
        let next = Envelope::parse(next.as_bytes()).expect("a task");
        assert_eq!((next.id(), next.task()), (sent.id(), sent.task()));
        assert_eq!(u64::from(next.retries()), retries + 1);
        assert_eq!(next.text("parent_id"), Some(sent.id()));
        assert_eq!(next.field_text("body"), sent.field_text("body"));
        if let Some(eta) = next.eta().expect("a time") {
            assert!(eta - now() <= TimeDelta::seconds(1 << retries), "{eta}");
            waits.push(eta);
        }
        drop(worker);
        let mut db = world.db();
        let emptied: Result<u64, _> = db.del(&[QUEUE, "unacked", "unacked_index"]).await;
        emptied.expect("an empty broker");
    }
    assert!(!waits.is_empty(), "never a wait before the next try");
}
