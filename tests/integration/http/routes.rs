//! What the existing front end sees.

use serde_json::Value;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;

use super::{Endpoint, LIST, detail, route, serve, store, upstream_fails};
use crate::world::{GOOD_TEXT, World};

#[tokio::test]
async fn a_list_has_the_bytes_in_redis_for_every_client() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let tokens = [
        "Bearer abc",
        "Bearer ",
        "Basic eDp5",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
    ];
    for market in Market::ALL {
        for target in [
            route(market).to_owned(),
            format!("{}/", route(market)),
            format!("{}?_=17", route(market)),
        ] {
            let answer = endpoint.get(&target).await;
            assert_eq!((answer.status, answer.text()), (200, LIST), "{target}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert_eq!(
                answer.header("content-length"),
                Some(LIST.len().to_string().as_str())
            );
        }
        for token in tokens {
            let answer = endpoint
                .ask("GET", route(market), &[("authorization", token)])
                .await;
            assert_eq!((answer.status, answer.text()), (200, LIST), "{token}");
        }
    }
}

#[tokio::test]
async fn a_missing_list_is_fetched_served_and_stored() {
    let world = World::new().await;
    for market in Market::ALL {
        world.exchange_lists(market);
    }
    let endpoint = Endpoint::start(serve(&world).envs([
        ("ENABLE_SPOT_WARMUP_ON_STARTUP", "0"),
        ("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0"),
    ]));
    for market in Market::ALL {
        let answer = endpoint.get(route(market)).await;
        assert_eq!((answer.status, answer.text()), (200, GOOD_TEXT));
        let status = answer.header("cache-status").expect("a Cache-Status");
        assert!(
            status.starts_with("tradebot-symbols; fwd=miss; fwd-status=200; stored; ttl="),
            "{status}"
        );
        assert_eq!(answer.header("x-symbols-network"), Some("mainnet"));
        assert_eq!(world.lists(market).await.primary.as_deref(), Some(GOOD_TEXT));
    }
}

#[tokio::test]
async fn health_and_errors_have_the_form_that_the_front_end_knows() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    for target in ["/health", "/health/"] {
        let answer = endpoint.get(target).await;
        assert_eq!(
            (answer.status, answer.text()),
            (200, r#"{"status":"healthy","service":"tradebot-backend"}"#)
        );
    }
    for target in [
        "/nothing",
        "/api/v1/symbols",
        "/api/v1/symbols/spot//",
        "//health",
        "/HEALTH",
    ] {
        let answer = endpoint.get(target).await;
        assert_eq!(
            (answer.status, detail(&answer).as_str()),
            (404, "Not Found"),
            "{target}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    for method in ["POST", "PUT", "DELETE", "PATCH", "QUERY"] {
        let answer = endpoint.ask(method, route(Market::Spot), &[]).await;
        assert_eq!(
            (answer.status, detail(&answer).as_str()),
            (405, "Method Not Allowed")
        );
        assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
        assert_eq!(endpoint.ask(method, "/nothing", &[]).await.status, 404);
    }
}

#[tokio::test]
async fn head_is_get_without_the_body_and_options_names_the_methods() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    for target in [route(Market::Spot), "/health", "/nothing"] {
        let (get, head) = (
            endpoint.get(target).await,
            endpoint.ask("HEAD", target, &[]).await,
        );
        assert!(head.body.is_empty());
        let stable = |answer: &super::Answer| {
            let mut headers = answer.headers.clone();
            headers.retain(|(name, _)| !["date", "age", "cache-status"].contains(&name.as_str()));
            headers.sort();
            (answer.status, headers)
        };
        assert_eq!(stable(&get), stable(&head), "{target}");
        assert_eq!(
            head.header("content-length"),
            Some(get.body.len().to_string().as_str())
        );
    }
    let answer = endpoint.ask("OPTIONS", route(Market::Futures), &[]).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(endpoint.ask("OPTIONS", "/nothing", &[]).await.status, 404);
}

#[tokio::test]
async fn a_list_that_cannot_be_had_is_an_error_that_says_when_to_come_back() {
    let world = World::new().await;
    upstream_fails(&world);
    for (variable, status) in [("503", 503), ("500", 500)] {
        let endpoint = Endpoint::start(
            serve(&world)
                .env("SYMBOLS_ERROR_STATUS", variable)
                .env("BINANCE_RETRY_MAX_ATTEMPTS", "1"),
        );
        for (market, message) in [
            (
                Market::Spot,
                "Sembol listesi şu anda yüklenemiyor. Lütfen daha sonra tekrar deneyin veya sistem yöneticisine bildirin.",
            ),
            (
                Market::Futures,
                "Futures sembol listesi şu anda yüklenemiyor. Lütfen daha sonra tekrar deneyin veya sistem yöneticisine bildirin.",
            ),
        ] {
            let answer = endpoint
                .ask("GET", route(market), &[("origin", "http://localhost:3000")])
                .await;
            assert_eq!((answer.status, detail(&answer).as_str()), (status, message));
            let wait: u64 = answer
                .header("retry-after")
                .expect("a Retry-After")
                .parse()
                .expect("seconds");
            assert!((1..=60).contains(&wait), "{wait}");
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(
                answer.header("cache-status"),
                Some("tradebot-symbols; fwd=miss; detail=unavailable")
            );
            assert_eq!(
                answer.header("access-control-allow-origin"),
                Some("http://localhost:3000")
            );
        }
    }
}

#[tokio::test]
async fn the_last_good_list_is_answered_when_all_else_fails() {
    let world = World::new().await;
    upstream_fails(&world);
    let keys = CacheKeys(Market::Spot);
    world.set(&keys.last_good(), LIST).await;
    world.set(&keys.last_refresh(), "1700000000").await;
    let endpoint = Endpoint::start(serve(&world).env("BINANCE_RETRY_MAX_ATTEMPTS", "1"));
    let answer = endpoint.get(route(Market::Spot)).await;
    assert_eq!((answer.status, answer.text()), (200, LIST));
    let status = answer.header("cache-status").expect("a Cache-Status");
    assert!(
        status.starts_with("tradebot-symbols; hit; ttl=-") && status.ends_with("detail=last-good"),
        "{status}"
    );
    let age: u64 = answer.header("age").expect("an Age").parse().expect("seconds");
    assert!(age > 90_000_000, "{age}");
    assert_eq!(
        answer.header("last-modified"),
        Some("Tue, 14 Nov 2023 22:13:20 GMT")
    );
}

#[tokio::test]
async fn scripts_of_any_origin_may_read_outside_production_and_of_one_origin_within() {
    let world = World::new().await;
    let anywhere = Endpoint::warm(&world).await;
    let production = [
        ("ENVIRONMENT", "production"),
        ("FRONTEND_URL", "https://front.example"),
    ];
    let production = Endpoint::warmed(&world, serve(&world).envs(production)).await;
    let target = route(Market::Spot);
    let origin = |endpoint: &super::Answer| endpoint.header("access-control-allow-origin").map(str::to_owned);
    let mine = [("origin", "https://front.example")];
    let others = [("origin", "https://other.example")];
    let answer = anywhere.ask("GET", target, &others).await;
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(origin(&answer).as_deref(), Some("https://other.example"));
    assert_eq!(
        origin(&production.ask("GET", target, &mine).await).as_deref(),
        Some("https://front.example")
    );
    assert_eq!(origin(&production.ask("GET", target, &others).await), None);
    assert_eq!(origin(&production.get(target).await), None);
    let preflight = [
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "authorization,x-any"),
    ];
    let answer = production
        .ask("OPTIONS", target, &[&mine[..], &preflight].concat())
        .await;
    assert_eq!((answer.status, answer.text()), (200, "OK"));
    for (name, value) in [
        ("access-control-allow-origin", "https://front.example"),
        (
            "access-control-allow-methods",
            "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
        ),
        ("access-control-allow-headers", "authorization,x-any"),
        ("access-control-max-age", "600"),
        ("vary", "Origin"),
    ] {
        assert_eq!(answer.header(name), Some(value));
    }
    let answer = production
        .ask("OPTIONS", target, &[&others[..], &preflight].concat())
        .await;
    assert_eq!((answer.status, answer.text()), (400, "Disallowed CORS origin"));
}

#[tokio::test]
async fn a_list_that_python_writes_is_answered_soon() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let before = endpoint.get(route(Market::Spot)).await;
    store(&world, Market::Spot, GOOD_TEXT).await;
    let after = tradebot_test_support::eventually("the new list", crate::world::PATIENCE, async || {
        let answer = endpoint.get(route(Market::Spot)).await;
        (answer.text() == GOOD_TEXT).then_some(answer)
    })
    .await;
    assert_ne!(before.header("etag"), after.header("etag"));
    let list: Vec<Value> = serde_json::from_slice(&after.body).expect("JSON");
    assert_eq!(list.len(), 2);
}
