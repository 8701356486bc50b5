//! Puts a marked secret wherever there is one, and searches everything that is written for the marks.

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
