//! What browsers, scripts, caches, proxies and scrapers ask for, as the field has them.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tradebot_base::market::Market;
use tradebot_test_support::{Reply, eventually, stretched};

use super::client::{Answer, exchange, read_all, request};
use super::{Endpoint, LIST, route, serve};
use crate::world::{GOOD_TEXT, PATIENCE, World, good_list, path};

const SPOT: Market = Market::Spot;
const ORIGIN: (&str, &str) = ("origin", "https://front.example");
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[tokio::test]
async fn the_page_fetches_itself_under_any_prefix() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let page = endpoint.get("/").await;
    let script = page.text().split("<script>").nth(1).expect("a script");
    assert!(
        script.contains("fetch(location.origin + location.pathname + location.search,"),
        "{script}"
    );
    for attribute in ["href=\"/", "src=\"/", "action=\"/"] {
        assert!(!page.text().contains(attribute), "{attribute}: {}", page.text());
    }
}

#[tokio::test]
async fn a_scraper_gets_the_text_format_it_asks_for() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
        application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
        text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, content_type) in [
        (None, TEXT),
        (Some("text/plain;version=0.0.4"), TEXT),
        (Some("*/*"), TEXT),
        (Some("text/html,application/xhtml+xml,*/*;q=0.8"), TEXT),
        (Some("application/json"), TEXT),
        (Some("application/openmetrics-text"), OPENMETRICS),
        (
            Some("application/openmetrics-text; version=1.0.0, */*;q=0.1"),
            OPENMETRICS,
        ),
        (
            Some("Application/OpenMetrics-Text;Q=0.9,text/plain;q=0.5"),
            OPENMETRICS,
        ),
        (Some(prometheus_3), OPENMETRICS),
        (Some("application/openmetrics-text;q=0.4,text/plain;q=0.5"), TEXT),
        (Some("application/openmetrics-text;q=0.4,text/*;q=0.5"), TEXT),
        (Some("application/openmetrics-text;q=0"), TEXT),
        (
            Some("application/openmetrics-text;version=2.0.0,text/plain"),
            TEXT,
        ),
    ] {
        let headers: Vec<_> = accept.map(|accept| ("accept", accept)).into_iter().collect();
        let answer = endpoint.ask("GET", "/metrics", &headers).await;
        assert_eq!(answer.header("content-type"), Some(content_type), "{accept:?}");
        assert_eq!(answer.header("vary"), Some("Accept"), "{accept:?}");
        let text = answer.text();
        let openmetrics = content_type == OPENMETRICS;
        assert_eq!(text.ends_with("# EOF\n"), openmetrics, "{text}");
        let family = if openmetrics { "hits" } else { "hits_total" };
        for line in [
            format!("# TYPE tradebot_symbols_{family} counter\n"),
            format!("# HELP tradebot_symbols_{family} Reads"),
            "\ntradebot_symbols_hits_total{market=\"spot\"} ".to_owned(),
            "# TYPE tradebot_symbols_list_symbols gauge\n".to_owned(),
        ] {
            assert!(text.contains(&line), "no {line} in {text}");
        }
    }
    let [one, other] = ["application/openmetrics-text;q=0.4", "text/plain"].map(|value| ("accept", value));
    let answer = endpoint.ask("GET", "/metrics", &[one, other]).await;
    assert_eq!(answer.header("content-type"), Some(TEXT), "two header lines");
}

/// The names in a list header.
fn names(answer: &Answer, header: &str) -> Vec<String> {
    let names = answer.header(header).unwrap_or_default().split(',');
    names.map(|name| name.trim().to_ascii_lowercase()).collect()
}

#[tokio::test]
async fn credentials_get_the_explicit_origin_and_vary_names_it_once() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let list = route(SPOT);
    for target in [
        list,
        "/health",
        "/nowhere",
        "/metrics",
        "/api/v1/symbols/spot/NOPE",
    ] {
        for headers in [
            &[ORIGIN][..],
            &[ORIGIN, ("cookie", "a=b")],
            &[ORIGIN, ("authorization", "Bearer x")],
        ] {
            for method in ["GET", "HEAD"] {
                let answer = endpoint.ask(method, target, headers).await;
                let allowed = answer.header("access-control-allow-origin");
                assert_eq!(allowed, Some(ORIGIN.1), "{method} {target} {headers:?}");
                assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
                let vary = names(&answer, "vary");
                let origins = vary.iter().filter(|name| *name == "origin").count();
                assert_eq!(origins, 1, "{method} {target}: {vary:?}");
            }
        }
    }
    let answer = endpoint.ask("GET", list, &[ORIGIN]).await;
    assert_eq!(names(&answer, "vary"), ["accept-encoding", "origin"]);
}

#[tokio::test]
async fn scripts_may_read_every_header_that_describes_a_list() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    // What the Fetch standard exposes to scripts anyway, and what only describes the connection or CORS.
    let known = ["cache-control", "content-length", "content-type", "last-modified"];
    let others = ["vary", "connection", "x-content-type-options", "content-encoding"];
    for target in [
        route(SPOT),
        "/api/v1/symbols/spot/NOPE",
        "/api/v1/symbols/spot?quote=*",
    ] {
        let answer = endpoint.ask("GET", target, &[ORIGIN]).await;
        let exposed = names(&answer, "access-control-expose-headers");
        for (name, _) in &answer.headers {
            let readable = known.contains(&name.as_str()) || exposed.contains(name);
            let internal = others.contains(&name.as_str()) || name.starts_with("access-control-");
            assert!(readable || internal, "{target}: no script can read {name}");
        }
        for name in [
            "age",
            "cache-status",
            "content-disposition",
            "etag",
            "retry-after",
            "x-symbols-network",
        ] {
            assert!(exposed.contains(&name.to_owned()), "{name}: {exposed:?}");
        }
    }
}

#[tokio::test]
async fn a_date_that_we_sent_gets_no_second_copy() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    for target in [route(SPOT).to_owned(), format!("{}?base=BTC", route(SPOT))] {
        let fresh = endpoint.get(&target).await;
        let date = fresh.header("last-modified").expect("a date").to_owned();
        let at = httpdate::parse_http_date(&date).expect("a date");
        let before = httpdate::fmt_http_date(at - Duration::from_secs(1));
        let after = httpdate::fmt_http_date(at + Duration::from_secs(1));
        let rfc850 = chrono::DateTime::<chrono::Utc>::from(at)
            .format("%A, %d-%b-%y %H:%M:%S GMT")
            .to_string();
        let asctime = chrono::DateTime::<chrono::Utc>::from(at)
            .format("%a %b %e %H:%M:%S %Y")
            .to_string();
        let tag = fresh.header("etag").expect("a tag");
        let since = |value| vec![("if-modified-since", value)];
        for (headers, status) in [
            (since(date.as_str()), 304),
            (since(&after), 304),
            (since(&rfc850), 304),
            (since(&asctime), 304),
            (since(&before), 200),
            (since("yesterday"), 200),
            (since(""), 200),
            // A tag decides alone (RFC 9110, 13.1.3).
            (
                vec![
                    ("if-modified-since", date.as_str()),
                    ("if-none-match", "\"other\""),
                ],
                200,
            ),
            (
                vec![("if-modified-since", before.as_str()), ("if-none-match", tag)],
                304,
            ),
            // Two dates are no date.
            (
                vec![
                    ("if-modified-since", date.as_str()),
                    ("if-modified-since", date.as_str()),
                ],
                200,
            ),
        ] {
            for method in ["GET", "HEAD"] {
                let answer = endpoint.ask(method, &target, &headers).await;
                assert_eq!(answer.status, status, "{method} {target} {headers:?}");
                assert_eq!(answer.header("etag"), Some(tag));
            }
        }
    }
}

async fn raw(endpoint: &Endpoint, text: &str) -> Answer {
    let bytes = exchange(endpoint.address, text.as_bytes()).await;
    Answer::parse(&bytes).unwrap_or_else(|| panic!("no answer to {text:?}"))
}

#[tokio::test]
async fn options_of_the_whole_server_is_a_204() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let answer = endpoint.ask("OPTIONS", "*", &[]).await;
    assert_eq!((answer.status, answer.body.len()), (204, 0));
    assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(endpoint.ask("GET", "*", &[]).await.status, 404);
}

/// Sends a request, then closes the sending half, as `nc -N` and some proxies do.
async fn half_closed(endpoint: &Endpoint, text: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(endpoint.address).await.expect("a connection");
    socket.write_all(text.as_bytes()).await.expect("a sent request");
    socket.shutdown().await.expect("an end of sending");
    read_all(&mut socket).await
}

#[tokio::test]
async fn a_half_closed_client_gets_its_answer_on_every_route() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let document: serde_json::Value =
        serde_json::from_slice(&endpoint.get("/openapi.json").await.body).expect("JSON");
    let routes = document["paths"].as_object().expect("paths").keys();
    let routes = routes.map(|path| path.replace("{market}", "spot").replace("{symbol}", "BTCUSDT"));
    for target in routes.chain([format!("{}?base=BTC", route(SPOT)), "/nowhere".to_owned()]) {
        for lasting in [true, false] {
            let text = if lasting {
                super::client::lasting_request("GET", &target, &[])
            } else {
                request("GET", &target, &[])
            };
            let bytes = half_closed(&endpoint, &text).await;
            let expected = endpoint.get(&target).await.status;
            let answer = Answer::parse(&bytes).unwrap_or_else(|| panic!("no answer to {target}"));
            assert_eq!(answer.status, expected, "{target}");
            let length: usize = answer
                .header("content-length")
                .expect("a length")
                .parse()
                .expect("a number");
            assert_eq!(answer.body.len(), length, "{target}");
        }
    }
    // Also where the answer takes time, and with a body that nothing uses.
    let text = request(
        "GET",
        &format!("{}?base=BTC", route(SPOT)),
        &[("content-length", "4")],
    ) + "body";
    assert!(half_closed(&endpoint, &text).await.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_half_closed_client_waits_for_the_exchange_like_any_other() {
    let world = World::new().await;
    let slow = Reply::json(good_list()).delay(Duration::from_millis(500));
    world.exchange.always(path(SPOT), slow);
    let warm_ups = [
        "ENABLE_SPOT_WARMUP_ON_STARTUP",
        "ENABLE_FUTURES_WARMUP_ON_STARTUP",
    ];
    let endpoint = Endpoint::start(serve(&world).envs(warm_ups.map(|name| (name, "0"))));
    let bytes = half_closed(&endpoint, &request("GET", route(SPOT), &[])).await;
    let answer = Answer::parse(&bytes).expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, GOOD_TEXT));
    // A client that only closes its half and asks nothing holds no connection.
    for nothing in ["", "P", "PRI * HTTP/2.0"] {
        let closed = timeout(stretched(Duration::from_secs(3)), half_closed(&endpoint, nothing)).await;
        let answer = closed.unwrap_or_else(|_| panic!("{nothing:?} holds a connection"));
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"),
            "{nothing:?}"
        );
    }
}

/// Requests and the status that RFC 9110, 9111 and 9112 have for them.
#[tokio::test]
async fn requests_get_what_the_rfcs_have_for_them() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let tag = endpoint
        .get(route(SPOT))
        .await
        .header("etag")
        .expect("a tag")
        .to_owned();
    let list = |fields: &str| {
        format!(
            "GET {} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n",
            route(SPOT)
        )
    };
    let hosted = |fields: &str| list(&format!("Host: test\r\n{fields}"));
    let line = |line: &str| format!("{line}\r\nHost: test\r\nConnection: close\r\n\r\n");
    for (section, text, status) in [
        // The target's host.
        ("9112 3.2", list(""), 400),
        ("9112 3.2", list("Host: a\r\nHost: a\r\n"), 400),
        ("9112 3.2", list("Host: a\r\nHost: b\r\n"), 400),
        ("9112 3.2", list("Host: a b\r\n"), 400),
        ("9112 3.2", list("Host: user@a\r\n"), 400),
        ("9112 3.2", list("Host: a/b\r\n"), 400),
        ("9112 3.2", list("Host: a:port\r\n"), 400),
        ("9112 3.2", list("Host:\r\n"), 200),
        ("9112 3.2", list("Host: [::1]:8000\r\n"), 200),
        ("9112 3.2", list("HOST: example.com:80\r\n"), 200),
        ("9112 3.2", "GET /health HTTP/1.0\r\n\r\n".to_owned(), 200),
        (
            "9112 3.2",
            "GET /health HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(),
            400,
        ),
        (
            "9112 3.2.2",
            line("GET http://other.example/health HTTP/1.1"),
            200,
        ),
        (
            "9112 3.2.2",
            "GET http://a/health HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
            400,
        ),
        ("9112 3.2.4", line("OPTIONS * HTTP/1.1"), 204),
        // The request line and the header fields.
        ("9112 2.2", "\r\n".to_owned() + &hosted(""), 200),
        ("9112 3", line("GET  /health HTTP/1.1"), 400),
        ("9112 3", line("GET /health"), 400),
        ("9112 2.3", line("GET /health HTTX/1.1"), 400),
        ("9112 3", line("GET\t/health HTTP/1.1"), 400),
        ("9112 3", line("GET /health HTTP/1.1 "), 400),
        ("9112 3", line(" /health HTTP/1.1"), 400),
        ("9112 3.1", line("G(T /health HTTP/1.1"), 400),
        ("9112 2.3", line("GET /health http/1.1"), 400),
        ("9112 2.3", line("GET /health HTTP/2.0"), 400),
        ("9112 2.2", line("GET /health\rx HTTP/1.1"), 400),
        (
            "9112 2.2",
            "GET /health HTTP/1.1\r\n X: 1\r\nHost: test\r\n\r\n".to_owned(),
            400,
        ),
        ("9112 2.2", hosted("X-Return: a\rb\r\n"), 400),
        ("9112 3.2.2", line("GET http://other.example HTTP/1.1"), 200),
        ("9112 5.1", hosted("X-Space : 1\r\n"), 400),
        ("9112 5.2", hosted("X-Folded: a\r\n b\r\n"), 400),
        ("9110 5.5", hosted("X-Null: a\0b\r\n"), 400),
        ("9110 5.6.2", hosted("X(Name: 1\r\n"), 400),
        // The length of a body.
        ("9112 6.3", hosted("Content-Length: 1, 2\r\n"), 400),
        (
            "9112 6.3",
            hosted("Content-Length: 1\r\nContent-Length: 2\r\n"),
            400,
        ),
        ("9112 6.3", hosted("Content-Length: -1\r\n"), 400),
        ("9112 6.3", hosted("Content-Length: +1\r\n"), 400),
        ("9112 6.3", hosted("Content-Length: 0x0\r\n"), 400),
        (
            "9112 6.3",
            hosted("Content-Length: 99999999999999999999999\r\n"),
            400,
        ),
        ("9112 6.1", hosted("Transfer-Encoding: gzip\r\n"), 400),
        ("9112 6.1", hosted("Transfer-Encoding: chunked, gzip\r\n"), 400),
        ("9112 6.1", hosted("Transfer-Encoding: xchunked\r\n"), 400),
        ("9112 6.1", hosted("Transfer-Encoding:\r\n"), 400),
        (
            "9112 6.1",
            "GET /health HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            400,
        ),
        (
            "9112 7.1",
            hosted("Transfer-Encoding: chunked\r\n") + "fffffffffffffffff\r\n",
            400,
        ),
        (
            "9112 7.1",
            hosted("Transfer-Encoding: chunked\r\n") + "1\na\n0\n\n",
            400,
        ),
        (
            "9112 7.1",
            hosted("Transfer-Encoding: chunked\r\n").clone() + "zz\r\n",
            400,
        ),
        (
            "9112 7.1",
            hosted("Transfer-Encoding: chunked\r\n").clone() + "1;x=y\r\na\r\n0\r\nT: 1\r\n\r\n",
            200,
        ),
        // Methods.
        ("9110 9.1", line("BREW / HTTP/1.1"), 405),
        ("9110 9.1", line("get / HTTP/1.1"), 405),
        ("9110 9.3.8", line("TRACE / HTTP/1.1"), 405),
        ("9110 9.3.7", line("OPTIONS / HTTP/1.1"), 204),
        (
            "9110 9.3.6",
            "CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\nConnection: close\r\n\r\n".to_owned(),
            404,
        ),
        // Conditions and ranges.
        ("9110 13.1.1", hosted("If-Match: \"other\"\r\n"), 412),
        ("9110 13.1.1", hosted(&format!("If-Match: W/{tag}\r\n")), 412),
        (
            "9110 13.1.1",
            hosted(&format!("If-Match: \"other\", {tag}\r\n")),
            200,
        ),
        ("9110 13.1.1", hosted("If-Match: *\r\n"), 200),
        (
            "9110 13.1.4",
            hosted("If-Unmodified-Since: Tue, 14 Nov 2000 22:13:20 GMT\r\n"),
            412,
        ),
        (
            "9110 13.1.4",
            hosted("If-Unmodified-Since: Tue, 14 Nov 2090 22:13:20 GMT\r\n"),
            200,
        ),
        ("9110 13.1.4", hosted("If-Unmodified-Since: never\r\n"), 200),
        (
            "9110 13.2.2",
            hosted(&format!("If-Match: \"other\"\r\nIf-None-Match: {tag}\r\n")),
            412,
        ),
        (
            "9110 13.1.3",
            hosted("If-None-Match: \"other\"\r\nIf-Modified-Since: Tue, 14 Nov 2090 22:13:20 GMT\r\n"),
            200,
        ),
        (
            "9110 13.2.2",
            hosted(&format!(
                "If-Unmodified-Since: Tue, 14 Nov 2000 22:13:20 GMT\r\nIf-None-Match: {tag}\r\n"
            )),
            412,
        ),
        ("9110 14.2", hosted("Range: bytes=0-1\r\n"), 200),
        ("9110 14.2", hosted("Range: bytes=9999999-\r\n"), 200),
        (
            "9110 13.1.5",
            hosted(&format!("Range: bytes=0-1\r\nIf-Range: {tag}\r\n")),
            200,
        ),
        ("9110 12.4.1", hosted("Accept: text/html\r\n"), 200),
        ("9110 10.1.1", hosted("Expect: 200-maybe\r\n"), 200),
        ("9111 5.2.1.7", hosted("Cache-Control: only-if-cached\r\n"), 200),
    ] {
        let answer = raw(&endpoint, &text).await;
        assert_eq!(answer.status, status, "RFC {section}: {text:?}");
        let date = answer.header("date").is_some();
        assert!(
            date || status == 400,
            "RFC 9110 6.6.1: no date in the answer to {text:?}"
        );
        if status == 405 {
            assert_eq!(
                answer.header("allow"),
                Some("GET, HEAD, OPTIONS"),
                "RFC 9110 15.5.6"
            );
        }
        if status == 204 {
            assert_eq!(answer.header("content-length"), None, "RFC 9110 8.6");
        }
    }
    // An answer to an invalid request ends the connection: what follows may be anything.
    let smuggled = list("") + &hosted("");
    let bytes = exchange(
        endpoint.address,
        smuggled.replace("Connection: close\r\n", "").as_bytes(),
    )
    .await;
    assert_eq!(String::from_utf8_lossy(&bytes).matches("HTTP/1.1 ").count(), 1);
}

/// RFC 9112, 6.1: the chunks count, and what follows may be anything.
#[tokio::test]
async fn a_request_with_two_lengths_ends_its_connection() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let (length, chunked) = ("Content-Length: 4\r\n", "Transfer-Encoding: chunked\r\n");
    for lengths in [format!("{length}{chunked}"), format!("{chunked}{length}")] {
        let first = format!("GET /health HTTP/1.1\r\nHost: test\r\n{lengths}\r\n0\r\n\r\n");
        let text = first + &super::client::lasting_request("GET", "/livez", &[]);
        let bytes = exchange(endpoint.address, text.as_bytes()).await;
        let answers = String::from_utf8(bytes).expect("UTF-8");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
        assert!(answers.contains("connection: close"), "{answers}");
    }
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let mut socket = TcpStream::connect(endpoint.address).await.expect("a connection");
    let head = request(
        "GET",
        route(SPOT),
        &[("content-length", "4"), ("expect", "100-continue")],
    );
    socket.write_all(head.as_bytes()).await.expect("a sent head");
    let mut interim = [0; 25];
    let read = timeout(stretched(PATIENCE), socket.read_exact(&mut interim)).await;
    read.expect("an interim answer in time")
        .expect("an interim answer");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"body").await.expect("a sent body");
    let answer = Answer::parse(&read_all(&mut socket).await).expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, LIST));
}

#[tokio::test]
async fn the_page_shows_the_changes_of_a_refresh() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    assert!(
        endpoint
            .get("/")
            .await
            .text()
            .contains("Recent changes</h2><p>None yet.</p>")
    );
    world.exchange_lists(SPOT);
    let _worker = world.start_worker(&[]);
    let id = world.enqueue(crate::world::warmup(SPOT)).await.id().to_owned();
    world.result(&id, "SUCCESS").await;
    let page = eventually("the change", PATIENCE, async || {
        let page = endpoint.get("/").await.text().to_owned();
        page.contains("id=\"changes\"").then_some(page)
    })
    .await;
    let changes = page.split("Recent changes</h2>").nth(1).expect("changes");
    assert!(!changes.contains("Redis does not say"), "{changes}");
    assert!(changes.contains("<td>spot</td><td>"), "{changes}");
}
