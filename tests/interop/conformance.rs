//! Celery's own integration suite, in short, on the Rust worker. `make conformance` runs it whole, for several releases, and
//! on a queue that a Python worker serves as well.

use std::path::Path;
use std::time::Duration;

use tradebot_test_support::{Python, bin};

/// The short form takes less than three minutes on an idle machine.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn the_short_form_of_celerys_suite_passes() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = repository.join("tests/conformance/run.py");
    let worker = bin("test-worker");
    let (run, worker) = (run.to_string_lossy(), worker.to_string_lossy());
    let run = Python::CONFORMANCE.start(&run, &["--release", "5.7.0", "--short", "--worker", &worker], &[]);
    let status = run.wait_exit(LIMIT);
    let output = run.output();
    assert!(status.success(), "{output}");
    let passed: usize = output
        .lines()
        .filter_map(|line| {
            line.strip_prefix("conformance: ")?
                .split_once(" passed")?
                .0
                .rsplit(' ')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .sum();
    assert!(passed >= 50, "only {passed} tests passed:\n{output}");
}
