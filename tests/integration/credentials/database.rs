use super::*;

use tradebot_test_support::{ChaosProxy, eventually};

use crate::world::PATIENCE;

#[tokio::test]
async fn a_database_in_trouble_costs_no_more_than_its_timeout_and_comes_back() {
    let scene = Scene::one_user().await;
    know(&scene.mainnet, "one");
    let proxy = ChaosProxy::start(scene.filled.database.port());
    let limit = Duration::from_secs(2);
    let environment = scene
        .environment()
        .with("DATABASE_URL", &scene.filled.database.url_via(proxy.port()))
        .with("DATABASE_TIMEOUT_SECONDS", "2");
    let branch = environment.branch();
    assert_eq!(look_up(&branch, "one").await, "public: mainnet");
    let connections = proxy.accepted();
    for _ in 0..3 {
        assert_eq!(look_up(&branch, "one").await, "public: mainnet");
    }
    assert_eq!(proxy.accepted(), connections, "a connection is used again");

    let back = async || {
        eventually("the database to be used again", PATIENCE, async || {
            (look_up(&branch, "one").await == "public: mainnet").then_some(())
        })
        .await;
    };
    proxy.cut();
    let outcome = in_time(limit, look_up(&branch, "one")).await;
    assert!(outcome.starts_with("the database cannot be reached"), "{outcome}");
    proxy.restore();
    back().await;
    // With an open connection, and without.
    for _ in 0..2 {
        proxy.freeze();
        let outcome = in_time(limit, look_up(&branch, "one")).await;
        assert_eq!(outcome, "the database did not answer within 2000 ms");
        proxy.reset_all();
    }
    proxy.restore();
    back().await;
    proxy.reset_all();
    back().await;
}

/// More requests than connections, all of which hang: each ends in time.
#[tokio::test]
async fn requests_that_wait_for_a_connection_end_in_time_as_well() {
    let scene = Scene::one_user().await;
    know(&scene.mainnet, "one");
    let proxy = ChaosProxy::start(scene.filled.database.port());
    proxy.freeze();
    let branch = scene
        .environment()
        .with("DATABASE_URL", &scene.filled.database.url_via(proxy.port()))
        .with("DATABASE_TIMEOUT_SECONDS", "1")
        .with("DATABASE_POOL_SIZE", "2")
        .branch();
    let look_ups = (0..20).map(|_| look_up(&branch, "one"));
    let all = futures_util::future::join_all(look_ups);
    for outcome in in_time(Duration::from_secs(1), all).await {
        assert_eq!(outcome, "the database did not answer within 1000 ms");
    }
    assert!(proxy.accepted() <= 2 * 20, "{}", proxy.accepted());
    proxy.restore();
    eventually("the pool to be whole again", PATIENCE, async || {
        (look_up(&branch, "one").await == "public: mainnet").then_some(())
    })
    .await;
}

/// A query that waits for a lock is ended by the server itself, and the service can only read.
#[tokio::test]
async fn the_server_ends_slow_queries_and_refuses_writes() {
    let scene = Scene::new(json!({"users": [{"email": "user", "keys": []}]})).await;
    let database = &scene.filled.database;
    let locker = connect(database).await;
    locker
        .batch_execute("BEGIN; LOCK TABLE api_keys")
        .await
        .expect("a lock");
    let branch = scene.environment().with("DATABASE_TIMEOUT_SECONDS", "1").branch();
    let outcome = in_time(Duration::from_secs(1), look_up(&branch, "user")).await;
    assert_eq!(outcome, "the database did not answer within 1000 ms");
    // It does not go on there either.
    let running = "SELECT count(*) FROM pg_stat_activity \
        WHERE application_name = 'tradebot-symbols' AND state = 'active' AND datname = current_database()";
    // Within its transaction the locker would see the same answer again and again.
    let watcher = connect(database).await;
    eventually("the end of the query at the server", PATIENCE, async || {
        let count: i64 = watcher.query_one(running, &[]).await.expect("a count").get(0);
        (count == 0).then_some(())
    })
    .await;
    locker.batch_execute("COMMIT").await.expect("the end of the lock");
    assert_eq!(look_up(&branch, "user").await, "user 1 has no stored key");
    // If the look-up wrote, by accident or through a function of the database, the server would refuse.
    let write = "CREATE TABLE written(n int); CREATE FUNCTION lower_mail(text) RETURNS text LANGUAGE sql AS \
        $$ INSERT INTO written VALUES (1); SELECT $1 $$; ALTER TABLE users RENAME TO people; \
        CREATE VIEW users AS SELECT id, lower_mail(email) AS email, is_active FROM people";
    locker.batch_execute(write).await.expect("a view that writes");
    let outcome = look_up(&branch, "user").await;
    assert!(
        outcome.starts_with("the database refused") && outcome.contains("read-only"),
        "{outcome}"
    );
}

#[tokio::test]
async fn what_the_server_refuses_is_told_without_the_password() {
    let scene = Scene::one_user().await;
    let url = scene.filled.database.url();
    let cases = [
        (
            url.replace("canary", "canarywrong"),
            "password authentication failed",
        ),
        (
            url.replace(scene.filled.database.name(), "canary_nowhere"),
            "does not exist",
        ),
    ];
    for (url, reason) in cases {
        let outcome = look_up(&scene.environment().with("DATABASE_URL", &url).branch(), "user").await;
        assert!(outcome.contains(reason), "{outcome}");
        assert!(
            !outcome.contains("canarywrong") && !outcome.contains("p@ss"),
            "{outcome}"
        );
    }
    let empty = PostgresServer::shared().database();
    let outcome = look_up(
        &scene.environment().with("DATABASE_URL", &empty.url()).branch(),
        "user",
    )
    .await;
    assert!(
        outcome.starts_with("the tables `users` and `api_keys` do not have"),
        "{outcome}"
    );
    // Nothing that a user is called can change the query.
    for email in ["' OR true --", "user\0", "", "%", &"x".repeat(100_000)] {
        assert_eq!(look_up(&scene.branch(), email).await, "there is no such user");
    }
}

/// asyncpg's modes, against a server with a certificate for `localhost`.
#[tokio::test]
async fn each_mode_of_encryption_checks_what_it_says() {
    let authority = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = parameters.self_signed(&authority).expect("a certificate");
    let issuer = rcgen::Issuer::new(parameters, authority);
    let server_key = rcgen::KeyPair::generate().expect("a key");
    let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .and_then(|parameters| parameters.signed_by(&server_key, &issuer))
        .expect("a certificate");
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    let file = |pem: &str| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), pem).expect("a written file");
        file
    };
    let (roots, strangers) = (file(&root.pem()), file(&stranger.cert.pem()));
    let postgres = PostgresServer::start_with_tls(&server.pem(), &server_key.serialize_pem());
    let order = json!({"users": [{"email": "user", "keys": []}]});
    let scene = Scene::over(Arc::new(Filled::new(postgres.database(), &order))).await;
    let encrypted = "CREATE VIEW encrypted AS SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let admin = connect(&scene.filled.database).await;
    admin.batch_execute(encrypted).await.expect("a view");
    // The user's number tells whether the connection is encrypted.
    let tell = "ALTER TABLE users RENAME TO people; CREATE VIEW users AS \
        SELECT CASE WHEN (SELECT ssl FROM encrypted) THEN 1 ELSE 0 END AS id, email, is_active FROM people";
    admin.batch_execute(tell).await.expect("a view");
    let (good, bad) = (Some(&roots), Some(&strangers));
    let by_name = |url: String| url.replace("127.0.0.1", "localhost");
    let (fine, clear) = ("user 1 has no stored key", "user 0 has no stored key");
    let cases = [
        ("", None, false, fine),
        ("disable", None, false, clear),
        ("allow", None, false, fine),
        ("prefer", bad, false, fine),
        ("require", None, false, fine),
        ("require", good, false, fine),
        ("require", bad, false, "invalid peer certificate"),
        ("verify-ca", good, false, fine),
        ("verify-ca", bad, true, "invalid peer certificate"),
        ("verify-full", good, true, fine),
        (
            "verify-full",
            good,
            false,
            "invalid peer certificate: certificate not valid for name",
        ),
        ("verify-full", bad, true, "invalid peer certificate"),
        ("verify-full", None, true, "invalid peer certificate"),
    ];
    for (mode, certificates, named, expected) in cases {
        let option = if mode.is_empty() {
            String::new()
        } else {
            format!("?ssl={mode}")
        };
        let url = format!("{}{option}", scene.filled.database.url());
        let url = if named { by_name(url) } else { url };
        let mut environment = scene.environment().with("DATABASE_URL", &url);
        if let Some(file) = certificates {
            environment = environment.with("PGSSLROOTCERT", &file.path().display().to_string());
        }
        let outcome = look_up(&environment.branch(), "user").await;
        assert!(outcome.contains(expected), "{mode} {named}: {outcome}");
    }
}

/// Beside the service, as an administrator.
pub(crate) async fn connect(database: &Database) -> tokio_postgres::Client {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(database.port())
        .user(database.owner())
        .password(PostgresServer::PASSWORD)
        .dbname(database.name());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("a connection");
    // It ends with the client.
    tokio::spawn(connection);
    client
}
