//! A Python worker with the original rule writes empty, halved, foreign and good lists among ours: an hour of refreshes, one
//! after the other.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::cmd;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tradebot_base::config::Vars;
use tradebot_base::market::Market;
use tradebot_symbols::symbols::{ReadsSettings, SymbolReads};
use tradebot_test_support::{Python, Reply, eventually};

use crate::fleet::{Fleet, OURS, PATIENCE, SPOT_PATH, WARMUP_SPOT, WITH_WARMUPS, listing};

/// Where Python gets its list: another answer of the exchange than ours.
const PYTHONS_PATH: &str = "/python/exchangeInfo";
const PRIMARY: &str = "cache:symbols:spot:v1";
const LAST_GOOD: &str = "cache:symbols:spot:last_good";
/// Refreshes of each writer in an hour.
const ROUNDS: usize = 12;

/// So many symbols, of which one per edition is new.
fn bases(count: usize, edition: usize) -> Vec<String> {
    let others = (edition..).map(|number| format!("C{number:03}"));
    let anchors = ["BTC", "ETH"].map(str::to_owned);
    anchors.into_iter().chain(others.take(count - 2)).collect()
}

fn answer(bases: &[String]) -> Reply {
    listing(&bases.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What both programs write for these symbols.
fn written(bases: &[String]) -> String {
    let symbol = |base: &String| {
        format!(
            r#"{{"symbol": "{base}USDT", "baseAsset": "{base}", "quoteAsset": "USDT", "status": "TRADING"}}"#
        )
    };
    // Popular bases come first, and these are two of them; the others are sorted by name.
    format!("[{}]", bases.iter().map(symbol).collect::<Vec<_>>().join(", "))
}

fn readers(fleet: &Fleet) -> SymbolReads {
    let (redis, exchange) = (fleet.redis.url(), fleet.exchange.base_url());
    let vars = std::collections::BTreeMap::from([
        ("REDIS_URL", &*redis),
        ("BINANCE_SPOT_BASE_URL", &*exchange),
        ("BINANCE_FUTURES_BASE_URL", &*exchange),
        ("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "900"),
        ("ENABLE_SPOT_WARMUP_ON_STARTUP", "0"),
        ("ENABLE_FUTURES_WARMUP_ON_STARTUP", "0"),
        ("SYMBOLS_REFRESH_AHEAD_PERCENT", "0"),
    ]);
    let settings = ReadsSettings::read(&vars as &dyn Vars).expect("an environment");
    SymbolReads::start(settings, "tests").expect("readers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_lists_of_a_python_worker_reach_no_reader_and_good_ones_do() {
    let fleet = Fleet::start(Python::CELERY_NEWEST).await;
    let source = format!("{}{PYTHONS_PATH}", fleet.exchange.base_url());
    let _python = fleet.python_worker(&[WITH_WARMUPS, ("WARMUPS_FETCH_SPOT", &source)]);
    let ours = fleet.worker_on(OURS);
    let warm_up = |queue: &str| {
        let options = json!({"queue": queue});
        let answers = fleet.send(&[json!({"name": WARMUP_SPOT, "options": options, "wait": 60})]);
        assert_eq!(answers[0]["state"], "SUCCESS", "{answers:?}");
    };
    let foreign: Vec<String> = bases(60, 500);
    let kinds: [(&str, Vec<String>); 3] = [
        ("empty", Vec::new()),
        ("half", bases(30, 0)),
        ("of another network", foreign),
    ];
    fleet.exchange.always(SPOT_PATH, answer(&bases(60, 0)));
    warm_up(OURS);
    let reads = readers(&fleet);
    eventually("our list", PATIENCE, async || reads.peek(Market::Spot)).await;

    let good: Arc<Mutex<HashSet<String>>> = Arc::default();
    let allow = |list: &[String]| good.lock().expect("the good lists").insert(written(list));
    allow(&bases(60, 0));
    let reader: JoinHandle<()> = tokio::spawn({
        let (reads, good) = (reads.clone(), Arc::clone(&good));
        async move {
            loop {
                let list = reads.read(Market::Spot).await.expect("a list").list;
                let text = String::from_utf8(list.json().to_vec()).expect("text");
                assert!(
                    good.lock().expect("the good lists").contains(&text),
                    "a reader got {} symbols: {text:.200}",
                    list.count()
                );
                sleep(Duration::from_millis(1)).await;
            }
        }
    });

    let mut delays = Vec::new();
    for round in 0..ROUNDS {
        let current = bases(60, round);
        // What is new at the exchange, our worker writes in one half of the rounds, and Python in the other.
        fleet.exchange.always(SPOT_PATH, answer(&current));
        allow(&current);
        let wanted = written(&current);
        if round % 2 == 0 {
            warm_up(OURS);
        } else {
            fleet.exchange.always(PYTHONS_PATH, answer(&current));
            warm_up("celery");
        }
        let began = Instant::now();
        eventually("the new list", PATIENCE, async || {
            let reading = reads.peek(Market::Spot)?;
            (reading.list.json() == wanted.as_bytes()).then_some(())
        })
        .await;
        delays.push(began.elapsed());

        let (kind, bad) = &kinds[round % kinds.len()];
        fleet.exchange.always(PYTHONS_PATH, answer(bad));
        warm_up("celery");
        for key in [PRIMARY, LAST_GOOD] {
            eventually(
                &format!("the good list in {key} again, {kind}"),
                PATIENCE,
                async || {
                    let stored: Option<String> = fleet.ask(cmd("GET").arg(key)).await;
                    (stored.as_ref() == Some(&wanted)).then_some(())
                },
            )
            .await;
        }
    }
    reader.abort();
    let end = reader.await.expect_err("an endless reader");
    assert!(end.is_cancelled(), "{end}");
    let refused: u64 = fleet
        .ask(cmd("HGET").arg("cache:symbols:spot:refused").arg("times"))
        .await;
    assert_eq!(refused, ROUNDS as u64, "each bad list once");
    assert!(!ours.output().contains(" ERROR "), "{}", ours.output());
    delays.sort();
    println!(
        "after the result, readers had the list within {:?}",
        delays.last()
    );
}
