use super::*;

use tradebot_symbols::internals::ApiKey;

async fn one_user() -> Scene {
    let scene = Scene::one_user().await;
    know(&scene.mainnet, "one");
    scene
}

#[tokio::test]
async fn networks_are_tried_in_the_configured_order_and_no_others() {
    let scene = one_user().await;
    know(&scene.testnet, "one");
    let with = |networks: &str| scene.environment().with("BINANCE_CREDENTIAL_NETWORKS", networks);
    let mainnet_first = with("mainnet,testnet").branch();
    assert_eq!(look_up(&mainnet_first, "one").await, "public: mainnet");
    let mainnet_alone = with("mainnet").branch();
    assert_eq!(look_up(&mainnet_alone, "one").await, "public: mainnet");
    assert_eq!(scene.testnet.keys_seen().len(), 0);
    let seen = scene.mainnet.keys_seen().len();
    let testnet_alone = with("testnet").branch();
    assert_eq!(
        look_up(&testnet_alone, "one").await,
        "testnet: BTCUSDT ETHUSDT TESTUSDT"
    );
    assert_eq!(scene.mainnet.keys_seen().len(), seen);
    // Where the deployment itself is on the testnet, the mainnet's list is the private one.
    let testnet_deployment = with("mainnet,testnet").with("TESTNET_URL", "true").branch();
    assert_eq!(
        look_up(&testnet_deployment, "one").await,
        "mainnet: BTCUSDT ETHUSDT MAINUSDT"
    );
    let testnet_deployment = with("testnet,mainnet").with("TESTNET_URL", "true").branch();
    assert_eq!(look_up(&testnet_deployment, "one").await, "public: testnet");
}

#[tokio::test]
async fn a_private_list_is_fetched_once_for_all_and_for_each_market() {
    let scene = one_user().await;
    know(&scene.testnet, "one");
    let branch = scene.branch();
    let look_ups = (0..20).map(|_| look_up(&branch, "one"));
    for outcome in futures_util::future::join_all(look_ups).await {
        assert_eq!(outcome, "testnet: BTCUSDT ETHUSDT TESTUSDT");
    }
    assert_eq!(scene.testnet.count(path(Market::Spot)), 1);
    assert_eq!(scene.testnet.count(path(Market::Futures)), 0);
    let futures = branch.list_of("one", Market::Futures, &mut |_| {}).await;
    assert_eq!(told(&futures), "testnet: BTCUSDT ETHUSDT TESTUSDT");
    assert_eq!(scene.testnet.count(path(Market::Futures)), 1);
    assert_eq!(scene.mainnet.requests().len(), 0);
}

/// Whatever the first network does, the second is asked, and the branch ends in time.
#[tokio::test]
async fn trouble_on_one_network_leads_to_the_next_and_in_time() {
    let scene = one_user().await;
    let budget = Duration::from_secs(4);
    let environment = scene.environment().with("CREDENTIALS_TIMEOUT_SECONDS", "4");
    let account = "/api/v3/account";
    let html = Reply::status(502, "<html>bad gateway</html>").header("Content-Type", "text/html");
    let troubles = [
        ("hangs", Reply::json("").hang()),
        ("drips", Reply::json("{}  ").drip(Duration::from_secs(2))),
        ("is down", html),
        (
            "is cut",
            Reply::json("{\"accountType\": \"SPOT\"}").truncated_at(5),
        ),
        (
            "is restricted",
            Reply::status(451, r#"{"code":0,"msg":"restricted location"}"#),
        ),
        ("has a firewall", Reply::status(403, "<html>no</html>")),
        (
            "refuses our time",
            Reply::status(400, r#"{"code":-1021,"msg":"Timestamp"}"#),
        ),
        (
            "has another trouble",
            Reply::status(400, r#"{"code":-1102,"msg":"parameter"}"#),
        ),
        (
            "says so with status 200",
            Reply::json(r#"{"code":-2015,"msg":"Invalid API-key"}"#),
        ),
        ("is no exchange", Reply::status(404, "not found")),
        ("sends a novel", Reply::json(" ".repeat((4 << 20) + 1))),
    ];
    for (what, reply) in troubles {
        scene.testnet.always(account, reply);
        let branch = environment.branch();
        let outcome = in_time(budget, look_up(&branch, "one")).await;
        assert_eq!(outcome, "public: mainnet", "testnet {what}");
    }
    // No server listens; the key is good elsewhere.
    let nowhere = format!("http://127.0.0.1:{}", tradebot_test_support::free_port());
    let branch = environment
        .clone()
        .with("BINANCE_SPOT_TESTNET_BASE_URL", &nowhere)
        .branch();
    assert_eq!(look_up(&branch, "one").await, "public: mainnet");
    // The key is good on the testnet, and its list is not to be had, or empty.
    scene.testnet.always(account, Reply::json("{}"));
    for (what, reply) in [
        ("no list", Reply::status(500, "x")),
        (
            "an empty list",
            Reply::json(exchange_info(&[("BTC", "USDT", "BREAK")])),
        ),
        (
            "a list without ETH",
            Reply::json(exchange_info(&[("BTC", "USDT", "TRADING")])),
        ),
    ] {
        scene.testnet.always(path(Market::Spot), reply);
        let branch = environment.branch();
        assert_eq!(look_up(&branch, "one").await, "public: mainnet", "{what}");
    }
    // Both hang.
    scene.testnet.always(account, Reply::json("").hang());
    scene.mainnet.always(account, Reply::json("").hang());
    let branch = environment.branch();
    let outcome = in_time(budget, look_up(&branch, "one")).await;
    assert!(
        outcome.contains("no complete answer within") || outcome.contains("no answer within"),
        "{outcome}"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_a_key_or_without() {
    let scene = one_user().await;
    let trap = ScriptedExchange::start().await;
    for status in [301, 302, 303, 307, 308] {
        let target = format!("{}/api/v3/account", trap.base_url());
        let reply = Reply::status(status, "").header("Location", &target);
        scene.testnet.always("/api/v3/account", reply);
        let outcome = look_up(&scene.branch(), "one").await;
        assert_eq!(outcome, "public: mainnet", "{status}");
    }
    assert_eq!(trap.requests().len(), 0);
}

#[tokio::test]
async fn after_a_429_no_key_is_sent_and_no_list_asked_for() {
    let scene = one_user().await;
    let limited =
        Reply::status(429, r#"{"code":-1003,"msg":"Too many requests"}"#).header("Retry-After", "60");
    scene.testnet.always("/api/v3/account", limited);
    let branch = scene.branch();
    assert_eq!(look_up(&branch, "one").await, "public: mainnet");
    let asked = scene.testnet.requests().len();
    assert_eq!(look_up(&branch, "one").await, "public: mainnet");
    assert_eq!(scene.testnet.requests().len(), asked, "a pause was not kept");
}

#[tokio::test]
async fn clocks_are_compared_at_first_and_again_after_1021() {
    let scene = one_user().await;
    let client = {
        let environment = scene.environment();
        let mut reader = Reader::new(&environment);
        Client::new(
            BinanceConfig::read(&mut reader),
            tradebot_base::random::Random::system(),
        )
        .expect("a client")
    };
    let one = ApiKey {
        key: tradebot_base::secret::Secret::new(api_key("one")),
        secret: tradebot_base::secret::Secret::new(secret_of("one")),
    };
    let times = || scene.mainnet.count("/api/v3/time");
    let patience = stretched(BUDGET);
    scene.mainnet.set_clock_ahead(3_600_000);
    client.check_account(&one, patience).await.expect("an account");
    client.check_account(&one, patience).await.expect("an account");
    assert_eq!(times(), 1, "an offset is measured once");
    let ahead = client.clock_offset_ms().expect("a measured offset");
    assert!((ahead - 3_600_000).abs() < 60_000, "{ahead}");
    for ms in [-7_200_000, 90_000] {
        let before = times();
        scene.mainnet.set_clock_ahead(ms);
        client.check_account(&one, patience).await.expect("an account");
        assert_eq!(times(), before + 1, "{ms}");
    }
    // An exchange that is never content is asked twice, not for ever.
    let accounts = scene.mainnet.count("/api/v3/account");
    let refusal = Reply::status(400, r#"{"code":-1021,"msg":"Timestamp"}"#);
    scene.mainnet.always("/api/v3/account", refusal);
    let error = client.check_account(&one, patience).await.expect_err("a refusal");
    assert!(error.to_string().contains("-1021"), "{error}");
    assert_eq!(scene.mainnet.count("/api/v3/account"), accounts + 2);
}
