//! Encodings, ETags and cache headers.

use std::io::Read;

use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::eventually;

use super::client::Answer;
use super::{Endpoint, LIST, route, serve, store};
use crate::world::{PATIENCE, World};

const SPOT: Market = Market::Spot;

/// A list of usual length; every coding makes it smaller.
fn long_list() -> String {
    let entries: Vec<String> = (0..400)
        .map(|n| {
            format!(
                r#"{{"symbol": "A{n}USDT", "baseAsset": "A{n}", "quoteAsset": "USDT", "status": "TRADING"}}"#
            )
        })
        .collect();
    format!("[{}]", entries.join(", "))
}

fn unpack(coding: &str, body: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    match coding {
        "gzip" => drop(
            flate2::read::GzDecoder::new(body)
                .read_to_end(&mut text)
                .expect("gzip"),
        ),
        "br" => drop(
            brotli::Decompressor::new(body, 4096)
                .read_to_end(&mut text)
                .expect("br"),
        ),
        "zstd" => text = zstd::bulk::decompress(body, 1 << 20).expect("zstd"),
        other => panic!("{other}"),
    }
    text
}

/// The answer in a coding, once that is made.
async fn packed(endpoint: &Endpoint, coding: &str) -> Answer {
    eventually(coding, PATIENCE, async || {
        let answer = endpoint
            .ask("GET", route(SPOT), &[("accept-encoding", coding)])
            .await;
        (answer.header("content-encoding") == Some(coding)).then_some(answer)
    })
    .await
}

async fn with_long_list(world: &World) -> Endpoint {
    for market in Market::ALL {
        store(world, market, &long_list()).await;
    }
    let endpoint = Endpoint::start(serve(world));
    endpoint.until_hit(SPOT).await;
    endpoint
}

#[tokio::test]
async fn each_coding_has_its_own_tag_that_is_the_same_in_every_process() {
    let world = World::new().await;
    let (one, other) = (with_long_list(&world).await, with_long_list(&world).await);
    let mut tags = vec![];
    for coding in ["gzip", "br", "zstd"] {
        let answer = packed(&one, coding).await;
        assert_eq!(unpack(coding, &answer.body), long_list().as_bytes());
        assert!(answer.body.len() * 5 < long_list().len());
        let again = packed(&other, coding).await;
        assert_eq!(answer.body, again.body, "the same bytes under the same tag");
        assert_eq!(answer.header("etag"), again.header("etag"));
        tags.push(answer.header("etag").expect("a tag").to_owned());
        let head = one.ask("HEAD", route(SPOT), &[("accept-encoding", coding)]).await;
        assert_eq!(
            head.header("content-length"),
            Some(answer.body.len().to_string().as_str())
        );
        assert_eq!(head.header("content-encoding"), Some(coding));
    }
    let plain = one.get(route(SPOT)).await;
    assert_eq!(
        (plain.text(), plain.header("content-encoding")),
        (long_list().as_str(), None)
    );
    tags.push(plain.header("etag").expect("a tag").to_owned());
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4);
    assert!(tags.iter().all(|tag| tag.starts_with('"')), "{tags:?}");
    // The most wished for of those that are there.
    let choice = |wishes: &'static str| {
        let one = &one;
        async move {
            let answer = one.ask("GET", route(SPOT), &[("accept-encoding", wishes)]).await;
            answer.header("content-encoding").map(str::to_owned)
        }
    };
    assert_eq!(choice("gzip, deflate, br, zstd").await.as_deref(), Some("br"));
    assert_eq!(choice("gzip;q=1, br;q=0.5").await.as_deref(), Some("gzip"));
    assert_eq!(choice("br;q=0, *;q=0.1").await.as_deref(), Some("zstd"));
    assert_eq!(choice("deflate").await, None);
}

#[tokio::test]
async fn who_has_the_list_gets_no_second_copy() {
    let world = World::new().await;
    let endpoint = with_long_list(&world).await;
    let br = packed(&endpoint, "br").await;
    let tag = br.header("etag").expect("a tag");
    let weak = format!("W/{tag}");
    let several = format!("\"other\", {weak} , \"more\"");
    for (sent, unchanged) in [
        (tag, true),
        (weak.as_str(), true),
        (several.as_str(), true),
        ("*", true),
        ("\"other\"", false),
        ("garbage", false),
    ] {
        for method in ["GET", "HEAD"] {
            let headers = [("accept-encoding", "br"), ("if-none-match", sent)];
            let answer = endpoint.ask(method, route(SPOT), &headers).await;
            assert_eq!(answer.status, if unchanged { 304 } else { 200 }, "{sent}");
            assert_eq!(answer.header("etag"), Some(tag));
            assert_eq!(answer.header("vary"), Some("Accept-Encoding, Origin"));
            assert!(answer.header("cache-control").is_some() && answer.header("cache-status").is_some());
            if unchanged {
                assert!(answer.body.is_empty());
                assert_eq!(answer.header("content-type"), None);
                assert_eq!(answer.header("content-encoding"), None);
            }
        }
    }
    // Another coding's tag is another representation's.
    let answer = endpoint.ask("GET", route(SPOT), &[("if-none-match", tag)]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn other_caches_are_told_how_long_how_old_and_from_where() {
    let world = World::new().await;
    let endpoint = Endpoint::warm(&world).await;
    let answer = endpoint.get(route(SPOT)).await;
    let number = |name: &str| -> i64 { answer.header(name).expect(name).parse().expect("a number") };
    let age = number("age");
    assert!((0..60).contains(&age), "{age}");
    let control = answer.header("cache-control").expect("a Cache-Control");
    let lifetime = control
        .strip_prefix("public, max-age=")
        .and_then(|rest| rest.strip_suffix(", stale-while-revalidate=3600, stale-if-error=86400"));
    let lifetime: i64 = lifetime
        .unwrap_or_else(|| panic!("{control}"))
        .parse()
        .expect("seconds");
    assert!((298..=301).contains(&lifetime), "{control}");
    let status = answer.header("cache-status").expect("a Cache-Status");
    let ttl = status
        .strip_prefix("tradebot-symbols; hit; ttl=")
        .and_then(|rest| rest.strip_suffix("; detail=memory"));
    let ttl: i64 = ttl
        .unwrap_or_else(|| panic!("{status}"))
        .parse()
        .expect("seconds");
    assert_eq!(ttl + age, lifetime);
    let time = |name: &str| httpdate::parse_http_date(answer.header(name).expect(name)).expect("a date");
    let since = time("date").duration_since(time("last-modified"));
    assert_eq!(since.expect("an age").as_secs(), age.unsigned_abs());
    assert_eq!(answer.text(), LIST);
}

/// Milliseconds, say: as seconds they lie beyond the years that headers can name.
#[tokio::test]
async fn a_time_of_refresh_that_no_header_can_name_keeps_no_list_back() {
    let world = World::new().await;
    for time in ["1764378000000", "9223372036854775807", "-1"] {
        for market in Market::ALL {
            store(&world, market, LIST).await;
            world.set(&CacheKeys(market).last_refresh(), time).await;
        }
        let endpoint = Endpoint::start(serve(&world));
        endpoint.until_hit(SPOT).await;
        let answer = endpoint.get(route(SPOT)).await;
        assert_eq!((answer.status, answer.text()), (200, LIST), "{time}");
        assert_eq!(answer.header("last-modified"), None, "{time}");
        assert!(answer.header("date").is_some(), "{time}");
        for other in ["/", "/metrics"] {
            assert_eq!(endpoint.get(other).await.status, 200, "{time}, {other}");
        }
    }
}

#[tokio::test]
async fn a_list_past_its_lifetime_says_so() {
    let world = World::new().await;
    super::upstream_fails(&world);
    let serve = serve(&world).env("BINANCE_RETRY_MAX_ATTEMPTS", "1");
    let endpoint = Endpoint::warmed(&world, serve).await;
    let expired: Result<(), _> =
        redis::AsyncCommands::pexpire(&mut world.db(), CacheKeys(SPOT).primary(), 1).await;
    expired.expect("an expiry");
    let answer = eventually("a stale list", PATIENCE, async || {
        let answer = endpoint.get(route(SPOT)).await;
        assert_eq!((answer.status, answer.text()), (200, LIST));
        let stale = answer.header("cache-status")?.contains("ttl=-");
        stale.then_some(answer)
    })
    .await;
    // No cache may keep it as fresh: its age is past its lifetime.
    let control = answer.header("cache-control").expect("a Cache-Control");
    let lifetime = control
        .split("max-age=")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let lifetime: i64 = lifetime.expect("a max-age").parse().expect("seconds");
    let age: i64 = answer.header("age").expect("an Age").parse().expect("seconds");
    assert!(age >= lifetime, "{control}, Age {age}");
}
