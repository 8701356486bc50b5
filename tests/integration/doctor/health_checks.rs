//! `healthcheck`, against the real worker, beat and endpoint.

use std::time::{Duration, Instant};

use serde_json::json;
use tradebot_base::market::Market;
use tradebot_symbols::internals::CacheKeys;
use tradebot_test_support::{
    Process, Reply, ScriptedExchange, Signal, bin, eventually, free_port, stretched,
};

use super::Scene;
use crate::world::{GOOD_TEXT, PATIENCE, now, path};

impl Scene {
    /// The exit code and the output of a health check.
    fn check(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let program = self.program(&[&["healthcheck"], arguments].concat(), &[]);
        (program.wait_exit(PATIENCE).code(), program.output())
    }

    async fn until_checked(&self, arguments: &[&str], code: i32) {
        eventually(&format!("{code} of {arguments:?}"), PATIENCE, async || {
            (self.check(arguments).0 == Some(code)).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_beat_is_healthy_while_it_says_so() {
    let scene = Scene::healthy().await;
    let beat = scene.beat.as_ref().expect("a beat");
    assert_eq!(scene.check(&["beat"]).0, Some(0));
    assert_eq!(scene.check(&["beat", "--host", "elsewhere"]).0, Some(1));
    // The process lives, but does nothing.
    beat.signal(Signal::SIGSTOP);
    scene.until_checked(&["beat"], 1).await;
    beat.signal(Signal::SIGCONT);
    scene.until_checked(&["beat"], 0).await;
    super::stop(beat);
    let (code, said) = scene.check(&["beat"]);
    assert_eq!(code, Some(1), "{said}");
}

#[tokio::test]
async fn the_endpoint_is_healthy_once_it_serves() {
    let scene = Scene::healthy().await;
    for market in Market::ALL {
        scene
            .world
            .exchange
            .always(path(market), Reply::status(503, "no list"));
    }
    let _: () = scene.ask(&["FLUSHALL"]).await;
    let address = format!("127.0.0.1:{}", free_port());
    let check = ["endpoint", "--listen", &address];
    assert_eq!(scene.check(&check).0, Some(1), "nothing listens there");
    let endpoint = Process::builder(bin("tradebot-symbols"))
        .args(["serve", "--listen", &address])
        .envs(&scene.environment)
        .spawn();
    endpoint.wait_for_line("http is listening", PATIENCE);
    let (code, said) = scene.check(&check);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no_list"), "{said}");
    // Another program writes the lists. The endpoint sees them at once, without waiting for its next attempt.
    for market in Market::ALL {
        let keys = CacheKeys(market);
        let time = now().timestamp().to_string();
        for (key, text) in [
            (keys.primary(), GOOD_TEXT),
            (keys.last_good(), GOOD_TEXT),
            (keys.last_refresh(), &time),
        ] {
            scene.world.set(&key, text).await;
        }
    }
    scene.until_checked(&check, 0).await;
    endpoint.signal(Signal::SIGSTOP);
    assert_eq!(scene.check(&check).0, Some(1));
    endpoint.signal(Signal::SIGCONT);
    scene.until_checked(&check, 0).await;
    super::stop(&endpoint);
    assert_eq!(scene.check(&check).0, Some(1));
}

#[tokio::test]
async fn a_health_check_goes_by_what_a_part_does() {
    let scene = Scene::healthy().await;
    let worker = ["worker", "-n", "symbols@scene"];
    let (code, said) = scene.check(&worker);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("it answers") || said.contains("renews its lease"),
        "{said}"
    );
    let (code, said) = scene.check(&["worker", "-n", "other@scene"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("other@scene does not answer"), "{said}");

    assert_eq!(scene.check(&["beat", "--host", "elsewhere"]).0, Some(1));
    let heartbeat = json!({"host": "elsewhere", "pid": 1}).to_string();
    let _: () = scene.ask(&["SET", "tradebot-symbols:beat:one", &heartbeat]).await;
    assert_eq!(scene.check(&["beat", "--host", "elsewhere"]).0, Some(0));
    // A key prefix may have characters that are wildcards in a search.
    let _: () = scene
        .ask(&["SET", "p[1]*:tradebot-symbols:beat:one", &heartbeat])
        .await;
    let of_prefix = scene.program(
        &["healthcheck", "beat", "--host", "elsewhere"],
        &[("CELERY_GLOBAL_KEYPREFIX", "p[1]*:")],
    );
    assert!(of_prefix.wait_exit(PATIENCE).success(), "{}", of_prefix.output());

    let address = scene.world.exchange.base_url().replace("http://", "");
    for (reply, code) in [
        (Reply::json("{}"), 0),
        (Reply::status(503, "no list"), 1),
        (Reply::json("").hang(), 1),
    ] {
        scene.world.exchange.always("/readyz", reply);
        assert_eq!(scene.check(&["endpoint", "--listen", &address]).0, Some(code));
    }
    let closed = format!("127.0.0.1:{}", free_port());
    assert_eq!(scene.check(&["endpoint", "--listen", &closed]).0, Some(1));
    assert_eq!(scene.check(&["endpoint"]).0, Some(64), "the address is not known");

    // With a server that hangs, the check fails in time.
    scene.world.redis.pause();
    let started = Instant::now();
    assert_eq!(scene.check(&worker).0, Some(1));
    assert!(
        started.elapsed() < stretched(Duration::from_secs(5)),
        "{:?}",
        started.elapsed()
    );
    scene.world.redis.resume();
    scene.worker.signal(Signal::SIGKILL);
    scene.worker.wait_exit(PATIENCE);
    eventually("the end of the lease", PATIENCE, async || {
        (scene.check(&worker).0 == Some(1)).then_some(())
    })
    .await;
}

/// As in every container on a machine whose Docker client has a proxy.
#[tokio::test]
async fn our_own_endpoint_and_this_machine_are_asked_without_a_proxy() {
    let mut scene = Scene::healthy().await;
    let (address, proxy) = (
        format!("127.0.0.1:{}", free_port()),
        ScriptedExchange::start().await,
    );
    let endpoint = Process::builder(bin("tradebot-symbols"))
        .args(["serve", "--listen", &address])
        .envs(&scene.environment)
        .spawn();
    endpoint.wait_for_line("http is listening", PATIENCE);
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name.to_owned(), proxy.base_url()));
    scene.environment.extend(proxies);
    scene.until_checked(&["endpoint", "--listen", &address], 0).await;
    scene.doctor(&[("HTTP_LISTEN", &address)]).assert_healthy();
    assert_eq!(proxy.requests(), []);
}
