//! Twenty-five bad answers of an exchange, and what readers have after each: the list from before, or the good part.
//!
//! Two need minutes or a gigabyte and are shown elsewhere: a body without end or a bomb (18, 19) and one that drips
//! (21), in `upstream::bad_bodies` and `upstream::bad_answers`.

use std::time::Duration;

use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Reply, eventually};

use super::{names, read, readers};
use crate::world::{PATIENCE, World, path};

/// The exchange's clock in the list that is in place.
const AT: i64 = 1_800_000_000_000;

struct Case {
    what: &'static str,
    market: Market,
    reply: Reply,
    outcome: Outcome,
}

enum Outcome {
    /// The list from before stays; the reason says this.
    Kept(&'static str),
    /// So many symbols are listed, this one among them.
    Listed(usize, &'static str),
}

use Outcome::{Kept, Listed};

fn spot(what: &'static str, reply: Reply, outcome: Outcome) -> Case {
    Case {
        what,
        market: Market::Spot,
        reply,
        outcome,
    }
}

fn futures(what: &'static str, reply: Reply, outcome: Outcome) -> Case {
    Case {
        market: Market::Futures,
        ..spot(what, reply, outcome)
    }
}

fn entry(base: &str) -> Value {
    json!({"symbol": format!("{base}USDT"), "status": "TRADING", "baseAsset": base, "quoteAsset": "USDT", "filters": []})
}

fn entries() -> Vec<Value> {
    ["BTC", "ETH", "A", "B", "C", "D", "E", "F", "G", "H"]
        .map(entry)
        .to_vec()
}

fn document(entries: &[Value]) -> Value {
    json!({"timezone": "UTC", "serverTime": AT + 60_000, "symbols": entries})
}

fn body(entries: &[Value]) -> String {
    document(entries).to_string()
}

/// The good list with another entry at its end.
fn with(extra: Value) -> Reply {
    let mut entries = entries();
    entries.push(extra);
    Reply::json(body(&entries))
}

/// The good list with a member set in every entry.
fn each(name: &str, value: &Value) -> Reply {
    let mut entries = entries();
    for entry in &mut entries {
        entry[name] = value.clone();
    }
    Reply::json(body(&entries))
}

fn changed(from: &str, to: &str) -> Reply {
    Reply::json(body(&entries()).replace(from, to))
}

fn cases() -> Vec<Case> {
    let whole = || Reply::json(body(&entries()));
    let mut invalid = body(&entries()).into_bytes();
    let name = body(&entries()).find("HUSDT").expect("a name");
    invalid[name] = 0xff;
    let (cut, unreadable) = ("cut off or damaged", "not an exchangeInfo document");
    let ban = |after: &str| Reply::status(418, "").header("Retry-After", after);
    vec![
        spot("1 cut", whole().truncated_at(300), Kept(cut)),
        spot(
            "2 chunks without end",
            whole().chunked().truncated_at(300),
            Kept(cut),
        ),
        spot(
            "3 HTML",
            Reply::json("<html>captcha"),
            Kept("begins with `<html>"),
        ),
        spot(
            "4 -1003",
            Reply::json(r#"{"code":-1003,"msg":"x"}"#),
            Kept("too many requests"),
        ),
        spot(
            "5 code 0",
            Reply::json(r#"{"code":0,"msg":"restricted"}"#),
            Kept("status 451"),
        ),
        spot("5 451", Reply::status(451, "restricted"), Kept("status 451")),
        spot("6 nothing", Reply::json(""), Kept("not a JSON object")),
        spot("6 null", Reply::json("null"), Kept("not a JSON object")),
        spot("6 []", Reply::json("[]"), Kept("not a JSON object")),
        spot("6 {}", Reply::json("{}"), Kept("no `symbols`")),
        spot("7 empty", Reply::json(body(&[])), Kept("no trading spot symbol")),
        spot(
            "8 maintenance",
            each("status", &json!("BREAK")),
            Kept("10 symbols in all"),
        ),
        spot(
            "9 shrunk",
            Reply::json(body(&entries()[..4])),
            Kept("lost more symbols"),
        ),
        spot(
            "9 anchors",
            Reply::json(body(&entries()[1..])),
            Kept("BTCUSDT is missing"),
        ),
        spot(
            "10 twice",
            with(json!({"symbol": "HUSDT", "status": "BREAK", "baseAsset": "H", "quoteAsset": "USDT"})),
            Listed(9, "GUSDT"),
        ),
        spot(
            "11 member missing",
            with(json!({"symbol": "IUSDT", "status": "TRADING", "baseAsset": "I"})),
            Listed(10, "HUSDT"),
        ),
        spot(
            "11 member null",
            with(json!({"symbol": "IUSDT", "status": "TRADING", "baseAsset": "I", "quoteAsset": null})),
            Listed(10, "HUSDT"),
        ),
        spot(
            "12 types",
            with(json!({"symbol": 123_456, "status": 1, "baseAsset": [], "quoteAsset": {}})),
            Listed(10, "HUSDT"),
        ),
        spot(
            "12 filters",
            each("filters", &json!({"no": "list"})),
            Listed(10, "HUSDT"),
        ),
        spot("12 no list", Reply::json(r#"{"symbols":{}}"#), Kept(unreadable)),
        spot(
            "13 status",
            with(json!({"symbol": "IUSDT", "status": "CANCEL_ONLY", "baseAsset": "I", "quoteAsset": "USDT"})),
            Listed(10, "HUSDT"),
        ),
        futures(
            "13 contract",
            each("contractType", &json!("CURRENT_QUARTER DELIVERING")),
            Listed(10, "HUSDT"),
        ),
        spot("14 null", with(json!(null)), Listed(10, "HUSDT")),
        spot("14 number", with(json!(7)), Listed(10, "HUSDT")),
        spot("15 letters", with(entry("币安人生")), Listed(11, "币安人生USDT")),
        spot("16 bytes", Reply::json(invalid), Kept(unreadable)),
        spot(
            "17 mark",
            Reply::json(format!("\u{feff}{}\r\n ", body(&entries()))),
            Listed(10, "HUSDT"),
        ),
        spot(
            "17 more",
            Reply::json(format!("{} {{}}", body(&entries()))),
            Kept(unreadable),
        ),
        spot("19 gzip twice", whole().gzip().gzip(), Kept("")),
        spot(
            "19 br",
            whole().header("Content-Encoding", "br"),
            Kept("unrequested content encoding"),
        ),
        spot("20 gzip cut", whole().gzip().truncated_at(60), Kept(cut)),
        spot(
            "20 gzip in name",
            whole().header("Content-Encoding", "gzip"),
            Kept(cut),
        ),
        spot(
            "22 redirect",
            Reply::status(302, "").header("Location", "http://169.254.169.254/"),
            Kept("not followed"),
        ),
        spot("23 429", Reply::status(429, ""), Kept("status 429")),
        spot("23 418, three days", ban("259200"), Kept("a pause of 259200 s")),
        spot("23 418, 0", ban("0"), Kept("status 418")),
        spot("23 418, -5", ban("-5"), Kept("too many requests")),
        spot("23 418, abc", ban("abc"), Kept("too many requests")),
        spot(
            "23 418, for ever",
            ban("99999999999"),
            Kept("a pause of 262800 s"),
        ),
        spot(
            "23 418, a date",
            ban("Wed, 21 Oct 2026 07:28:00 GMT"),
            Kept("too many requests"),
        ),
        spot("24 depth", changed("[]", &"[".repeat(100_000)), Kept(unreadable)),
        spot(
            "24 depth, closed",
            changed("[]", &format!("{}{}", "[".repeat(9_000), "]".repeat(9_000))),
            Listed(10, "HUSDT"),
        ),
        spot(
            "24 digits",
            changed("[]", &"7".repeat(5_000_000)),
            Kept("too long"),
        ),
        spot("24 1e999", changed("[]", "1e999"), Listed(10, "HUSDT")),
        spot("24 NaN", changed("[]", "NaN"), Kept(unreadable)),
        spot(
            "24 a long text",
            changed("[]", &format!("\"{}\"", "x".repeat(30 << 20))),
            Kept("larger than"),
        ),
        spot(
            "24 twice in an object",
            changed(
                r#""baseAsset":"H""#,
                r#""symbol":"X","symbol":"LASTUSDT","baseAsset":"H""#,
            ),
            Listed(10, "LASTUSDT"),
        ),
        futures(
            "25 spot for futures",
            each("isSpotTradingAllowed", &json!(true)),
            Kept("list of spot symbols"),
        ),
        spot(
            "25 futures for spot",
            each("contractType", &json!("PERPETUAL")),
            Kept("list of futures"),
        ),
        futures("25 testnet", testnet(), Kept("list of the testnet")),
        futures("25 COIN-M", coin_m(), Kept("cannot be read")),
        spot(
            "25 old",
            changed(&(AT + 60_000).to_string(), &(AT - 3_600_000).to_string()),
            Kept("older than the current list"),
        ),
    ]
}

fn testnet() -> Reply {
    let mut entries = entries();
    for entry in &mut entries {
        entry["contractType"] = json!("PERPETUAL");
        entry["deliveryDate"] = json!(4_133_404_800_000_i64);
    }
    entries[3]["deliveryDate"] = json!(4_133_404_802_000_i64);
    let mut document = document(&entries);
    document["rateLimits"] =
        json!([{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}]);
    Reply::json(document.to_string())
}

/// COIN-M contracts have a `contractStatus` in place of the status.
fn coin_m() -> Reply {
    changed("\"status\"", "\"contractStatus\"")
}

#[tokio::test]
async fn twenty_five_bad_answers_leave_readers_a_good_list() {
    let world = World::new().await;
    for market in Market::ALL {
        let good = body(&entries()).replace(&(AT + 60_000).to_string(), &AT.to_string());
        world.exchange.always(path(market), Reply::json(good));
        let reads = readers(&world, &[]);
        read(&reads, market).await;
        reads.stop().await;
    }
    let mut tried = 0;
    for case in cases() {
        tried += 1;
        let (what, market) = (case.what, case.market);
        let before = world.lists(market).await;
        world.exchange.always(path(market), case.reply);
        forget(&world, market, &before.last_refresh).await;
        let reads = readers(&world, &[]);
        match case.outcome {
            Kept(reason) => {
                // The list from before is there at once, and stays.
                let reading = read(&reads, market).await;
                assert!(reading.stale, "{what}");
                let failing = eventually(what, PATIENCE, async || reads.status(market).failing).await;
                assert!(failing.0.contains(reason), "{what}: {}", failing.0);
                let reading = read(&reads, market).await;
                assert!(names(&reading).contains(&"HUSDT"), "{what}");
                let after = world.lists(market).await;
                assert_eq!(
                    (after.last_good, after.source),
                    (before.last_good, before.source),
                    "{what}"
                );
            }
            Listed(count, name) => {
                let reading = eventually(what, PATIENCE, async || {
                    let reading = read(&reads, market).await;
                    (!reading.stale).then_some(reading)
                })
                .await;
                assert_eq!(reading.list.count(), count, "{what}");
                assert!(names(&reading).contains(&name), "{what}");
                restore(&world, market, &before).await;
            }
        }
        reads.stop().await;
    }
    assert!(tried > 45);
    assert!(world.reads(Market::Spot).await.1 > 40);
}

/// Makes the list's lifetime end, and what is remembered of earlier trouble.
async fn forget(world: &World, market: Market, last_refresh: &Option<String>) {
    let keys = CacheKeys(market);
    let ban = format!("cache:symbols:{market}:ban:mainnet");
    let names = [keys.primary(), keys.failure(), keys.held_back(), ban];
    let deleted: Result<u64, _> = world.db().del(&names).await;
    deleted.expect("an answer");
    assert!(last_refresh.is_some());
}

/// Puts the list from before back.
async fn restore(world: &World, market: Market, before: &crate::world::Lists) {
    let keys = CacheKeys(market);
    let text = |text: &Option<String>| text.clone().expect("a text");
    world.set(&keys.last_good(), &text(&before.last_good)).await;
    world.set(&keys.last_refresh(), &text(&before.last_refresh)).await;
    world.set(&keys.source(), &text(&before.source)).await;
    let deleted: Result<u64, _> = world.db().del(keys.not_trading()).await;
    deleted.expect("an answer");
}

#[tokio::test]
async fn a_pause_is_kept_within_bounds_in_redis() {
    let world = World::new().await;
    let key = "cache:symbols:spot:ban:mainnet";
    for (after, seconds) in [
        (Some("30"), 30),
        (Some("0"), 1),
        (Some("-5"), 60),
        (None, 60),
        (Some("99999999999"), 262_800),
    ] {
        let reply = Reply::status(418, "");
        let reply = match after {
            Some(after) => reply.header("Retry-After", after),
            None => reply,
        };
        world.exchange.always(path(Market::Spot), reply);
        let reads = readers(&world, &[]);
        reads.read(Market::Spot).await.expect_err("no list");
        let left: i64 = world.db().pttl(key).await.expect("a time");
        let bound = i64::try_from(Duration::from_secs(seconds).as_millis()).expect("a number");
        assert!(left <= bound && (left > bound - 20_000), "{after:?}: {left}");
        reads.stop().await;
        let deleted: Result<u64, _> = world.db().del(&[key, &CacheKeys(Market::Spot).failure()]).await;
        deleted.expect("an answer");
    }
}
