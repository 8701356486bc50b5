//! Odd messages on a queue that Python workers and ours share. What is not for one of our tasks must reach a Python worker
//! as it was sent.

use redis::cmd;
use tradebot_test_support::{Process, Python, RedisServer, bin};
use tradebot_wire::keys::Keys;

use crate::fleet::PATIENCE;

#[tokio::test]
async fn odd_messages_of_others_reach_a_python_worker_beside_ours() {
    for python in Python::ALL {
        let redis = RedisServer::start();
        let url = redis.url();
        let env = [
            ("CELERY_BROKER_URL", url.as_str()),
            ("CELERY_RESULT_BACKEND", &url),
            ("REDIS_URL", &url),
        ];
        let ours = ["one@test", "other@test"].map(|name| {
            let worker = Process::builder(bin("test-worker"))
                .args(["-n", name, "-Q", "odd", "-c", "4"])
                .envs(env)
                .spawn();
            worker.wait_for_line("connected", PATIENCE);
            worker
        });
        // Ours have looked at everything when it comes.
        let script = python.start("odd_messages.py", &[], &env);
        let args = [
            "-A",
            "canvas_app",
            "worker",
            "-Q",
            "odd",
            "--pool",
            "solo",
            "-l",
            "info",
        ];
        let mut client = redis.connection().await;
        tradebot_test_support::eventually("all messages", PATIENCE, async || {
            let waiting: u64 = cmd("LLEN")
                .arg("odd")
                .query_async(&mut client.clone())
                .await
                .ok()?;
            (waiting == 24).then_some(())
        })
        .await;
        let theirs = python.celery(
            &[&args[..], &["--without-mingle", "--without-gossip"]].concat(),
            &env,
        );
        theirs.wait_for_line(" ready.", PATIENCE);
        assert!(
            script.wait_exit(PATIENCE * 2).success(),
            "{}{}",
            script.stderr(),
            theirs.output()
        );
        let seen = python.last_line("odd_messages.py", &script);
        let seen = seen.as_object().expect("cases");
        assert_eq!(seen.len(), 24);
        for (case, pair) in seen {
            assert_eq!(pair[0], pair[1], "{case} with {}", python.name());
        }
        let parked: u64 = cmd("LLEN")
            .arg(Keys::default().parked())
            .query_async(&mut client)
            .await
            .expect("a number");
        assert_eq!(parked, 0);
        assert!(ours.iter().all(Process::is_running));
    }
}
