//! Secrets stay out of core dumps and of errors, in every verb.

use std::os::unix::process::ExitStatusExt;

use tradebot_test_support::{Process, ProcessBuilder, Signal, bin, eventually};

use crate::world::{PATIENCE, World};

/// The size of core files that a process may write, soft and hard.
fn core_limits(process: &Process) -> Option<Vec<String>> {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid())).ok()?;
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))?;
    Some(
        cores
            .split_whitespace()
            .skip(4)
            .take(2)
            .map(str::to_owned)
            .collect(),
    )
}

#[tokio::test]
async fn a_crash_leaves_no_core_in_any_verb() {
    let world = World::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let with_cores = |script: &str| {
        Process::builder("sh")
            .args(["-c", &format!("ulimit -c unlimited && exec {script}")])
            .current_dir(folder.path())
            .envs(world.environment())
    };
    for (program, verb) in [
        ("tradebot-symbols", "worker"),
        ("tradebot-symbols", "serve --listen 127.0.0.1:0"),
        ("tradebot-symbols", "sandbox --listen 127.0.0.1:0"),
        ("tradebot-symbols", "doctor --watch"),
        ("tradebot-symbols", "status --watch"),
        ("tradebot-beat", "run"),
    ] {
        let process = with_cores(&format!("{} {verb}", bin(program).display())).spawn();
        eventually("no core to be allowed", PATIENCE, async || {
            (core_limits(&process)? == ["0", "0"]).then_some(())
        })
        .await;
        process.signal(Signal::SIGABRT);
        let status = process.wait_exit(PATIENCE);
        assert_eq!(status.signal(), Some(6), "{program} {verb}");
        assert!(!status.core_dumped(), "{program} {verb}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
    // The machine would have written one.
    let control = with_cores("sleep 60").spawn();
    eventually("the control to run", PATIENCE, async || {
        let name = std::fs::read_to_string(format!("/proc/{}/comm", control.pid())).ok()?;
        (name.trim() == "sleep").then_some(())
    })
    .await;
    control.signal(Signal::SIGABRT);
    assert!(
        control.wait_exit(PATIENCE).core_dumped(),
        "this machine writes no cores at all"
    );
}

/// All variables that may hold a secret, each with the same bad value.
fn bad(program: &str, verb: &str, value: &str) -> ProcessBuilder {
    let names = [
        "CELERY_BROKER_URL",
        "CELERY_RESULT_BACKEND",
        "REDIS_URL",
        "CELERY_SENTINEL_PASSWORD",
        "DATABASE_URL",
        "SECRET_KEY",
        "FERNET_KEY",
        "BINANCE_SPOT_BASE_URL",
        "BINANCE_FUTURES_BASE_URL",
        "BINANCE_SPOT_TESTNET_BASE_URL",
        "BINANCE_FUTURES_TESTNET_BASE_URL",
    ];
    Process::builder(bin(program))
        .args(verb.split(' '))
        .envs(names.map(|name| (name, value)))
        .envs([("ENVIRONMENT", "production"), ("LOG_LEVEL", "trace")])
}

#[test]
fn an_error_about_a_variable_does_not_show_its_secret_in_any_verb() {
    for value in [
        "ftp://user:canary@host/0",
        "redis://user:canary@host:x/0",
        "redis://:a?canary@host/0?what=else",
        "postgresql://u:a@b?canary@host/d",
        "postgresql://u:a@b/canary@host:0/d",
        "https://user:a,canary@host",
        "https://host/?key=canary",
    ] {
        for (program, verb) in [
            ("tradebot-symbols", "worker"),
            ("tradebot-symbols", "worker --http 127.0.0.1:0"),
            ("tradebot-symbols", "serve --listen 127.0.0.1:0"),
            ("tradebot-symbols", "up"),
            ("tradebot-symbols", "parked list"),
            ("tradebot-symbols", "credentials check --email one"),
            ("tradebot-symbols", "doctor"),
            ("tradebot-symbols", "status"),
            ("tradebot-symbols", "healthcheck worker"),
            ("tradebot-beat", "run"),
            ("tradebot-beat", "list"),
        ] {
            let process = bad(program, verb, value).spawn();
            let status = process.wait_exit(PATIENCE);
            let output = process.output();
            assert!(!status.success(), "{program} {verb}: {output}");
            assert!(
                !output.contains("canary"),
                "{program} {verb} with {value}:\n{output}"
            );
        }
    }
}
