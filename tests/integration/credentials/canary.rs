//! Puts a marked secret wherever there is one, and searches everything that is written for the marks.

use std::os::unix::process::ExitStatusExt;

use tradebot_test_support::{Process, Signal, bin, eventually};

use super::check::check;
use super::*;
use crate::world::PATIENCE;

/// Answers that repeat what they were sent, as a debugging proxy would.
fn echoes() -> Vec<(&'static str, Reply)> {
    let (key, secret) = (api_key("one"), secret_of("one"));
    let text = format!("you sent {key} {secret} signature=canary");
    vec![
        (
            "an error object",
            Reply::status(400, json!({"code": -1100, "msg": text}).to_string()),
        ),
        (
            "a refusal",
            Reply::status(401, json!({"code": -2015, "msg": text}).to_string()),
        ),
        ("a page", Reply::status(503, text.clone())),
        (
            "no JSON",
            Reply::status(418, text.clone()).header("Retry-After", "canary"),
        ),
        (
            "a redirect",
            Reply::status(302, text.clone())
                .header("Location", &format!("http://127.0.0.1:1/{key}?{secret}")),
        ),
        ("nothing that is HTTP", Reply::raw(format!("{text}\r\n\r\n"))),
        (
            "an account",
            Reply::json(json!({"accountType": text}).to_string()),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_told_at_any_level_whatever_the_exchange_answers() {
    let scene = Scene::one_user().await;
    know(&scene.mainnet, "one");
    let fernet_key = scene.filled.fernet_keys.clone();
    for ((what, reply), format) in echoes().into_iter().zip(["human", "json"].iter().cycle()) {
        let environment = scene
            .environment()
            .with("LOG_LEVEL", "trace")
            .with("LOG_FORMAT", format);
        scene.testnet.always("/api/v3/account", reply.clone());
        scene.mainnet.always("/api/v3/account", reply);
        let process = check(&environment, &["--email", "one"]).spawn();
        process.wait_exit(PATIENCE);
        let output = process.output();
        assert!(output.contains("decrypted"), "{what}: {output}");
        for mark in ["canary", "p%40ss", "p@ss", fernet_key.as_str(), "signature"] {
            assert!(!output.contains(mark), "{what}, {format}: `{mark}` in\n{output}");
        }
    }
}

/// A process that holds secrets leaves no core, where one that holds none does.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_core() {
    let scene = Scene::one_user().await;
    scene.testnet.always("/api/v3/account", Reply::json("").hang());
    let folder = tempfile::tempdir().expect("a folder");
    let with_cores = |script: &str| {
        Process::builder("sh")
            .args(["-c", &format!("ulimit -c unlimited && {script}")])
            .current_dir(folder.path())
    };
    let program = bin("tradebot-symbols");
    let script = format!("exec {} credentials check --email one", program.display());
    let process = with_cores(&script)
        .envs(&scene.environment().with("CREDENTIALS_TIMEOUT_SECONDS", "600").0)
        .spawn();
    eventually("the key to be sent", PATIENCE, async || {
        (!scene.testnet.keys_seen().is_empty()).then_some(())
    })
    .await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid())).expect("limits");
    let cores = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .expect("a limit");
    let words: Vec<_> = cores.split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{cores}");
    process.signal(Signal::SIGABRT);
    let status = process.wait_exit(PATIENCE);
    assert_eq!(status.signal(), Some(6));
    assert!(!status.core_dumped(), "{status}");
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
    // The machine would have written one.
    let control = with_cores("exec sleep 60").spawn();
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
