//! What `make demo` runs shows what it promises.

use std::time::Duration;

use tradebot_test_support::{Python, bin};

#[test]
fn the_demo_shows_a_result_a_recovery_and_an_outage_that_readers_do_not_notice() {
    let program = bin("tradebot-symbols");
    let programs = program
        .parent()
        .and_then(|folder| folder.to_str())
        .expect("a folder");
    let demo = Python::CELERY_NEWEST.program(".ci/demo", &[programs]);
    let status = demo.wait_exit(Duration::from_secs(300));
    assert!(status.success(), "{}", demo.output());
    let shown = demo.stdout();
    let lines: Vec<&str> = shown.lines().collect();
    for part in [
        "result.get() = 'WARMUP_OK:",
        "symbols: BTCUSDT, ETHUSDT, ",
        "Another worker finds its message and completes it ",
        "readers: all got the list",
        "The status page: http://127.0.0.1:",
    ] {
        assert!(
            lines.iter().any(|line| line.contains(part)),
            "{part}\n{}",
            demo.output()
        );
    }
    assert!(
        lines.len() <= 24 && demo.stderr().is_empty(),
        "one screen: {}",
        demo.output()
    );
}
