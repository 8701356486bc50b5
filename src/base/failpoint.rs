//! Points at which a test can abort the process, to prove that nothing is lost there.
//!
//! They are active only with the feature `failpoints`, which the test worker enables. `FAILPOINT=NAME` aborts at the first
//! pass of a point, `NAME:n` at the n-th.

/// Aborts the process if `FAILPOINT` names this point.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn pass(_name: &str) {}

/// Aborts the process if `FAILPOINT` names this point.
#[cfg(feature = "failpoints")]
pub fn pass(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static CHOSEN: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let chosen = CHOSEN.get_or_init(|| {
        #[expect(clippy::disallowed_methods, reason = "a switch for tests, not configuration")]
        let value = std::env::var("FAILPOINT").ok()?;
        let (name, passage) = value.split_once(':').unwrap_or((&value, "1"));
        Some((name.to_owned(), passage.parse().unwrap_or(1)))
    });
    if let Some((point, passage)) = chosen
        && point == name
        && PASSED.fetch_add(1, Ordering::Relaxed) + 1 == *passage
    {
        std::process::abort();
    }
}
