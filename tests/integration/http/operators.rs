//! What is for operators: readiness, metrics, the status page, and an address of its own for them.

use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::{Process, Reply, Signal, bin, eventually, free_port};

use super::client;
use super::extra_routes::{body, fetched, names, several};
use super::{Endpoint, LIST, listening, route, sample, serve, upstream_fails};
use crate::world::{PATIENCE, World, path, warmup};

const SPOT: Market = Market::Spot;

async fn ready(address: std::net::SocketAddr) -> (u16, Value) {
    let answer = super::ask(address, "GET", "/readyz", &[]).await;
    (answer.status, body(&answer))
}

fn codes(readiness: &Value, part: &str) -> Vec<String> {
    let reasons = readiness[part].as_array().expect("reasons");
    let codes = reasons
        .iter()
        .map(|reason| reason["code"].as_str().expect("a code").to_owned());
    codes.collect()
}

#[tokio::test]
async fn readiness_is_serving_and_says_why_not() {
    let world = World::new().await;
    upstream_fails(&world);
    let endpoint = Endpoint::start(serve(&world).env("BINANCE_RETRY_MAX_ATTEMPTS", "1"));
    let (status, readiness) = ready(endpoint.address).await;
    assert_eq!((status, readiness["status"].as_str()), (503, Some("not ready")));
    assert_eq!(codes(&readiness, "reasons"), ["no_list", "no_list"]);
    assert_eq!(readiness["reasons"][0]["market"], "spot");
    for market in Market::ALL {
        super::store(&world, market, LIST).await;
        endpoint.until_hit(market).await;
    }
    let (status, readiness) = ready(endpoint.address).await;
    assert_eq!(
        (status, codes(&readiness, "reasons")),
        (200, vec![]),
        "{readiness}"
    );
    world.redis.kill();
    let warned = eventually("a warning", PATIENCE, async || {
        let (status, readiness) = ready(endpoint.address).await;
        assert_eq!(status, 200, "it still serves");
        codes(&readiness, "warnings")
            .contains(&"redis_unreachable".to_owned())
            .then_some(())
    });
    warned.await;
    assert_eq!(endpoint.get("/livez").await.text(), r#"{"status":"live"}"#);
}

fn worker_with_http(world: &World, arguments: &[&str]) -> (Process, std::net::SocketAddr) {
    let process = world.worker(arguments).args(["--http", "127.0.0.1:0"]).spawn();
    let address = listening(&process);
    (process, address)
}

#[tokio::test]
async fn a_worker_serves_too_and_tells_of_its_tasks() {
    let world = World::new().await;
    for market in Market::ALL {
        let list = Reply::json(several()).header("x-mbx-used-weight-1m", "17");
        world.exchange.always(path(market), list);
    }
    let (worker, address) = worker_with_http(&world, &["-Q", "celery,other"]);
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.result(&id, "SUCCESS").await;
    let foreign = crate::world::task("app.core.bot_tasks.run_bot_task");
    world.enqueue(foreign).await;
    let answer = eventually("a list", PATIENCE, async || {
        let answer = super::ask(address, "GET", route(SPOT), &[]).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(names(&answer), ["BTCUSDT", "ETHUSDT", "币USDT"]);
    let until = eventually("readiness", PATIENCE, async || {
        let (status, readiness) = ready(address).await;
        (status == 200).then_some(readiness)
    });
    assert_eq!(codes(&until.await, "reasons"), Vec::<String>::new());
    let text = eventually("the foreign task", PATIENCE, async || {
        let accept = ("accept", "application/openmetrics-text");
        let answer = super::ask(address, "GET", "/metrics", &[accept]).await;
        assert_eq!(
            answer.header("content-type"),
            Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
        );
        let text = answer.text().to_owned();
        text.contains("foreign_tasks_waiting{task=").then_some(text)
    })
    .await;
    let task = SPOT.warmup_task();
    let number = |name: &str| sample(&text, &format!("tradebot_symbols_{name}"));
    assert!(
        number(&format!(
            "task_outcomes_total{{task=\"{task}\",outcome=\"success\"}}"
        )) >= 1.0
    );
    assert!(number(&format!("task_runtime_seconds_count{{task=\"{task}\"}}")) >= 1.0);
    assert_eq!(
        number("foreign_tasks_waiting{task=\"app.core.bot_tasks.run_bot_task\"}"),
        1.0
    );
    assert_eq!(number("queue_messages{queue=\"celery\"}"), 1.0);
    assert_eq!(number("queue_messages{queue=\"other\"}"), 0.0);
    assert_eq!(number("workers_live"), 1.0);
    assert_eq!(number("list_symbols{market=\"spot\"}"), 3.0);
    assert!(number("list_age_seconds{market=\"spot\"}") < 60.0);
    assert_eq!(number("upstream_used_weight{market=\"spot\"}"), 17.0);
    assert!(number("hits_total{market=\"spot\"}") >= 1.0);
    assert!(number("deployment_refreshes_total{market=\"spot\",outcome=\"success\"}") >= 1.0);
    assert!(number("http_answers_total{class=\"2xx\"}") >= 2.0);
    assert!(text.ends_with("# EOF\n"));
    // A consumer that the broker does not answer does not consume.
    world.redis.pause();
    let patience = PATIENCE * 2;
    let stalled = eventually("a stalled consumer", patience, async || {
        let (status, readiness) = ready(address).await;
        let stalled = codes(&readiness, "reasons").contains(&"consumer_stalled".to_owned());
        (status == 503 && stalled).then_some(())
    });
    stalled.await;
    assert_eq!(super::ask(address, "GET", route(SPOT), &[]).await.status, 200);
    world.redis.resume();
    let recovered = eventually("a consumer", PATIENCE, async || {
        (ready(address).await.0 == 200).then_some(())
    });
    recovered.await;
    worker.signal(Signal::SIGTERM);
    assert_eq!(worker.wait_exit(PATIENCE).code(), Some(0));
}

#[tokio::test]
async fn a_worker_that_cannot_listen_does_not_start() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let address = endpoint.address.to_string();
    let worker = world.worker(&["--http", &address]).spawn();
    assert_eq!(worker.wait_exit(PATIENCE).code(), Some(1));
    assert!(
        worker.stderr().contains("cannot listen on"),
        "{}",
        worker.stderr()
    );
}

#[tokio::test]
async fn the_page_shows_figures_and_lets_nothing_else_run() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    let answer = endpoint.get("/").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some("text/html; charset=utf-8"))
    );
    let policy = answer.header("content-security-policy").expect("a policy");
    assert!(
        policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
        "{policy}"
    );
    let page = answer.text();
    for text in [
        "id=\"spot-count\">3<",
        "id=\"futures-count\">3<",
        "lang=\"en\"",
        "no beat of this kind",
    ] {
        assert!(page.contains(text), "`{text}` is missing: {page}");
    }
    assert!(
        !page.contains("http://") || page.contains(&world.exchange.base_url()),
        "{page}"
    );
    // The document of the routes is theirs.
    let document = body(&endpoint.get("/openapi.json").await);
    assert_eq!(document["openapi"], "3.1.0");
}

#[tokio::test]
async fn the_page_shows_the_latest_twenty_changes() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    for number in 0..25 {
        let paused = json!({"symbol": format!("S{number}"), "from": "TRADING", "to": "BREAK"});
        let change = json!({"added": [], "removed": [], "status_changed": [paused]}).to_string();
        let added: Result<String, _> = redis::cmd("XADD")
            .arg("cache:symbols:changes")
            .arg("*")
            .arg(&[("market", "spot"), ("at", "1764378000"), ("change", &change)])
            .query_async(&mut world.db())
            .await;
        added.expect("a change in the stream");
    }
    let page = eventually("the changes on the page", PATIENCE, async || {
        let page = endpoint.get("/").await.text().to_owned();
        page.contains("id=\"changes\"").then_some(page)
    })
    .await;
    assert_eq!(page.matches("TRADING → BREAK").count(), 20, "{page}");
    assert!(
        page.contains("S24:") && page.contains("S5:") && !page.contains("S4:"),
        "{page}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_for_operators_takes_what_shows_the_deployment_off_the_public_one() {
    let world = World::new().await;
    let admin = format!("127.0.0.1:{}", free_port());
    let by_flag = serve(&world).args(["--admin-listen", &admin]);
    let by_variable = serve(&world).env("HTTP_ADMIN_LISTEN", &admin);
    for started in [by_flag, by_variable] {
        let endpoint = Endpoint::warmed(&world, started).await;
        let operators = admin.parse().expect("an address");
        for (target, is_public) in [
            ("/", false),
            ("/metrics", false),
            ("/metrics/", false),
            ("/readyz", false),
            ("/livez", true),
            ("/health", true),
            ("/openapi.json", true),
            (route(Market::Spot), true),
            ("/api/v1/symbols/changes", true),
        ] {
            for method in ["GET", "HEAD"] {
                let public = endpoint.ask(method, target, &[]).await;
                assert_eq!(
                    public.status,
                    if is_public { 200 } else { 404 },
                    "{method} {target}"
                );
                let seen = client::ask(operators, method, target, &[]).await;
                assert_eq!(seen.status, 200, "{method} {target} for operators");
            }
            let refused = endpoint.ask("POST", target, &[]).await;
            assert_eq!(refused.status, if is_public { 405 } else { 404 }, "POST {target}");
        }
        let check = Process::builder(bin("tradebot-symbols"))
            .args(["healthcheck", "endpoint"])
            .env("HTTP_LISTEN", endpoint.address.to_string())
            .env("HTTP_ADMIN_LISTEN", &admin)
            .spawn();
        assert!(check.wait_exit(PATIENCE).success(), "{}", check.output());
        endpoint.process.signal(Signal::SIGTERM);
        assert_eq!(endpoint.process.wait_exit(PATIENCE).code(), Some(0));
    }
    let refused = serve(&world).env("HTTP_ADMIN_LISTEN", "9102").spawn();
    assert_eq!(refused.wait_exit(PATIENCE).code(), Some(64));
    assert!(
        refused.output().contains("HTTP_ADMIN_LISTEN is `9102`"),
        "{}",
        refused.output()
    );
}

#[tokio::test]
async fn metrics_have_the_durations_of_requests_by_route_and_status() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let samples = async |labels: &str| -> Vec<f64> {
        let metrics = endpoint.get("/metrics").await;
        let wanted = |name| format!("tradebot_symbols_http_request_duration_seconds_{name}{{");
        ["count", "sum", "bucket"]
            .iter()
            .flat_map(|name| {
                let wanted = wanted(name);
                let lines = metrics
                    .text()
                    .lines()
                    .filter(|line| line.starts_with(&wanted) && line.contains(labels));
                let values: Vec<f64> = lines
                    .map(|line| {
                        line.rsplit(' ')
                            .next()
                            .expect("a value")
                            .parse()
                            .expect("a number")
                    })
                    .collect();
                values
            })
            .collect()
    };
    let symbol = r#"route="/api/v1/symbols/spot/{symbol}",status="200""#;
    let unknown = r#"route="other",status="404""#;
    assert!(samples(symbol).await.is_empty());
    for name in ["BTCUSDT", "BTCUSDT", "%E5%B8%81USDT"] {
        let answer = endpoint.get(&format!("{}/{name}", route(SPOT))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(endpoint.get(&format!("/nothing/{name}")).await.status, 404);
    }
    for labels in [symbol, unknown] {
        let found = samples(labels).await;
        let (count, sum, buckets) = (found[0], found[1], &found[2..]);
        assert_eq!(count, 3.0);
        assert!(sum > 0.0 && sum < PATIENCE.as_secs_f64(), "{sum}");
        assert_eq!(buckets.len(), 17);
        assert!(buckets.is_sorted() && buckets[16] == 3.0, "{buckets:?}");
    }
}

#[tokio::test]
async fn the_durations_of_refreshes_and_of_requests_to_the_exchange_are_counted() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    let text = endpoint.get("/metrics").await.text().to_owned();
    for market in Market::ALL {
        for name in ["refresh", "upstream_request"] {
            let of = |part: &str, outcome: &str| {
                let labels = format!(r#"market="{market}",outcome="{outcome}"}}"#);
                sample(
                    &text,
                    &format!("tradebot_symbols_{name}_duration_seconds_{part}{labels}"),
                )
            };
            assert_eq!(
                (of("count{", "success"), of("count{", "error")),
                (1.0, 0.0),
                "{text}"
            );
            assert_eq!(of(r#"bucket{le="60.0","#, "success"), 1.0);
            let took = of("sum{", "success");
            assert!(took > 0.0 && took < 30.0, "{took}");
        }
    }
}
