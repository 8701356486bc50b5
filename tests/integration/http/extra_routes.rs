//! Routes and options that the Python backend does not have.

use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_test_support::{Process, Reply, Signal, bin, eventually, free_port};

use super::client::{self, Answer};
use super::{Endpoint, LIST, detail, listening, route, sample, serve, upstream_fails};
use crate::world::{PATIENCE, World, exchange_info, path, warmup};

const SPOT: Market = Market::Spot;

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|_| panic!("no JSON: {}", answer.text()))
}

fn names(answer: &Answer) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_slice(&answer.body).expect("a list");
    let names = list
        .iter()
        .map(|symbol| symbol["symbol"].as_str().expect("a name").to_owned());
    names.collect()
}

/// Symbols of several quote assets, one of them not trading.
fn several() -> String {
    exchange_info(&[
        ("ETH", "USDT", "TRADING"),
        ("BTC", "USDT", "TRADING"),
        ("BTC", "USDC", "TRADING"),
        ("ETH", "FDUSD", "TRADING"),
        ("币", "USDT", "TRADING"),
        ("LUNA", "USDC", "BREAK"),
    ])
}

/// A `serve` that has fetched both lists itself.
async fn fetched(world: &World) -> Endpoint {
    for market in Market::ALL {
        world.exchange.always(path(market), Reply::json(several()));
    }
    let endpoint = Endpoint::start(serve(world));
    for market in Market::ALL {
        endpoint.until_hit(market).await;
    }
    endpoint
}

#[tokio::test]
async fn other_quote_assets_and_single_symbols_can_be_asked_for() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    for (query, expected) in [
        ("?quote=USDC,FDUSD", &["BTCUSDC", "ETHFDUSD"][..]),
        ("?quote=USDC", &["BTCUSDC"]),
        (
            "?quote=*",
            &["BTCUSDT", "BTCUSDC", "ETHUSDT", "ETHFDUSD", "币USDT"],
        ),
        ("?base=ETH", &["ETHUSDT"]),
        ("?quote=*&base=ETH,%E5%B8%81", &["ETHUSDT", "ETHFDUSD", "币USDT"]),
        ("?quote=NONE", &[]),
        ("", &["BTCUSDT", "ETHUSDT", "币USDT"]),
    ] {
        let answer = endpoint.get(&format!("{}{query}", route(SPOT))).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let mut found = names(&answer);
        // Popular bases first; among equal ones upstream's order, of which this is not about.
        found.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{query}");
        let tag = answer.header("etag").expect("a tag").to_owned();
        let again = endpoint
            .ask(
                "GET",
                &format!("{}{query}", route(SPOT)),
                &[("if-none-match", &tag)],
            )
            .await;
        assert_eq!(again.status, 304);
        assert!(
            answer
                .header("cache-control")
                .expect("a Cache-Control")
                .starts_with("public, max-age=")
        );
    }
    let first = endpoint.get(&format!("{}?quote=*", route(SPOT))).await;
    assert_eq!(names(&first)[..2], ["BTCUSDT", "BTCUSDC"], "popular bases lead");
    for query in ["?quote=", "?quote=A,,B", "?base=A&base=B"] {
        let answer = endpoint.get(&format!("{}{query}", route(SPOT))).await;
        assert_eq!(answer.status, 422, "{query}");
        detail(&answer);
    }
    let symbol = endpoint.get("/api/v1/symbols/spot/LUNAUSDC").await;
    assert_eq!(
        symbol.text(),
        r#"{"symbol": "LUNAUSDC", "baseAsset": "LUNA", "quoteAsset": "USDC", "status": "BREAK"}"#
    );
    let symbol = endpoint.get("/api/v1/symbols/futures/%E5%B8%81USDT").await;
    assert_eq!(body(&symbol)["baseAsset"], "币");
    for unknown in ["/api/v1/symbols/spot/NOPE", "/api/v1/symbols/coinm/BTCUSDT"] {
        assert_eq!(endpoint.get(unknown).await.status, 404);
    }
}

#[tokio::test]
async fn what_only_python_has_written_can_be_narrowed_but_not_widened() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    assert_eq!(
        names(&endpoint.get(&format!("{}?base=BTC", route(SPOT))).await),
        ["BTCUSDT"]
    );
    let answer = endpoint.get(&format!("{}?quote=*", route(SPOT))).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert_eq!(
        body(&endpoint.get("/api/v1/symbols/spot/BTCUSDT").await)["status"],
        "TRADING"
    );
}

/// The list is the same in both refreshes, only a symbol of another quote asset changes.
#[tokio::test]
async fn a_symbol_asked_between_two_refreshes_within_one_second_is_that_of_the_second_one_afterwards() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    let _worker = world.start_worker(&[]);
    let status_becomes = async |status: &str| {
        let list = several().replace("BREAK", status);
        world.exchange.always(path(SPOT), Reply::json(list));
        assert_eq!(world.run_last_try(SPOT).await.1["status"], "SUCCESS");
        eventually(status, PATIENCE, async || {
            let symbol = endpoint.get("/api/v1/symbols/spot/LUNAUSDC").await;
            (body(&symbol)["status"] == status).then_some(())
        })
        .await;
        let other = endpoint.get(&format!("{}?quote=USDC", route(SPOT))).await;
        let expected: &[&str] = if status == "TRADING" {
            &["BTCUSDC", "LUNAUSDC"]
        } else {
            &["BTCUSDC"]
        };
        assert_eq!(names(&other), expected);
        world.lists(SPOT).await.last_refresh.expect("a time")
    };
    let mut same_second = 0;
    for _ in 0..10 {
        let times = [status_becomes("TRADING").await, status_becomes("HALT").await];
        same_second += usize::from(times[0] == times[1]);
    }
    assert!(same_second > 0, "the refreshes never fell into one second");
}

/// The exchange leaves out symbols of other statuses if it is asked to, as the scripted one does.
#[tokio::test]
async fn a_symbol_that_stops_trading_says_so_and_is_not_taken_for_removed() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    let _worker = world.start_worker(&[]);
    let list = |status| {
        Reply::json(exchange_info(&[
            ("BTC", "USDT", "TRADING"),
            ("ETH", "USDT", "TRADING"),
            ("SOL", "USDT", "TRADING"),
            ("DOT", "USDT", "TRADING"),
            ("ADA", "USDT", "TRADING"),
            ("XRP", "USDT", status),
            ("LUNA", "USDC", "BREAK"),
        ]))
    };
    for market in Market::ALL {
        for (status, count) in [("TRADING", 6), ("BREAK", 5)] {
            world.exchange.always(path(market), list(status));
            let (_, result) = world.run_last_try(market).await;
            assert_eq!(result["result"], format!("WARMUP_OK:{count}"));
            eventually(status, PATIENCE, async || {
                let symbol = endpoint.get(&format!("/api/v1/symbols/{market}/XRPUSDT")).await;
                (symbol.status == 200 && body(&symbol)["status"] == status).then_some(())
            })
            .await;
        }
        let symbol = endpoint.get(&format!("/api/v1/symbols/{market}/LUNAUSDC")).await;
        assert_eq!(body(&symbol)["status"], "BREAK");
        let unknown = endpoint.get(&format!("/api/v1/symbols/{market}/NOPE")).await;
        assert_eq!(unknown.status, 404);
        let changes = body(&endpoint.get("/api/v1/symbols/changes").await);
        let last = changes["changes"]
            .as_array()
            .expect("changes")
            .last()
            .expect("a change")
            .clone();
        assert_eq!(
            (&last["market"], &last["removed"]),
            (&json!(market.name()), &json!([]))
        );
        let told = json!([{"symbol": "XRPUSDT", "from": "TRADING", "to": "BREAK"}]);
        assert_eq!(last["status_changed"], told);
    }
}

#[tokio::test]
async fn changes_are_told_from_where_a_client_left_off() {
    let world = World::new().await;
    let endpoint = fetched(&world).await;
    let after = exchange_info(&[
        ("ETH", "USDT", "TRADING"),
        ("BTC", "USDT", "TRADING"),
        ("币", "USDT", "TRADING"),
        ("SOL", "USDT", "TRADING"),
    ]);
    let before = body(&endpoint.get("/api/v1/symbols/changes").await);
    world.exchange.always(path(SPOT), Reply::json(after));
    let worker = world.start_worker(&[]);
    let id = world.enqueue(warmup(SPOT)).await.id().to_owned();
    world.result(&id, "SUCCESS").await;
    let since = before["next"]
        .as_str()
        .map_or(String::new(), |id| format!("?since={id}"));
    let changes = body(&endpoint.get(&format!("/api/v1/symbols/changes{since}")).await);
    let last = changes["changes"]
        .as_array()
        .expect("changes")
        .last()
        .expect("a change")
        .clone();
    assert_eq!(last["market"], "spot");
    assert_eq!(last["added"][0]["symbol"], "SOLUSDT");
    assert_eq!(changes["next"], last["id"]);
    let nothing = body(
        &endpoint
            .get(&format!(
                "/api/v1/symbols/changes?since={}",
                last["id"].as_str().expect("an id")
            ))
            .await,
    );
    assert_eq!(
        nothing,
        json!({"changes": [], "complete": true, "more": false, "next": last["id"]})
    );
    for query in ["?since=x", "?limit=0", "?limit=1001"] {
        assert_eq!(
            endpoint
                .get(&format!("/api/v1/symbols/changes{query}"))
                .await
                .status,
            422
        );
    }
    drop(worker);
    world.redis.pause();
    let answer = endpoint.get("/api/v1/symbols/changes").await;
    world.redis.resume();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
}

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
