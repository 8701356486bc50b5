//! `up`: worker, beat and their surroundings under one roof, which comes down as a whole.

use std::ops::Deref;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tradebot_base::market::Market;
use tradebot_test_support::{Process, ProcessBuilder, Signal, bin, eventually, free_port, stretched};

use crate::world::{PATIENCE, World};

/// Time for what takes seconds, such as making up two markets.
const LONG: Duration = Duration::from_secs(60);

/// `up` with a refresh of each list every second.
fn up(arguments: &[&str]) -> ProcessBuilder {
    Process::builder(bin("tradebot-symbols"))
        .arg("up")
        .args(arguments)
        .env("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS", "1")
        .env("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS", "1")
}

/// A running `up`. It is asked to end when a test ends early: its children have process groups of their own.
struct Roof(Process);

impl Deref for Roof {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.0
    }
}

impl Drop for Roof {
    fn drop(&mut self) {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + stretched(LONG);
        while self.is_running() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

/// The child processes of `up` by the beginnings of their names.
fn children(up: &Process) -> Vec<(i32, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", up.pid())).expect("a Linux machine");
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    let pids: Vec<i32> = lists
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    pids.into_iter()
        .filter_map(|pid| Some((pid, name(pid)?.trim().to_owned())))
        .collect()
}

async fn child(up: &Process, name: &str) -> i32 {
    eventually(&format!("the child {name}"), PATIENCE, async || {
        children(up)
            .into_iter()
            .find(|(_, known)| known == name)
            .map(|(pid, _)| pid)
    })
    .await
}

async fn assert_gone(children: &[(i32, String)]) {
    for (pid, name) in children {
        eventually(&format!("the end of {name}"), PATIENCE, async || {
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_demonstration_shows_lists_of_the_sandbox_and_ends_by_itself() {
    let up = Roof(up(&["--sandbox", "--private-redis", "--refreshes", "6"]).spawn());
    up.wait_for_line("SANDBOX DATA", LONG);
    let parts = children(&up);
    assert_eq!(parts.len(), 3, "worker, beat and Redis: {parts:?}");
    assert_eq!(up.wait_exit(LONG).code(), Some(0));
    let shown = up.stdout();
    for market in Market::ALL {
        let blocks = shown
            .lines()
            .filter(|line| line.starts_with(market.name()) && line.ends_with("SANDBOX DATA"));
        // Lists come every second. On a busy machine two may come between two looks.
        assert!(blocks.count() >= 5, "{market}: {shown}");
    }
    assert!(shown.contains("BTCUSDT ETHUSDT"), "{shown}");
    assert!(shown.ends_with("6 refreshes of both lists arrived.\n"), "{shown}");
    assert!(
        up.stderr().contains("using the SANDBOX exchange"),
        "{}",
        up.stderr()
    );
    assert_gone(&parts).await;
}

#[tokio::test]
async fn without_being_asked_for_the_sandbox_is_not_used_even_when_the_exchange_is_down() {
    let world = World::new().await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let environment = world.environment();
    let up = Roof(
        up(&[])
            .envs(environment)
            .env("BINANCE_SPOT_BASE_URL", &nowhere)
            .spawn(),
    );
    world.exchange_lists(Market::Futures);
    up.wait_for_line("futures 2 symbols", LONG);
    up.wait_for_line("cannot fetch the spot list", LONG);
    world.asked(Market::Futures, 2).await;
    let lists = world.lists(Market::Futures).await;
    assert!(
        lists
            .source
            .is_some_and(|source| source.contains(r#""network": "mainnet""#))
    );
    assert_eq!(world.lists(Market::Spot).await.primary, None);
    up.signal(Signal::SIGTERM);
    let parts = children(&up);
    assert_eq!(up.wait_exit(LONG).code(), Some(0));
    let output = up.output().to_lowercase();
    assert!(!output.contains("sandbox"), "{output}");
    assert_gone(&parts).await;
}

#[tokio::test]
async fn a_part_that_dies_brings_everything_down_and_is_named() {
    for (name, told) in [
        ("tradebot-beat", "the beat ended"),
        ("tradebot-symbol", "the worker ended"),
    ] {
        let world = World::new().await;
        for market in Market::ALL {
            world.exchange_lists(market);
        }
        let up = Roof(up(&[]).envs(world.environment()).spawn());
        up.wait_for_line("spot    2 symbols", LONG);
        let victim = child(&up, name).await;
        let parts = children(&up);
        assert_eq!(parts.len(), 2, "{parts:?}");
        let killed = Process::builder("kill").args(["-9", &victim.to_string()]).spawn();
        assert!(killed.wait_exit(PATIENCE).success());
        let status = up.wait_exit(LONG);
        assert_eq!(status.code(), Some(1), "{status}");
        let said = up.stderr();
        let verdict = said
            .lines()
            .find(|line| line.starts_with("tradebot-symbols: "))
            .unwrap_or_default();
        assert!(verdict.contains(told) && verdict.contains("SIGKILL"), "{said}");
        assert_gone(&parts).await;
    }
}

#[tokio::test]
async fn all_parts_end_when_up_is_killed() {
    let up = Roof(up(&["--sandbox", "--private-redis"]).spawn());
    up.wait_for_line("SANDBOX DATA", LONG);
    let parts = children(&up);
    assert_eq!(parts.len(), 3, "worker, beat and Redis: {parts:?}");
    up.signal(Signal::SIGKILL);
    up.wait_exit(PATIENCE);
    assert_gone(&parts).await;
}

#[tokio::test]
async fn a_redis_that_does_not_answer_is_replaced_by_a_private_one_that_ends_with_the_run() {
    let world = World::new().await;
    let mut environment = world.environment();
    let nowhere = format!("redis://127.0.0.1:{}/0", free_port());
    for (name, value) in &mut environment {
        if name.contains("REDIS") || name.contains("CELERY") {
            value.clone_from(&nowhere);
        }
    }
    for market in Market::ALL {
        world.exchange_lists(market);
    }
    let up = Roof(up(&["--refreshes", "1"]).envs(environment).spawn());
    let line = up.wait_for_line("starting a private one", LONG);
    assert!(line.contains(&nowhere), "{line}");
    up.wait_for_line("symbols", LONG);
    let redis = up.wait_for_line("private redis-server started", LONG);
    assert_eq!(up.wait_exit(LONG).code(), Some(0));
    let url = redis
        .split_once("url=\"")
        .expect("an address")
        .1
        .trim_end_matches('"');
    let gone = redis::Client::open(url).expect("a valid URL").get_connection();
    assert!(gone.is_err());
    assert_eq!(
        world.lists(Market::Spot).await,
        crate::world::Lists::NONE,
        "the other Redis is left alone"
    );
}

/// The answer to a GET, if there is one.
async fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

#[tokio::test]
async fn with_an_address_the_lists_are_served_as_well() {
    let address = format!("127.0.0.1:{}", free_port());
    let up = Roof(
        up(&["--sandbox", "--private-redis"])
            .env("HTTP_LISTEN", &address)
            .spawn(),
    );
    for market in Market::ALL {
        let path = format!("/api/v1/symbols/{market}");
        let answer = eventually("a list over HTTP", LONG, async || {
            get(&address, &path)
                .await
                .filter(|answer| answer.starts_with("HTTP/1.1 200 "))
        })
        .await;
        assert!(
            answer.contains("\r\n\r\n[{\"symbol\": \"BTCUSDT\""),
            "{answer:.400}"
        );
        assert!(answer.contains("x-symbols-network: sandbox"), "{answer:.400}");
    }
    up.signal(Signal::SIGTERM);
    assert_eq!(up.wait_exit(LONG).code(), Some(0));
    assert!(get(&address, "/livez").await.is_none(), "it is still served");
}
