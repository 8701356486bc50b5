//! Broken lists, queues, workers and beats.

use std::collections::BTreeSet;

use redis::AsyncCommands;
use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, Reply, Signal, bin, eventually};

use super::{Report, Scene, stop};
use crate::world::{GOOD_TEXT, PATIENCE, QUEUE, connected, now, path, task, warmup};

const SPOT: Market = Market::Spot;
const HIT: &str = "metrics:cache_hit:symbols_spot";
const MISS: &str = "metrics:cache_miss:symbols_spot";
/// An element of a list.
fn symbol(base: &str) -> String {
    format!(r#"{{"symbol": "{base}USDT", "baseAsset": "{base}", "quoteAsset": "USDT", "status": "TRADING"}}"#)
}

fn sha1_in(source: &str) -> Option<String> {
    let source: Value = serde_json::from_str(source).ok()?;
    source["sha1"].as_str().map(str::to_owned)
}

const COUNTERS: &str = "tradebot-symbols:doctor:counters";

#[tokio::test]
async fn broken_lists_are_named() {
    let scene = Scene::healthy().await;
    let keys = CacheKeys(SPOT);
    let (primary, last_good, time) = (&*keys.primary(), &*keys.last_good(), &*keys.last_refresh());
    let (success, error, source) = (&*keys.success_counter(), &*keys.error_counter(), &*keys.source());
    let fence = &*keys.fence();
    let names = [
        primary,
        last_good,
        time,
        source,
        success,
        error,
        fence,
        HIT,
        MISS,
        COUNTERS,
        &keys.refused(),
        &keys.accepted(),
        &keys.held_back(),
        &keys.refreshes(),
    ];
    let names = names.map(str::to_owned);
    let saved = scene.save(&names).await;
    let at = |seconds: i64| (now().timestamp() - seconds).to_string();
    let (old, ahead, refreshed) = (at(700), at(-3600), scene.world.get(time).await.expect("a time"));
    let without_btc = GOOD_TEXT.replace("BTC", "XYZ");
    let testnet = json!({"network": "testnet", "host": "https://elsewhere", "count": 2,
        "fetched_at": refreshed.parse::<i64>().expect("seconds"),
        "sha1": scene.world.get(source).await.and_then(|text| sha1_in(&text)).expect("a digest")})
    .to_string();
    let (refused, held_back, refreshes) = (&*keys.refused(), &*keys.held_back(), &*keys.refreshes());
    let longer = GOOD_TEXT.replacen('[', &format!("[{}, ", symbol("XYZ")), 1);
    let candidate = json!({"concerns": [{"kind": "shrunk"}], "count": 1, "server_time": 1,
        "first_seen_ms": now().timestamp_millis() - 3_000})
    .to_string();
    let counts = json!({"hits": 900, "misses": 100, "successes": 0, "errors": 0});
    let sample = json!({"at": now().timestamp() - 290, "counts": {"spot": counts}}).to_string();
    let accepted = &*keys.accepted();
    // Without an accepted list to compare with, the worker leaves them.
    let forget: &[&str] = &["DEL", accepted];
    let cases: &[(&str, &[&[&str]])] = &[
        ("list-missing", &[&["DEL", primary, last_good]]),
        ("list-expired", &[&["DEL", primary]]),
        (
            "list-wrong-type",
            &[&["DEL", primary], &["HSET", primary, "a", "b"]],
        ),
        (
            "list-unreadable",
            &[forget, &["SET", primary, &GOOD_TEXT[..60], "EX", "900"]],
        ),
        ("list-empty", &[forget, &["SET", primary, "[]", "EX", "900"]]),
        (
            "list-lacks-anchors",
            &[forget, &["SET", primary, &without_btc, "EX", "900"]],
        ),
        ("list-has-two-writers", &[&["DEL", source]]),
        ("list-wrong-network", &[&["SET", source, &testnet]]),
        (
            "lists-refused",
            &[&[
                "HSET",
                refused,
                "times",
                "3",
                "at",
                &refreshed,
                "why",
                "it has no symbols",
                "sha1",
                "x",
            ]],
        ),
        ("list-held-back", &[&["SET", held_back, &candidate, "EX", "900"]]),
        ("warmups-failing", &[&["HSET", refreshes, "warmed_at", &at(931)]]),
        (
            "list-of-the-sandbox",
            &[&["SET", source, &testnet.replace("testnet", "sandbox")]],
        ),
        ("list-stale", &[&["SET", time, &old]]),
        ("list-age-unknown", &[&["DEL", time]]),
        ("list-age-unknown", &[&["DEL", time], &["LPUSH", time, "1"]]),
        ("list-age-unknown", &[&["SET", time, "-5"]]),
        ("list-never-expires", &[&["PERSIST", primary]]),
        ("refresh-in-the-future", &[&["SET", time, &ahead]]),
        ("last-good-missing", &[&["DEL", last_good]]),
        ("last-good-unreadable", &[forget, &["SET", last_good, "null"]]),
        ("last-good-empty", &[forget, &["SET", last_good, "[]"]]),
        ("counter-unusable", &[&["SET", error, "many"]]),
        ("counter-unusable", &[&["DEL", HIT], &["LPUSH", HIT, "1"]]),
        ("key-unusable", &[&["DEL", fence], &["LPUSH", fence, "1"]]),
        ("key-unusable", &[&["HSET", fence, "written", "many"]]),
        (
            "cache-misses-high",
            &[&["DEL", COUNTERS], &["MSET", HIT, "70", MISS, "30"]],
        ),
        // Good in total, bad since the last examination.
        (
            "cache-misses-high",
            &[&["SET", COUNTERS, &sample], &["MSET", HIT, "920", MISS, "140"]],
        ),
        (
            "refreshes-failing",
            &[&["DEL", COUNTERS, success], &["SET", error, "3"]],
        ),
    ];
    for (code, commands) in cases {
        for command in *commands {
            let _: redis::Value = scene.ask(command).await;
        }
        scene.assert_named(code, &[]);
        scene.restore(&saved).await;
    }
    scene.doctor(&[]).assert_healthy();

    // While no process of ours runs, the list of another program stays.
    stop(&scene.worker);
    for key in [primary, last_good] {
        let _: () = scene.ask(&["SET", key, &longer, "EX", "900"]).await;
        let codes: BTreeSet<String> = scene.doctor(&[]).codes.into_iter().collect();
        let expected = ["list-of-another-program", "no-worker"].map(str::to_owned);
        assert_eq!(codes, expected.into(), "{key}");
        scene.restore(&saved).await;
    }
}

#[tokio::test]
async fn broken_queues_are_named() {
    let scene = Scene::healthy().await;
    let binding = "_kombu.binding.celery";
    let (index, unacked) = ("unacked_index", "unacked");
    let step_1 = "celery\u{6}\u{16}1";
    let keys = [binding, index, unacked, "celery:1", step_1];
    let saved = scene.save(&keys.map(str::to_owned)).await;
    let old = (now().timestamp() - 1000).to_string();
    let record = json!([{"headers": {"task": "t", "id": "i"}, "properties": {}, "body": ""}, QUEUE, QUEUE])
        .to_string();
    let cases: &[(&str, &[&[&str]])] = &[
        ("binding-missing", &[&["DEL", binding]]),
        (
            "unacked-old",
            &[&["HSET", unacked, "tag", &record], &["ZADD", index, &old, "tag"]],
        ),
        // Written by clients with `sep=":"`, and by those with more priority steps.
        ("bindings-unreadable", &[&["SADD", binding, "celery::celery"]]),
        ("lists-unread", &[&["LPUSH", "celery:1", "message"]]),
        (
            "lists-unread",
            &[&["DEL", "celery:1"], &["LPUSH", step_1, "message"]],
        ),
        ("unacked-unindexed", &[&["HSET", unacked, "tag", &record]]),
    ];
    for (code, commands) in cases {
        for command in *commands {
            let _: redis::Value = scene.ask(command).await;
        }
        scene.assert_named(code, &[]);
        scene.restore(&saved).await;
    }

    // A message of ours without an id.
    let message = json!({"headers": {"task": Market::Spot.warmup_task()}});
    scene.world.push(QUEUE, message.to_string()).await;
    eventually("a parked message", PATIENCE, async || {
        let parked: u64 = scene.ask(&["LLEN", "tradebot-symbols:parked"]).await;
        (parked == 1).then_some(())
    })
    .await;
    scene.assert_named("messages-parked", &[]);
    let _: u64 = scene.ask(&["DEL", "tradebot-symbols:parked"]).await;

    // A list of a lower priority, which leaves the others to the worker.
    let list = "celery\u{6}\u{16}9";
    let _: () = scene.ask(&["SET", list, "text"]).await;
    scene.assert_named("queue-wrong-type", &[]);
    let _: u64 = scene.ask(&["DEL", list]).await;

    let message = scene.world.enqueue(task("app.core.bot_tasks.run_bot_task")).await;
    eventually("a count of what waits", PATIENCE, async || {
        let waiting: u64 = scene.ask(&["HLEN", "tradebot-symbols:waiting"]).await;
        (waiting == 1).then_some(())
    })
    .await;
    let report = scene.doctor(&[]);
    report.assert_named("messages-unserved");
    assert_eq!(
        report.said["picture"]["broker"]["queues"][0]["oldest"]["id"],
        message.id()
    );
}

#[tokio::test]
async fn queues_that_are_not_worked_off_are_named() {
    let scene = Scene::with(&["-c", "1"]).await;
    scene.world.exchange.always(path(SPOT), Reply::json("").hang());
    let asked = scene.world.exchange.count(path(SPOT));
    scene.world.enqueue(warmup(SPOT)).await;
    scene.world.asked(SPOT, asked + 1).await;
    // The worker waits for ten seconds now. The message behind expired long ago.
    let mut expired = warmup(SPOT);
    expired.expires = Some(now() - chrono::TimeDelta::hours(1));
    scene.world.enqueue(expired).await;
    scene.assert_named("queue-stuck", &[]);

    let _: u64 = scene.world.db().del(QUEUE).await.expect("DEL");
    for _ in 0..1_020 {
        scene.world.enqueue(warmup(SPOT)).await;
    }
    scene.assert_named("queue-long", &[]);

    // Valid, and next for ten minutes.
    let mut last = Report {
        codes: Vec::new(),
        exit: None,
        said: Value::Null,
    };
    for _ in 0..5 {
        let _: u64 = scene.world.db().del(QUEUE).await.expect("DEL");
        let next = scene.world.enqueue(warmup(SPOT)).await;
        let seen = json!({QUEUE: [next.publisher_tag(), now().timestamp() - 600]}).to_string();
        let _: () = scene.ask(&["SET", "tradebot-symbols:doctor:oldest", &seen]).await;
        last = scene.doctor(&[]);
        // The worker may have reached its next attempt meanwhile, and taken it.
        if !last.codes.is_empty() {
            break;
        }
    }
    last.assert_named("queue-stuck");
}

#[tokio::test]
async fn workers_and_beats_that_are_missing_or_silent_are_named() {
    let mut scene = Scene::healthy().await;
    let twin = connected(
        Process::builder(bin("tradebot-symbols"))
            .args(["worker", "-n", "symbols@scene"])
            .envs(&scene.environment),
    );
    scene.assert_named("duplicate-node-name", &[]);
    let status = scene.program(&["status"], &[]).stdout();
    assert_eq!(status.matches("symbols@scene").count(), 2, "{status}");
    for worker in [&twin, &scene.worker] {
        worker.wait_for_line("another worker has the same node name", PATIENCE);
    }
    stop(&twin);
    scene.doctor(&[]).assert_healthy();

    let silent = eventually("a look while the lease holds", PATIENCE, async || {
        scene.worker.signal(Signal::SIGSTOP);
        let report = scene.doctor(&[]);
        scene.worker.signal(Signal::SIGCONT);
        eventually("a lease", PATIENCE, async || {
            let workers: Vec<String> = scene.ask(&["KEYS", "tradebot-symbols:lease:*"]).await;
            (workers.len() == 1).then_some(())
        })
        .await;
        // On a busy machine the lease may run out before the doctor reads it.
        (report.codes == ["worker-silent"]).then_some(report)
    })
    .await;
    silent.assert_named("worker-silent");

    let heartbeat = json!({"host": "h", "pid": 1, "next_due": now().timestamp() - 90}).to_string();
    let _: () = scene
        .ask(&["SET", "tradebot-symbols:beat:stalled", &heartbeat])
        .await;
    scene.assert_named("beat-stalled", &[]);
    let _: u64 = scene.ask(&["DEL", "tradebot-symbols:beat:stalled"]).await;

    stop(&scene.beat.take().expect("a beat"));
    scene.assert_named("no-beat", &[]);
    // Unless the command line says that another one sends.
    let accepted = scene.program(&["doctor", "--json", "--foreign-beat"], &[]);
    Report::of(&accepted).assert_healthy();
    scene.beat = Some(
        Process::builder(bin("tradebot-beat"))
            .envs(&scene.environment)
            .spawn(),
    );
    scene.wait_for_heartbeat().await;

    stop(&scene.worker);
    scene.assert_named("no-worker", &[]);
}

/// A host that only a proxy knows, which is the exchange itself: it is neither local nor unreachable.
#[tokio::test]
async fn an_exchange_that_is_asked_without_encryption_is_named() {
    let scene = Scene::healthy().await;
    let proxy = scene.world.exchange.base_url();
    let hosts = "http://exchange.example";
    for (url, named) in [("BINANCE_SPOT_BASE_URL", true), ("NOTHING", false)] {
        let report = scene.doctor(&[("HTTP_PROXY", &proxy), (url, hosts)]);
        if named {
            report.assert_named("upstream-unencrypted");
            assert_eq!(report.said["findings"][0]["subject"], hosts, "{:#}", report.said);
        } else {
            report.assert_healthy();
        }
    }
}
