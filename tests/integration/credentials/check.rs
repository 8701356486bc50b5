use super::*;

use tradebot_test_support::{Process, ProcessBuilder, bin};

use crate::world::PATIENCE;

/// A line's name, and how the rest of it begins.
type Line<'a> = (&'a str, &'a str);

pub(super) fn check(environment: &Environment, arguments: &[&str]) -> ProcessBuilder {
    Process::builder(bin("tradebot-symbols"))
        .args(["credentials", "check"])
        .args(arguments)
        .envs(&environment.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_is_told() {
    let scene = Scene::new(json!({"users": [
        {"email": "user@example.com", "keys": [
            key_with("lost", json!({"fernet_key": -1})),
            key_with("one", json!({"age": 5, "is_valid": false})),
        ]},
        {"email": "mainnet@example.com", "keys": [key("two")]},
        {"email": "bad@example.com", "keys": [key("bad")]},
    ]}))
    .await;
    know(&scene.testnet, "one");
    know(&scene.mainnet, "two");
    let environment = scene.environment();
    let place = format!(
        "127.0.0.1:{}/{}",
        scene.filled.database.port(),
        scene.filled.database.name()
    );
    let refused =
        "the API key is unknown on this network, or not allowed from this address or for this call (-2015)";
    let private = format!(
        "the user's own: 3 symbols of testnet from {}",
        scene.testnet.base_url()
    );
    let cases: [(&str, i32, &[Line]); 4] = [
        (
            "user@example.com",
            0,
            &[
                ("database", &place),
                ("user", "1, active, 2 stored keys"),
                ("key 1", "skipped: no Fernet key fits the stored value"),
                ("key 2", "decrypted; the deployment has not found it valid"),
                ("testnet", "accepts the key; its clock is "),
                ("list", &private),
            ],
        ),
        (
            "mainnet@example.com",
            0,
            &[
                ("database", &place),
                ("user", "2, active, 1 stored keys"),
                ("key 3", "decrypted"),
                ("testnet", refused),
                ("mainnet", "accepts the key; its clock is "),
                (
                    "list",
                    "the public one: mainnet is the network of this deployment",
                ),
            ],
        ),
        (
            "bad@example.com",
            1,
            &[
                ("database", &place),
                ("user", "3, active, 1 stored keys"),
                ("key 4", "decrypted"),
                ("testnet", refused),
                ("mainnet", refused),
                ("list", "the public one: no network returned one for the key"),
            ],
        ),
        (
            "unknown@example.com",
            1,
            &[
                ("database", &place),
                ("list", "the public one: there is no such user"),
            ],
        ),
    ];
    for (email, code, steps) in cases {
        let process = check(&environment, &["--email", email, "--market", "futures"]).spawn();
        let status = process.wait_exit(PATIENCE);
        let output = process.stdout();
        assert_eq!(status.code(), Some(code), "{email}: {}", process.output());
        let lines: Vec<_> = output.lines().map(|line| line.split_at(15)).collect();
        assert_eq!(lines.len(), steps.len(), "{email}: {output}");
        for ((name, told), (expected_name, expected)) in lines.iter().zip(steps) {
            assert_eq!(name.trim_end(), *expected_name, "{email}: {output}");
            assert!(told.starts_with(expected), "{email}: {output}");
        }
        assert!(!process.output().contains("canary"), "{}", process.output());
    }
    assert_eq!(scene.testnet.count(path(Market::Futures)), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_what_it_needs_it_says_which() {
    let database = Environment::default().with("DATABASE_URL", "postgresql+asyncpg://u:canary@127.0.0.1:1/t");
    let production = database.clone().with("ENVIRONMENT", "production");
    let cases = [
        (Environment::default(), 1, "DATABASE_URL is not set"),
        (
            database.clone(),
            1,
            "DATABASE_URL is set, but not SECRET_KEY and not FERNET_KEY",
        ),
        (production.clone(), 64, "SECRET_KEY cannot be used: it is missing"),
        (production.clone(), 64, "FERNET_KEY cannot be used: it is missing"),
        (
            production.with("SECRET_KEY", "canary-your-secret-key"),
            64,
            "SECRET_KEY cannot be used: it is a well-known value, which ENVIRONMENT=production does not allow",
        ),
        (
            database
                .with("SECRET_KEY", SECRET_KEY)
                .with("FERNET_KEY", "canary"),
            64,
            "FERNET_KEY cannot be used: a Fernet key is the URL-safe base64 of 32 bytes",
        ),
    ];
    for (environment, code, told) in cases {
        let process = check(&environment, &["--email", "a@example.com"]).spawn();
        assert_eq!(process.wait_exit(PATIENCE).code(), Some(code), "{told}");
        assert!(process.stderr().contains(told), "{told}: {}", process.stderr());
        assert!(!process.output().contains("canary"), "{}", process.output());
    }
}

/// As in every container on a machine whose Docker client has a proxy.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_for_this_machine_goes_through_no_proxy() {
    let scene = Scene::new(json!({"users": [{"email": "user@example.com", "keys": [key("one")]}]})).await;
    know(&scene.testnet, "one");
    let proxy = ScriptedExchange::start().await;
    let variables =
        ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"].map(|name| (name, proxy.base_url()));
    let program = check(&scene.environment(), &["--email", "user@example.com"])
        .envs(variables)
        .spawn();
    assert_eq!(
        program.wait_exit(PATIENCE).code(),
        Some(0),
        "{}",
        program.output()
    );
    assert_eq!(scene.testnet.keys_seen(), [api_key("one")]);
    assert_eq!(proxy.requests(), []);
}
