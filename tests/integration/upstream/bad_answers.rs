//! Error statuses and missing answers.

use std::time::Duration;

use serde_json::json;
use tradebot_base::market::Market;
use tradebot_test_support::{Reply, ScriptedExchange, free_port};

use super::{Trial, assert_told, at_once, bad, html, in_vain};
use crate::world::{connected, good_list, path};

#[tokio::test]
async fn a_status_other_than_200_leaves_the_lists_alone() {
    let trial = Trial::start().await;
    let in_trouble = [
        bad("500", Reply::status(500, "boom\n  here"), "status 500: boom here"),
        bad("502", html(502, "Bad Gateway"), "status 502: <html> <head>"),
        bad(
            "503, cut",
            Reply::status(503, "later").truncated_at(2),
            "status 503: la",
        ),
        bad("504", Reply::status(504, ""), "status 504: no text"),
        bad("408", Reply::status(408, ""), "status 408"),
    ];
    trial.assert_refused(in_vain("RuntimeError"), in_trouble).await;
    let unwilling = [
        bad("404", html(404, "nothing here"), "unexpected status 404"),
        bad(
            "400",
            Reply::status(400, r#"{"code":-2011}"#),
            "unexpected status 400",
        ),
        bad(
            "204",
            Reply::status(204, "").without_length(),
            "unexpected status 204",
        ),
        bad("206", Reply::status(206, good_list()), "unexpected status 206"),
    ];
    trial.assert_refused(at_once("RuntimeError"), unwilling).await;
    let refusals = [
        bad("403", html(403, "captcha"), "firewall (status 403)"),
        bad(
            "451",
            Reply::status(451, "b. Eligibility"),
            "(status 451): b. Eligibility",
        ),
    ];
    for refusal in refusals {
        // A long pause follows.
        let trial = Trial::start().await;
        trial.assert_refused(at_once("RuntimeError"), [refusal]).await;
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let trial = Trial::start().await;
    let elsewhere = ScriptedExchange::start().await;
    for market in Market::ALL {
        elsewhere.always(path(market), Reply::json(good_list()));
    }
    for status in [301, 302, 303, 307, 308] {
        for market in Market::ALL {
            let target = format!("{}{}?token=canary", elsewhere.base_url(), path(market));
            let redirect = Reply::status(status, "").header("Location", &target);
            let redirect = bad("redirect", redirect, "which is not followed");
            trial.assert_refused(at_once("RuntimeError"), [redirect]).await;
        }
    }
    assert_eq!(elsewhere.requests(), []);
    let output = trial.worker.output();
    assert!(output.contains(&format!("redirect to {}", elsewhere.base_url())));
    assert!(!output.contains("canary"), "the target's query was logged");
}

#[tokio::test]
async fn an_answer_that_does_not_come_to_an_end_is_given_up_after_ten_seconds() {
    let Trial { world, worker, good } = Trial::start().await;
    let slow = Reply::json(good_list()).drip(Duration::from_secs(2));
    world.exchange.always(path(Market::Spot), Reply::json("").hang());
    world.exchange.always(path(Market::Futures), slow);
    let asked = Market::ALL.map(|market| world.exchange.count(path(market)));
    let started = tokio::time::Instant::now();
    let (spot, futures) = tokio::join!(
        world.run_last_try(Market::Spot),
        world.run_last_try(Market::Futures)
    );
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(9_900), "{took:?}");
    let reason = "no complete answer within 10 s";
    for ((id, result), (market, lists)) in [spot, futures].iter().zip(&good) {
        assert_eq!(result["result"]["exc_type"], "TimeoutError", "{result}");
        assert_told(&worker, id, *market, &world.exchange.base_url(), reason);
        assert_eq!(world.lists(*market).await, *lists);
        assert_eq!(world.errors(*market).await, 1);
    }
    let asked_now = Market::ALL.map(|market| world.exchange.count(path(market)));
    assert_eq!(
        asked_now,
        asked.map(|count| count + 1),
        "no second attempt has time left"
    );
}

#[tokio::test]
async fn an_exchange_that_is_down_leaves_the_lists_alone() {
    let Trial { world, worker, good } = Trial::start().await;
    drop(worker);
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let worker = connected(
        world
            .worker(&[])
            .env("BINANCE_SPOT_BASE_URL", &nowhere)
            .env("BINANCE_FUTURES_BASE_URL", &nowhere),
    );
    for (market, lists) in &good {
        let (id, result) = world.run_last_try(*market).await;
        assert_eq!(result["result"]["exc_type"], json!("ConnectionError"), "{result}");
        let address = format!("{nowhere}{}", path(*market));
        assert_told(&worker, &id, *market, &address, "no connection");
        assert_eq!(world.lists(*market).await, *lists);
        assert_eq!(world.errors(*market).await, 1);
    }
}
