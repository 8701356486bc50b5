//! Settlements and results that compete with others of the same task.

use serde_json::json;
use tradebot_core::transport::{End, Push, Stored, StoredResult, Transport};
use tradebot_test_support::eventually;
use tradebot_wire::keys;

use crate::ledger::{Ledger, plain};
use crate::scene::{SOON, Scene, claim_one};

/// A settlement whose answer was lost is sent again, and by then another worker may have run the next try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settlement_that_is_sent_again_brings_no_older_state_back() {
    let scene = Scene::start();
    let (first, second) = (scene.transport(), scene.transport());
    let mut ledger = Ledger::open(&scene, "settled twice");
    let id = ledger.record(0).await;
    let stored = |status: &str| StoredResult {
        key: keys::task_meta("", &id),
        document: format!(r#"{{"status": "{status}"}}"#),
        expires_seconds: 60,
    };
    let names = ["tests.record".to_owned()];
    let tries = async |transport: &Transport| {
        let claim = claim_one(transport, &names).await.expect("a claim");
        claim.claimed.into_iter().next().expect("the message")
    };
    let one = tries(&first).await;
    let next = Push {
        list: one.source.list.clone(),
        end: End::Back,
        message: String::from_utf8(one.raw).expect("a message is text"),
    };
    let settled = first
        .settle(&one.tag, Some(&stored("RETRY")), std::slice::from_ref(&next))
        .await;
    assert!(settled.is_ok_and(|settled| settled.held && settled.stored == Stored::Yes));
    let two = tries(&second).await;
    let settled = second.settle(&two.tag, Some(&stored("FAILURE")), &[]).await;
    assert!(settled.is_ok_and(|settled| settled.held && settled.stored == Stored::Yes));

    let again = first.settle(&one.tag, Some(&stored("RETRY")), &[next]).await;
    assert!(again.is_ok_and(|settled| !settled.held));
    assert_eq!(ledger.result(&id).await.expect("a result")["status"], "FAILURE");
    assert!(ledger.kept().await.is_empty(), "the next try was published once");
    println!("settled twice: sent 1 executed 1 duplicated 0 lost 0 parked 0");
}

/// There the result is stored by itself, before the message is settled, and shows each step all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_on_its_way_shows_in_results_that_are_stored_elsewhere() {
    let scene = Scene::start().with_results_in(15);
    let mut ledger = Ledger::open(&scene, "retries elsewhere");
    let id = ledger.send(plain("tests.retry", json!([10]))).await;
    let worker = scene.worker("w", 1);
    let mut seen = Vec::new();
    eventually("a success", SOON, async || {
        let status = ledger.result(&id).await?["status"].as_str()?.to_owned();
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        seen.last()
            .is_some_and(|status| status == "SUCCESS")
            .then_some(())
    })
    .await;
    assert_eq!(seen, ["RETRY", "SUCCESS"]);
    ledger.close("retries, results elsewhere", SOON).await;
    assert!(worker.stop().await.success());
}
