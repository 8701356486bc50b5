//! The doctor on real deployments, each broken in one way: it reports the code of that problem and no other, and
//! none on a healthy deployment.

mod adopt_files;
mod broken_parts;
mod broken_servers;
mod commands;
mod health_checks;

use std::collections::BTreeMap;

use redis::AsyncCommands;
use serde_json::Value;
use tradebot_base::market::Market;
use tradebot_symbols::internals::KINDS;
use tradebot_test_support::{Process, RedisServer, Reply, Signal, bin, eventually};

use crate::world::{PATIENCE, World, connected};

/// Shown by another test, because it needs a Python worker.
const ELSEWHERE: [&str; 2] = ["worker-discards-warmups", "warmups-by-python"];

#[test]
fn every_code_has_a_set_up_that_is_broken_like_that() {
    let tables = [
        include_str!("doctor/broken_parts.rs"),
        include_str!("doctor/broken_servers.rs"),
    ]
    .concat();
    for kind in KINDS.iter().filter(|kind| !ELSEWHERE.contains(&kind.code)) {
        assert!(
            tables.contains(&format!("\"{}\"", kind.code)),
            "no test shows {}",
            kind.code
        );
    }
}

/// Keys that production accepts.
const GOOD_KEYS: [(&str, &str); 2] = [
    ("SECRET_KEY", "0f8fad5bd9cb469fa16570867728950e7c6f4b1a"),
    ("FERNET_KEY", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="),
];

/// A deployment that works: a Redis that keeps its data, a worker, a beat, and an exchange.
struct Scene {
    world: World,
    worker: Process,
    beat: Option<Process>,
    environment: BTreeMap<String, String>,
}

/// A doctor's report.
struct Report {
    codes: Vec<String>,
    exit: Option<i32>,
    said: Value,
}

impl Scene {
    async fn healthy() -> Self {
        Self::with(&[]).await
    }

    async fn with(worker: &[&str]) -> Self {
        let world = World::on(RedisServer::start_with(&[
            "--appendonly",
            "yes",
            "--appendfsync",
            "no",
        ]))
        .await;
        for market in Market::ALL {
            world.exchange_lists(market);
            world.exchange.always(ping(market), Reply::json("{}"));
        }
        let mut environment: BTreeMap<String, String> = world
            .environment()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        for market in ["SPOT", "FUTURES"] {
            environment.insert(format!("{market}_SYMBOLS_CACHE_TTL_SECONDS"), "900".to_owned());
        }
        let worker = connected(
            Process::builder(bin("tradebot-symbols"))
                .args(["worker", "-n", "symbols@scene"])
                .args(worker)
                .envs(&environment),
        );
        let beat = Process::builder(bin("tradebot-beat")).envs(&environment).spawn();
        let scene = Self {
            world,
            worker,
            beat: Some(beat),
            environment,
        };
        scene.wait_for_lists().await;
        scene
    }

    /// Waits until the beat runs.
    async fn wait_for_heartbeat(&self) {
        eventually("a heartbeat", PATIENCE, async || {
            let beats: Vec<String> = self.ask(&["KEYS", "tradebot-symbols:beat:*"]).await;
            (!beats.is_empty()).then_some(())
        })
        .await;
    }

    async fn wait_for_lists(&self) {
        self.wait_for_heartbeat().await;
        eventually("both lists", PATIENCE, async || {
            let mut there = true;
            for market in Market::ALL {
                there &= self.world.lists(market).await.primary.is_some();
            }
            // The messages are acknowledged a moment later.
            (there && self.world.unacked().await.is_empty()).then_some(())
        })
        .await;
    }

    fn program(&self, arguments: &[&str], more: &[(&str, &str)]) -> Process {
        let mut environment = self.environment.clone();
        environment.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let process = Process::builder(bin("tradebot-symbols"))
            .args(arguments)
            .envs(environment)
            .spawn();
        process.wait_exit(PATIENCE);
        process
    }

    fn doctor(&self, more: &[(&str, &str)]) -> Report {
        Report::of(&self.program(&["doctor", "--json"], more))
    }

    /// Asserts that this code is named, and nothing else.
    fn assert_named(&self, code: &str, more: &[(&str, &str)]) {
        self.doctor(more).assert_named(code);
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command
            .query_async(&mut self.world.db())
            .await
            .unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Saves the values of these keys, to restore them later.
    async fn save(&self, keys: &[String]) -> Vec<(String, Option<Vec<u8>>, i64)> {
        let mut saved = Vec::new();
        for key in keys {
            let dump: Option<Vec<u8>> = redis::cmd("DUMP")
                .arg(key)
                .query_async(&mut self.world.db())
                .await
                .expect("DUMP");
            saved.push((key.clone(), dump, self.ask(&["PTTL", key]).await));
        }
        saved
    }

    async fn restore(&self, saved: &[(String, Option<Vec<u8>>, i64)]) {
        for (key, dump, ttl) in saved {
            let _: () = self.world.db().del(key).await.expect("DEL");
            let Some(dump) = dump else { continue };
            let restored: Result<(), _> = redis::cmd("RESTORE")
                .arg(key)
                .arg((*ttl).max(0))
                .arg(dump)
                .query_async(&mut self.world.db())
                .await;
            restored.expect("RESTORE");
        }
    }
}

impl Report {
    fn of(process: &Process) -> Self {
        let said: Value = serde_json::from_str(&process.stdout())
            .unwrap_or_else(|error| panic!("no JSON ({error}):\n{}", process.output()));
        let findings = said["findings"].as_array().expect("findings");
        for finding in findings {
            for member in ["severity", "subject", "what", "why", "do"] {
                assert!(
                    finding[member].as_str().is_some_and(|text| !text.is_empty()),
                    "{member}: {finding}"
                );
            }
        }
        Self {
            codes: findings
                .iter()
                .map(|found| found["code"].as_str().expect("a code").to_owned())
                .collect(),
            exit: process.wait_exit(PATIENCE).code(),
            said,
        }
    }

    fn assert_named(&self, code: &str) {
        assert_eq!(self.codes, [code], "{:#}", self.said);
        let exit = match self.said["findings"][0]["severity"].as_str() {
            Some("critical") => 3,
            Some("warning") => 2,
            _ => 0,
        };
        assert_eq!(self.exit, Some(exit), "{code}");
        assert_eq!(self.said["healthy"], exit == 0, "{code}");
    }

    fn assert_healthy(&self) {
        assert_eq!(self.codes, [""; 0], "{:#}", self.said);
        assert_eq!((self.exit, &self.said["healthy"]), (Some(0), &Value::Bool(true)));
    }
}

fn ping(market: Market) -> &'static str {
    match market {
        Market::Spot => "/api/v3/ping",
        Market::Futures => "/fapi/v1/ping",
    }
}

fn stop(process: &Process) {
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait_exit(PATIENCE).code(), Some(0));
}

/// A worker, a beat and the sandbox exchange, as `up --sandbox` runs them.
#[tokio::test]
async fn nothing_is_named_on_a_healthy_set_up() {
    let mut scene = Scene::healthy().await;
    let sandbox = Process::builder(bin("tradebot-symbols"))
        .args(["sandbox", "--listen", "127.0.0.1:0"])
        .spawn();
    let line = sandbox.wait_for_line("nothing it serves is real", PATIENCE);
    let url = line
        .split_once("url=\"")
        .expect("an address")
        .1
        .trim_end_matches('"')
        .to_owned();
    // Sandbox lists are never written over real ones.
    stop(&scene.worker);
    stop(&scene.beat.take().expect("a beat"));
    let _: () = scene.ask(&["FLUSHALL"]).await;
    for name in ["BINANCE_SPOT_BASE_URL", "BINANCE_FUTURES_BASE_URL"] {
        scene.environment.insert(name.to_owned(), url.clone());
    }
    scene.worker = connected(
        Process::builder(bin("tradebot-symbols"))
            .arg("worker")
            .envs(&scene.environment),
    );
    scene.beat = Some(
        Process::builder(bin("tradebot-beat"))
            .envs(&scene.environment)
            .spawn(),
    );
    scene.wait_for_lists().await;
    scene.doctor(&[]).assert_healthy();
    let text = scene.program(&["doctor"], &[]);
    assert_eq!(text.stdout(), "healthy: nothing is wrong\n");
    // The second examination compares with the first.
    scene.doctor(&[]).assert_healthy();
}

/// Only what a deployment cannot do without is set: the addresses.
#[tokio::test]
async fn on_the_defaults_there_are_notes_at_most() {
    let scene = Scene::healthy().await;
    let defaults = ["SPOT", "FUTURES"].map(|market| format!("{market}_SYMBOLS_CACHE_TTL_SECONDS"));
    let defaults: Vec<(&str, &str)> = defaults.iter().map(|name| (&**name, "")).collect();
    let report = scene.doctor(&defaults);
    assert_eq!(report.codes, ["ttl-equals-interval"; 2], "{:#}", report.said);
    assert_eq!(
        (report.exit, &report.said["healthy"]),
        (Some(0), &Value::Bool(true))
    );
    let text = scene.program(&["doctor"], &defaults).stdout();
    assert!(
        text.starts_with("NOTE ttl-equals-interval (SPOT_SYMBOLS_CACHE_TTL_SECONDS)\n"),
        "{text}"
    );
    assert!(text.ends_with("\nhealthy: nothing is wrong, 2 notes\n"), "{text}");
}
