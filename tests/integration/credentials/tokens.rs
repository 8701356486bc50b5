use super::*;

/// Tokens that python-jose signed, and some that it would not.
#[tokio::test]
async fn only_good_tokens_of_active_users_lead_anywhere() {
    let claims = |email: &str| json!({"sub": email, "exp": 600});
    let signed =
        |claims: Value, algorithm: &str| json!({"claims": claims, "key": SECRET_KEY, "algorithm": algorithm});
    let scene = Scene::new(json!({
        "users": [
            {"email": "user@example.com", "keys": [key("one")]},
            {"email": "gone@example.com", "is_active": false, "keys": [key("gone")]},
        ],
        "tokens": {
            "HS256": signed(claims("user@example.com"), "HS256"),
            "HS384": signed(claims("user@example.com"), "HS384"),
            "HS512": signed(claims("user@example.com"), "HS512"),
            "expired": signed(json!({"sub": "user@example.com", "exp": -5}), "HS512"),
            "no expiry": signed(json!({"sub": "user@example.com"}), "HS512"),
            "another key": {"claims": claims("user@example.com"), "key": "canary-of-another-service", "algorithm": "HS512"},
            "RSA": {"claims": claims("user@example.com"), "key": {"rsa": true}, "algorithm": "RS256"},
            "unknown": signed(claims("unknown@example.com"), "HS512"),
            "inactive": signed(claims("gone@example.com"), "HS512"),
            "other case": signed(claims("User@Example.com"), "HS512"),
        },
    }))
    .await;
    know(&scene.mainnet, "one");
    know(&scene.mainnet, "gone");
    for algorithm in ["HS256", "HS384", "HS512"] {
        let branch = scene.environment().with("ALGORITHM", algorithm).branch();
        let outcome = branch
            .list_for(&scene.filled.tokens[algorithm], Market::Spot)
            .await;
        assert_eq!(told(&outcome), "public: mainnet", "{algorithm}");
    }
    let sent = scene.mainnet.keys_seen().len() + scene.testnet.keys_seen().len();
    let branch = scene.environment().with("ALGORITHM", "HS512").branch();
    let (header, rest) = scene.filled.tokens["HS512"].split_once('.').expect("three parts");
    let (payload, _) = rest.split_once('.').expect("three parts");
    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{payload}.");
    let unsigned = format!("{header}.{payload}.");
    let cases = [
        ("expired", "the token has expired"),
        ("no expiry", "the token has no expiry"),
        ("another key", "the token's signature is wrong"),
        ("RSA", "the token's algorithm is not the configured one"),
        ("HS256", "the token's algorithm is not the configured one"),
        ("unknown", "there is no such user"),
        ("other case", "there is no such user"),
        ("inactive", "user 2 is not active"),
    ];
    for (name, reason) in cases {
        let outcome = branch.list_for(&scene.filled.tokens[name], Market::Spot).await;
        assert_eq!(told(&outcome), reason, "{name}");
    }
    for (token, reason) in [
        (none.as_str(), "the token is malformed"),
        (&unsigned, "the token's signature is wrong"),
        ("", "the token is malformed"),
        ("not.a.token", "the token is malformed"),
        (&"x".repeat(100_000), "the token is malformed"),
    ] {
        let outcome = branch.list_for(token, Market::Spot).await;
        assert_eq!(told(&outcome), reason, "{}", &token[..token.len().min(60)]);
    }
    let now = scene.mainnet.keys_seen().len() + scene.testnet.keys_seen().len();
    assert_eq!(now, sent, "a bad token must not have a key sent");
    let outcomes: BTreeMap<_, _> = branch.outcomes().filter(|(_, count)| *count > 0).collect();
    assert_eq!(
        outcomes,
        BTreeMap::from([("token", 10), ("unknown_user", 2), ("inactive_user", 1)])
    );
}

/// A bad token is not worth a connection.
#[tokio::test]
async fn a_bad_token_does_not_reach_the_database() {
    let proxy = tradebot_test_support::ChaosProxy::start(1);
    let url = format!("postgresql+asyncpg://u:p@127.0.0.1:{}/t", proxy.port());
    let branch = Environment::default()
        .with("DATABASE_URL", &url)
        .with("SECRET_KEY", SECRET_KEY)
        .with("FERNET_KEY", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=")
        .branch();
    for token in ["", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."] {
        assert!(branch.list_for(token, Market::Spot).await.is_err());
    }
    assert_eq!(proxy.accepted(), 0);
}
