use super::*;

/// One user, and what becomes of the keys.
struct Row {
    email: &'static str,
    keys: Value,
    /// Names of the keys that each network knows.
    testnet: &'static [&'static str],
    mainnet: &'static [&'static str],
    outcome: &'static str,
    /// Names of the keys that must reach each network, in order.
    sent_to_testnet: &'static [&'static str],
    sent_to_mainnet: &'static [&'static str],
}

const TEST_LIST: &str = "testnet: BTCUSDT ETHUSDT TESTUSDT";
const REFUSED: &str =
    "the API key is unknown on this network, or not allowed from this address or for this call (-2015)";

fn rows() -> Vec<Row> {
    let both_refuse: &str = Box::leak(format!("testnet: {REFUSED}; mainnet: {REFUSED}").into_boxed_str());
    let row = |email, keys, outcome| Row {
        email,
        keys,
        testnet: &[],
        mainnet: &[],
        outcome,
        sent_to_testnet: &[],
        sent_to_mainnet: &[],
    };
    vec![
        row("none", json!([]), "has no stored key"),
        row(
            "undecryptable",
            json!([key_with("undecryptable", json!({"fernet_key": -1}))]),
            "no Fernet key fits the stored value",
        ),
        row(
            "plain",
            json!([key_with("plain", json!({"raw": true}))]),
            "the stored value is not a Fernet token",
        ),
        Row {
            testnet: &["testnet"],
            sent_to_testnet: &["testnet"],
            ..row("testnet", json!([key("testnet")]), TEST_LIST)
        },
        Row {
            mainnet: &["mainnet"],
            sent_to_testnet: &["mainnet"],
            sent_to_mainnet: &["mainnet"],
            ..row("mainnet", json!([key("mainnet")]), "public: mainnet")
        },
        Row {
            sent_to_testnet: &["neither"],
            sent_to_mainnet: &["neither"],
            ..row("neither", json!([key("neither")]), both_refuse)
        },
        Row {
            testnet: &["both"],
            mainnet: &["both"],
            sent_to_testnet: &["both"],
            ..row("both", json!([key("both")]), TEST_LIST)
        },
        Row {
            testnet: &["rotated"],
            sent_to_testnet: &["rotated"],
            ..row(
                "rotated",
                json!([key_with("rotated", json!({"fernet_key": 1}))]),
                TEST_LIST,
            )
        },
        // The newest of the valid ones.
        Row {
            testnet: &["newest", "older", "oldest"],
            sent_to_testnet: &["newest"],
            ..row(
                "newest",
                json!([
                    key_with("older", json!({"age": 100})),
                    key_with("newest", json!({"age": 1})),
                    key_with("oldest", json!({"age": 200})),
                ]),
                TEST_LIST,
            )
        },
        // A valid one goes before a newer one that is not.
        Row {
            testnet: &["valid", "invalid"],
            sent_to_testnet: &["valid"],
            ..row(
                "valid",
                json!([
                    key_with("valid", json!({"age": 100})),
                    key_with("invalid", json!({"is_valid": false})),
                ]),
                TEST_LIST,
            )
        },
        // Without a valid one, the newest of the others.
        Row {
            testnet: &["lonely", "lonelier"],
            sent_to_testnet: &["lonely"],
            ..row(
                "lonely",
                json!([
                    key_with("lonelier", json!({"is_valid": false, "age": 9})),
                    key_with("lonely", json!({"is_valid": false})),
                ]),
                TEST_LIST,
            )
        },
        // Only the four that come first are read.
        row(
            "many",
            json!([
                key_with("lost1", json!({"fernet_key": -1, "age": 1})),
                key_with("lost2", json!({"fernet_key": -1, "age": 2})),
                key_with("lost3", json!({"fernet_key": -1, "age": 3})),
                key_with("lost4", json!({"fernet_key": -1, "age": 4})),
                key_with("many", json!({"age": 5})),
            ]),
            "no Fernet key fits the stored value",
        ),
        // One that cannot be decrypted is not usable.
        Row {
            testnet: &["usable"],
            sent_to_testnet: &["usable"],
            ..row(
                "usable",
                json!([
                    key_with("usable", json!({"age": 100})),
                    key_with("lost", json!({"fernet_key": -1})),
                ]),
                TEST_LIST,
            )
        },
    ]
}

#[tokio::test]
async fn each_users_key_ends_where_it_should_and_reaches_no_other_host() {
    let rows = rows();
    let users: Vec<_> = rows
        .iter()
        .map(|row| json!({"email": row.email, "keys": row.keys}))
        .collect();
    let scene = Scene::new(json!({"users": users, "fernet_keys": 2})).await;
    for row in &rows {
        row.testnet.iter().for_each(|name| know(&scene.testnet, name));
        row.mainnet.iter().for_each(|name| know(&scene.mainnet, name));
    }
    let branch = scene.branch();
    for row in &rows {
        let (testnet, mainnet) = (scene.testnet.keys_seen().len(), scene.mainnet.keys_seen().len());
        let outcome = in_time(stretched(BUDGET), look_up(&branch, row.email)).await;
        assert!(outcome.contains(row.outcome), "{}: {outcome}", row.email);
        let keys = |names: &[&str]| names.iter().map(|name| api_key(name)).collect::<Vec<_>>();
        let seen = scene.testnet.keys_seen();
        assert_eq!(
            seen[testnet..],
            keys(row.sent_to_testnet),
            "{} on testnet",
            row.email
        );
        let seen = scene.mainnet.keys_seen();
        assert_eq!(
            seen[mainnet..],
            keys(row.sent_to_mainnet),
            "{} on mainnet",
            row.email
        );
    }
    for request in scene.testnet.requests().iter().chain(&scene.mainnet.requests()) {
        let has_key = request.header("x-mbx-apikey").is_some();
        assert_eq!(has_key, request.path == "/api/v3/account", "{request:?}");
        // The exchange accepts a stolen request for no longer than this.
        assert_eq!(has_key, request.query.contains("recvWindow=5000&"), "{request:?}");
        assert!(
            !format!("{request:?}").contains("canarysecret"),
            "a secret was sent"
        );
    }
}

/// What is wrong with a key is told apart, and a key that was refused is not sent again at once.
#[tokio::test]
async fn refusals_are_told_apart_and_remembered() {
    let scene = Scene::new(json!({"users": [
        {"email": "format", "keys": [{"api_key": "canary-too-short", "secret_key": "s"}]},
        {"email": "unsendable", "keys": [{"api_key": "canary\nkey", "secret_key": "s"}]},
        {"email": "refused", "keys": [key("refused")]},
        {"email": "secret", "keys": [{"api_key": api_key("secret"), "secret_key": "canary of another"}]},
        {"email": "good", "keys": [{"api_key": format!(" {}\n", api_key("good")), "secret_key": secret_of("good")}]},
    ]}))
    .await;
    know(&scene.testnet, "secret");
    know(&scene.mainnet, "good");
    let branch = scene.branch();
    let cases = [
        ("format", "(-2014)", 1),
        ("unsendable", "(-2014)", 0),
        ("refused", "(-2015)", 1),
        ("secret", "(-1022)", 1),
        ("good", "public: mainnet", 1),
    ];
    for (email, expected, sent) in cases {
        let before = scene.testnet.keys_seen().len();
        let first = look_up(&branch, email).await;
        assert!(first.contains(expected), "{email}: {first}");
        assert_eq!(scene.testnet.keys_seen().len() - before, sent, "{email}");
        let again = look_up(&branch, email).await;
        if email != "good" {
            assert!(again.contains("no request made: it "), "{email}: {again}");
            assert_eq!(
                again.contains("(-2014)"),
                expected == "(-2014)",
                "{email}: {again}"
            );
        }
        assert_eq!(scene.testnet.keys_seen().len() - before, sent, "{email}, again");
    }
    // Accepted: not validated again within the minute either.
    let accounts = |it: &ScriptedExchange| {
        it.keys_seen()
            .iter()
            .filter(|key| **key == api_key("good"))
            .count()
    };
    assert_eq!(accounts(&scene.mainnet), 1);
    for step in ["canary", SECRET_KEY] {
        assert!(!look_up(&branch, "secret").await.contains(step));
    }
}
