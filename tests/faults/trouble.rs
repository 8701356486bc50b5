//! A Redis that refuses commands: out of memory, loading, read-only and the like.

use std::time::Duration;

use futures_util::future;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, cmd};

use tradebot_base::error_chain;
use tradebot_test_support::eventually;

use crate::figures::{sized, stretched_ms};
use crate::ledger::{Ledger, now_ms};
use crate::scene::{SOON, Scene, Worker};

/// How the trouble is made and ended.
struct Trouble {
    name: &'static str,
    server: &'static [&'static str],
    begin: &'static [&'static str],
    /// What a client that writes is told meanwhile.
    shows: &'static str,
    end: &'static [&'static str],
}

const TROUBLES: [Trouble; 6] = [
    Trouble {
        name: "READONLY",
        server: &[],
        begin: &["REPLICAOF 127.0.0.1 1"],
        shows: "READONLY",
        end: &["REPLICAOF NO ONE"],
    },
    Trouble {
        name: "MISCONF",
        server: &[
            "--enable-protected-configs",
            "yes",
            "--stop-writes-on-bgsave-error",
            "yes",
        ],
        begin: &["CONFIG SET save 3600_1", "CONFIG SET dir /proc", "BGSAVE"],
        shows: "MISCONF",
        end: &[
            "CONFIG SET dir /tmp",
            "CONFIG SET save ",
            "CONFIG SET stop-writes-on-bgsave-error no",
        ],
    },
    Trouble {
        name: "OOM",
        server: &["--maxmemory-policy", "noeviction"],
        begin: &["CONFIG SET maxmemory 1"],
        shows: "OOM",
        end: &["CONFIG SET maxmemory 0"],
    },
    Trouble {
        name: "NOAUTH",
        server: &[],
        begin: &[
            "CONFIG SET requirepass secret",
            "CLIENT KILL TYPE normal SKIPME yes",
        ],
        shows: "NOAUTH",
        end: &["CONFIG SET requirepass "],
    },
    Trouble {
        name: "maxclients",
        server: &[],
        begin: &["CONFIG SET maxclients 1", "CLIENT KILL TYPE normal SKIPME yes"],
        // The refusal is not always read: the server resets the connection behind it.
        shows: "redis at",
        end: &["CONFIG SET maxclients 100"],
    },
    Trouble {
        name: "all clients killed",
        server: &[],
        begin: &["CLIENT KILL TYPE normal SKIPME yes"],
        shows: "",
        end: &["PING"],
    },
];

/// A command line: words are separated by blanks, a blank within a word is written `_`.
fn command(line: &str) -> Cmd {
    let mut words = line.split(' ');
    let mut command = cmd(words.next().unwrap_or_default());
    for word in words {
        command.arg(word.replace('_', " "));
    }
    command
}

async fn all(admin: &mut MultiplexedConnection, lines: &[&str]) {
    for line in lines {
        let done = command(line).query_async::<redis::Value>(admin).await;
        done.unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

/// Waits until a write over a new connection is refused in the expected words.
async fn shown(scene: &Scene, words: &str) {
    if words.is_empty() {
        return;
    }
    let what = format!("a refusal with `{words}`");
    eventually(&what, SOON, async || {
        let written = scene
            .observer()
            .command::<()>(cmd("SET").arg("probe").arg(1))
            .await;
        error_chain(&written.err()?).contains(words).then_some(())
    })
    .await;
}

/// The worker stays, says once what is wrong, and goes on by itself.
async fn weathered(trouble: &Trouble) {
    let scene = Scene::start_with(trouble.server);
    let mut ledger = Ledger::open(&scene, trouble.name);
    let mut admin = scene.admin().await;
    let worker = scene.worker("w", 2).ready().await;
    let running = [ledger.record(1_500).await, ledger.record(1_500).await];
    for _ in 0..20 {
        ledger.record(100).await;
    }
    for id in &running {
        ledger.started(id, 1).await;
    }

    all(&mut admin, trouble.begin).await;
    shown(&scene, trouble.shows).await;
    tokio::time::sleep(Duration::from_secs(sized(5, 30))).await;
    assert!(worker.process.is_running(), "{}", trouble.name);
    let ended = now_ms();
    all(&mut admin, trouble.end).await;

    ledger.record(0).await;
    let sums = ledger.close(trouble.name, Duration::from_secs(30)).await;
    let recovery = ledger
        .starts()
        .await
        .iter()
        .map(|start| start.at_ms)
        .find(|at| *at > ended);
    println!(
        "{}: first task {} ms after its end",
        trouble.name,
        recovery.map_or(0, |at| at - ended)
    );
    assert_eq!(sums.duplicated, 0, "{}", trouble.name);
    assert!(sums.parked.is_empty());
    complained_once(trouble.name, &worker, !trouble.shows.is_empty());
}

/// The consumer once, the heartbeat once, and each of the two running tasks once; more would be noise.
fn complained_once(name: &str, worker: &Worker, is_long: bool) {
    let mut complaints = 0;
    for (text, most) in [
        ("broker in trouble", 1),
        ("the heartbeat does not reach the broker", 1),
        ("cannot settle a message yet", 2),
        ("restored the messages of a worker that is gone", 0),
    ] {
        let count = worker.count(text);
        complaints += count;
        assert!(
            count <= most,
            "{name}: `{text}` {count} times\n{}",
            worker.process.output()
        );
    }
    assert!(complaints > 0 || !is_long, "{name}: not a word of it");
    assert!(worker.process.is_running(), "{name}");
}

/// A server with much data refuses everything for as long as it reads them at its start.
async fn loading() {
    // Every entry of the file costs the server a millisecond; in between it answers now and then.
    let slow = [
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--key-load-delay",
        "1000",
    ];
    let scene = Scene::start_with(&slow);
    let mut ledger = Ledger::open(&scene, "LOADING");
    let mut ballast = redis::pipe();
    for key in 0..5_000 {
        ballast.set(format!("ballast:{key}"), key).ignore();
    }
    let filled = ballast.exec_async(&mut scene.admin().await).await;
    filled.expect("a pipeline of SETs");
    let worker = scene.worker("w", 2).ready().await;
    for _ in 0..30 {
        ledger.record(100).await;
    }
    ledger.first_start_after(0).await;
    scene.broker.kill();
    let broker = std::sync::Arc::clone(&scene.broker);
    let restarting = tokio::task::spawn_blocking(move || broker.restart());
    shown(&scene, "LOADING").await;
    restarting.await.expect("the server starts again");
    let ended = now_ms();
    let recovery = ledger.first_start_after(ended).await;
    let sums = ledger.close("LOADING", Duration::from_secs(30)).await;
    println!("LOADING: first task {recovery} ms after its end");
    assert!(recovery <= stretched_ms(5_000), "{recovery} ms");
    assert_eq!(sums.duplicated, 0);
    complained_once("LOADING", &worker, true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_refuses_or_loads_is_waited_for() {
    future::join(future::join_all(TROUBLES.iter().map(weathered)), loading()).await;
}
