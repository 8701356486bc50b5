//! `adopt` on env files of all kinds, beside a deployment that works.

use serde_json::{Value, json};
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, bin};

use super::broken_servers::with_tables;
use super::{GOOD_KEYS, Scene};
use crate::env_files::file;
use crate::world::PATIENCE;

const SETTING: &[&str] = &["setting-unusable"];

#[tokio::test]
async fn adopt_names_all_that_stops_or_endangers_a_program() {
    let scene = Scene::healthy().await;
    let users = with_tables().await;
    let database = format!("DATABASE_URL={}\n", users.url());
    let [secret_key, fernet_key] = GOOD_KEYS.map(|(name, value)| format!("{name}={value}\n"));
    let well_known = "FERNET_KEY=cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=\n";
    let production = "ENVIRONMENT=Production\n";
    // What is added to a file that is good, the codes, and the exit code.
    let files: [(&[&str], &[&str], i32); 25] = [
        (&[], &[], 0),
        (&[production], &[], 0),
        (&["ENVIRONMENT=staging"], &[], 0),
        (&["ENVIRONMENT=prod"], SETTING, 3),
        (&["ALGORITHM=RS256"], SETTING, 3),
        (&["SECRET_KEY=\nCELERY_APP=app.worker\nSMTP_HOST=mail"], &[], 0),
        (&["HTTP_MAX_CONNECTIONS=lots"], SETTING, 3),
        (&[production, "FRONTEND_URL=\"http://a\nb\""], SETTING, 3),
        (&["DATABASE_POOL_SIZE=0"], SETTING, 3),
        (&["LOG_LEVEL=LOUD"], SETTING, 3),
        (&["CELERY_RESULT_SERIALIZER=pickle"], SETTING, 3),
        (&["CELERY_TASK_DEFAULT_RATE_LIMIT=often"], SETTING, 3),
        (&["SYMBOLS_REFRESH_AHEAD_PERCENT=100"], SETTING, 3),
        (&["BINANCE_CREDENTIAL_NETWORKS=moonnet"], SETTING, 3),
        (&["ENVIROMENT=production"], &["variable-unknown"], 2),
        (
            &["SPOT_SYMBOLS_CACHE_TTL_SECONDS=100"],
            &["ttl-below-interval"],
            2,
        ),
        (&[&database, &secret_key, &fernet_key], &[], 0),
        (&[&database, &secret_key, &fernet_key, production], &[], 0),
        (&[&database], &["user-lists-off"; 2], 0),
        (
            &[&database, production],
            &["secret-key-unsafe", "fernet-key-unusable"],
            3,
        ),
        (
            &[&database, &secret_key, "FERNET_KEY=canary"],
            &["fernet-key-unusable"],
            3,
        ),
        (&[&database, &secret_key, well_known], &["key-weak"], 2),
        (&[&database, &secret_key, well_known, production], SETTING, 3),
        (
            &[
                &database,
                &fernet_key,
                "SECRET_KEY=canary-secretkey-canary-canary",
            ],
            &["key-weak"],
            2,
        ),
        (
            &[
                &database,
                &fernet_key,
                production,
                "SECRET_KEY=canary-of-20-letters",
            ],
            &["secret-key-unsafe"],
            3,
        ),
    ];
    let good: String = scene
        .environment
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    for (added, codes, exit) in files {
        let (code, said) = adopt(&(good.clone() + &added.concat()));
        let found: Vec<&str> = said.lines().filter_map(code_of).collect();
        assert_eq!((&*found, code), (codes, Some(exit)), "{added:?}\n{said}");
        assert!(!said.contains("canary"), "{said}");
    }
    // The names of a sandbox resemble both networks'.
    let source = CacheKeys(Market::Spot).source();
    let text = scene.world.get(&source).await.expect("a source");
    let mut sandbox: Value = serde_json::from_str(&text).expect("JSON");
    sandbox["network"] = json!("sandbox");
    sandbox["host"] = json!("https://elsewhere");
    scene.world.set(&source, &sandbox.to_string()).await;
    let (code, said) = adopt(&good);
    let found: Vec<&str> = said.lines().filter_map(code_of).collect();
    assert_eq!((&*found, code), (&["list-of-the-sandbox"][..], Some(3)), "{said}");
    assert!(
        said.contains("spot: not compared: the stored list is made up by the sandbox"),
        "{said}"
    );
    // Here the examination cannot begin; all mistakes are named at once.
    let (code, said) = adopt(&(good + "CELERY_TASK_TIME_LIMIT=soon\nALGORITHM=RS256\nENVIRONMENT=prod"));
    assert_eq!(code, Some(64), "{said}");
    for mistake in [
        "CELERY_TASK_TIME_LIMIT is `soon`",
        "ALGORITHM is `RS256`",
        "ENVIRONMENT is `prod`, expected `development`",
    ] {
        assert!(said.contains(mistake), "{mistake}\n{said}");
    }
}

fn adopt(text: &str) -> (Option<i32>, String) {
    let file = file(text);
    let adopt = Process::builder(bin("tradebot-symbols"))
        .args(["adopt", "--env-file"])
        .arg(file.path())
        .spawn();
    (adopt.wait_exit(PATIENCE).code(), adopt.output())
}

/// The code in the first line of a finding: `  WARNING key-weak (FERNET_KEY)`.
fn code_of(line: &str) -> Option<&str> {
    let (severity, rest) = line.strip_prefix("  ")?.split_once(' ')?;
    ["CRITICAL", "WARNING", "NOTE"]
        .contains(&severity)
        .then(|| rest.split(' ').next())?
}
