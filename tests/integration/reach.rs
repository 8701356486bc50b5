//! Every way in which Celery reaches a Redis: TLS, unix sockets, users with few rights, sentinels, prefixed keys.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::AsyncCommands;
use tempfile::TempDir;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{Process, RedisServer, eventually, free_port, stretched};

use crate::world::{PATIENCE, World, connected, now, warmup};

/// A private authority and a server certificate for 127.0.0.1, as PEM files.
fn certificates(directory: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer =
        CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("parameters");
    let server = server.signed_by(&key, &issuer).expect("a certificate");
    for (name, text) in [
        ("ca.pem", issuer.pem()),
        ("server.pem", server.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        fs::write(directory.join(name), text).expect("a file");
    }
}

/// Has a worker that reaches Redis in this way do one refresh.
async fn refresh_over(world: &World, url: &str, env: &[(&str, &str)]) -> Process {
    let worker = world
        .worker(&[])
        .env("REDIS_URL", url)
        .env("CELERY_BROKER_URL", url)
        .env("CELERY_RESULT_BACKEND", url)
        .envs(env.iter().copied());
    let worker = connected(worker);
    let id = world.enqueue(warmup(Market::Spot)).await.id().to_owned();
    assert_eq!(world.ended(&id).await["status"], "SUCCESS", "over {url}");
    worker
}

#[tokio::test]
async fn a_worker_reaches_redis_over_tls_with_a_private_authority_and_refuses_a_strangers() {
    let directory = TempDir::new().expect("a directory");
    certificates(directory.path());
    let (file, port) = (
        |name: &str| directory.path().join(name).display().to_string(),
        free_port(),
    );
    let server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        "no",
    ]);
    let world = World::on(server).await;
    world.exchange_lists(Market::Spot);
    let authority = file("ca.pem");
    let base = format!("rediss://127.0.0.1:{port}/0");
    refresh_over(
        &world,
        &format!("{base}?ssl_cert_reqs=required&ssl_ca_certs={authority}"),
        &[],
    )
    .await;
    refresh_over(&world, &format!("{base}?ssl_cert_reqs=CERT_NONE"), &[]).await;

    // The certificate is for the address alone.
    let named = format!("rediss://localhost:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={authority}");
    refresh_over(&world, &format!("{named}&ssl_check_hostname=False"), &[]).await;
    let worker = world.worker(&[]).env("CELERY_BROKER_URL", &named).spawn();
    let line = worker.wait_for_line("broker in trouble", PATIENCE);
    assert!(line.to_lowercase().contains("certificate"), "{line}");

    let stranger = format!("{base}?ssl_cert_reqs=required&ssl_check_hostname=false");
    let worker = world.worker(&[]).env("CELERY_BROKER_URL", &stranger).spawn();
    let line = worker.wait_for_line("broker in trouble", PATIENCE);
    assert!(line.to_lowercase().contains("certificate"), "{line}");
}

#[tokio::test]
async fn a_worker_reaches_redis_through_a_unix_socket() {
    let directory = TempDir::new().expect("a directory");
    let socket = directory.path().join("redis.sock").display().to_string();
    let world = World::on(RedisServer::start_with(&["--unixsocket", &socket])).await;
    world.exchange_lists(Market::Spot);
    refresh_over(&world, &format!("redis+socket://{socket}?virtual_host=0"), &[]).await;

    let rules = ["SETUSER", "named", "on", ">p@s/s", "~*", "&*", "+@all"];
    let set: Result<String, _> = redis::cmd("ACL").arg(&rules).query_async(&mut world.db()).await;
    set.expect("a user");
    refresh_over(&world, &format!("redis+socket://named:p%40s%2Fs@{socket}"), &[]).await;
    let wrong = format!("redis+socket://named:canary@{socket}");
    let worker = world.worker(&[]).env("CELERY_BROKER_URL", &wrong).spawn();
    worker.wait_for_line("broker in trouble", PATIENCE);
    assert!(!worker.output().contains("canary"), "{}", worker.output());
}

#[tokio::test]
async fn a_user_that_may_not_track_keys_works_by_looking() {
    let world = World::new().await;
    world.exchange_lists(Market::Spot);
    let rules = [
        "SETUSER",
        "limited",
        "on",
        ">secret",
        "~*",
        "&*",
        "+@all",
        "-client|tracking",
    ];
    let set: Result<String, _> = redis::cmd("ACL").arg(&rules).query_async(&mut world.db()).await;
    set.expect("a user");
    let url = format!("redis://limited:secret@127.0.0.1:{}/0", world.redis.port());
    let worker = refresh_over(&world, &url, &[]).await;
    worker.wait_for_line("polling instead", PATIENCE);
    // It looks twice a second.
    let sent_at = Instant::now();
    world.enqueue(warmup(Market::Spot)).await;
    world.asked(Market::Spot, 2).await;
    let took = sent_at.elapsed();
    assert!(took < stretched(Duration::from_secs(2)), "{took:?}");
}

#[tokio::test]
async fn prefixed_keys_are_used_where_kombu_and_celery_use_them() {
    let world = World::new().await;
    world.exchange_lists(Market::Spot);
    let env = [
        ("CELERY_GLOBAL_KEYPREFIX", "{tb}:"),
        ("CELERY_RESULT_GLOBAL_KEYPREFIX", "{tb}"),
    ];
    let _worker = connected(world.worker(&[]).envs(env));
    let message = warmup(Market::Spot).into_envelope("gen1@tests", now());
    world.push("{tb}:celery", message.to_json()).await;
    let key = format!("{{tb}}_celery-task-meta-{}", message.id());
    let result = eventually("a result under the prefix", PATIENCE, async || {
        world
            .db()
            .get::<_, Option<String>>(&key)
            .await
            .expect("an answer")
    })
    .await;
    assert!(result.contains("\"SUCCESS\""), "{result}");
    let keys: Vec<String> = world.db().keys("*").await.expect("keys");
    let strays: Vec<&String> = keys
        .iter()
        .filter(|key| !key.starts_with("{tb}") && !key.starts_with("cache:") && !key.starts_with("metrics:"))
        .collect();
    assert_eq!(strays, [""; 0], "keys without the prefix");
}

/// A hash tag as the prefix puts everything of a broker on one node of a cluster; a script whose keys were on several
/// would be refused.
#[tokio::test]
async fn a_worker_uses_one_node_of_a_cluster() {
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let mut node = cluster.connection().await;
    let slots = redis::cmd("CLUSTER")
        .arg("ADDSLOTSRANGE")
        .arg(0)
        .arg(16383)
        .to_owned();
    slots.query_async::<()>(&mut node).await.expect("all slots");
    eventually("a cluster that is up", PATIENCE, async || {
        let info = redis::cmd("CLUSTER").arg("INFO").to_owned();
        let info: String = info
            .query_async(&mut cluster.connection().await)
            .await
            .expect("an answer");
        info.contains("cluster_state:ok").then_some(())
    })
    .await;

    // The lists have the names that the readers know, and so a server of their own.
    let world = World::new().await;
    world.exchange_lists(Market::Spot);
    let url = cluster.url();
    let worker = world
        .worker(&[])
        .env("CELERY_BROKER_URL", &url)
        .env("CELERY_RESULT_BACKEND", &url)
        .env("CELERY_GLOBAL_KEYPREFIX", "{tb}")
        .env("CELERY_RESULT_GLOBAL_KEYPREFIX", "{tb}");
    let worker = connected(worker);
    let message = warmup(Market::Spot).into_envelope("gen1@tests", now());
    node.lpush::<_, _, ()>("{tb}celery", message.to_json())
        .await
        .expect("a message");
    let key = format!("{{tb}}_celery-task-meta-{}", message.id());
    let result = eventually("a result in the cluster", PATIENCE, async || {
        cluster
            .connection()
            .await
            .get::<_, Option<String>>(&key)
            .await
            .expect("an answer")
    })
    .await;
    assert!(result.contains("\"SUCCESS\""), "{result}");
    let left: usize = node.hlen("{tb}unacked").await.expect("an answer");
    assert_eq!(left, 0, "deliveries left over");
    assert_eq!(worker.output().matches("CROSSSLOT").count(), 0);
}

/// A sentinel with this configuration, once it watches its master.
fn start_sentinel(directory: &TempDir, text: &str) -> Process {
    let config = directory.path().join("sentinel.conf");
    fs::write(&config, text).expect("a file");
    let sentinel = Process::builder("redis-server")
        .arg(&config)
        .arg("--sentinel")
        .spawn();
    sentinel.wait_for_line("+monitor master", PATIENCE);
    sentinel
}

#[tokio::test]
async fn a_worker_follows_the_sentinels_to_the_new_master() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let replicate = redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(old.port())
        .to_owned();
    replicate
        .query_async::<()>(&mut new.connection().await)
        .await
        .expect("a replica");
    let directory = TempDir::new().expect("a directory");
    let port = free_port();
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor lists 127.0.0.1 {} 1\n\
         sentinel down-after-milliseconds lists 1000\nsentinel failover-timeout lists 5000\n",
        directory.path().display(),
        old.port()
    );
    let sentinel = start_sentinel(&directory, &text);
    // A sentinel that does not know the replica yet cannot promote it.
    sentinel.wait_for_line("+slave slave", PATIENCE);

    let world = World::on(old).await;
    world.exchange_lists(Market::Spot);
    let url = format!("sentinel://127.0.0.1:{port}/0");
    let worker = refresh_over(&world, &url, &[("CELERY_SENTINEL_MASTER_NAME", "lists")]).await;
    world.redis.kill();
    sentinel.wait_for_line("+switch-master", PATIENCE);
    worker.wait_for_nth_line("connected", 2, PATIENCE);

    let message = warmup(Market::Spot).into_envelope("gen1@tests", now());
    let mut db = new.connection().await;
    db.lpush::<_, _, ()>("celery", message.to_json())
        .await
        .expect("a pushed message");
    let key = format!("celery-task-meta-{}", message.id());
    eventually("a result on the new master", PATIENCE, async || {
        db.clone()
            .get::<_, Option<String>>(&key)
            .await
            .expect("an answer")
    })
    .await;
    assert!(
        db.exists::<_, bool>(CacheKeys(Market::Spot).primary())
            .await
            .expect("an answer")
    );
}

/// `sentinel_kwargs` of kombu: the password of the sentinels is none of the master's.
#[tokio::test]
async fn a_sentinel_may_have_another_password() {
    let world = World::new().await;
    world.exchange_lists(Market::Spot);
    let directory = TempDir::new().expect("a directory");
    let port = free_port();
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nrequirepass canary\nsentinel monitor lists 127.0.0.1 {} 1\n",
        directory.path().display(),
        world.redis.port()
    );
    let _sentinel = start_sentinel(&directory, &text);

    let url = format!("sentinel://127.0.0.1:{port}/0");
    let master = ("CELERY_SENTINEL_MASTER_NAME", "lists");
    let worker = refresh_over(&world, &url, &[master, ("CELERY_SENTINEL_PASSWORD", "canary")]).await;
    assert!(!worker.output().contains("canary"), "{}", worker.output());
    let without = world
        .worker(&[])
        .envs([master, ("CELERY_BROKER_URL", &url)])
        .spawn();
    without.wait_for_line("broker in trouble", PATIENCE);
}

#[tokio::test]
async fn a_sentinel_url_without_the_masters_name_is_refused_with_the_variable_to_set() {
    let world = World::new().await;
    let worker = world
        .worker(&[])
        .env("CELERY_BROKER_URL", "sentinel://127.0.0.1:1")
        .spawn();
    assert_eq!(worker.wait_exit(PATIENCE).code(), Some(64));
    assert!(
        worker.output().contains("CELERY_SENTINEL_MASTER_NAME"),
        "{}",
        worker.output()
    );
}
