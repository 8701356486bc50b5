//! Waits for a condition outside the test.

use std::time::Duration;

use tokio::time;

const POLL: Duration = Duration::from_millis(20);

/// Polls `check` every 20 ms until it returns a value.
///
/// `patience` also limits a `check` that hangs; `TEST_PATIENCE` stretches it (see [`stretched`]).
///
/// # Panics
/// With `what` in the message, when `patience` runs out.
pub async fn eventually<T>(what: &str, patience: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let patience = stretched(patience);
    let polling = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            time::sleep(POLL).await;
        }
    };
    match time::timeout(patience, polling).await {
        Ok(found) => found,
        Err(_) => panic!("no {what} within {patience:?}"),
    }
}

/// `patience` times the factor in the environment variable `TEST_PATIENCE` (1 without it).
///
/// # Panics
/// When the variable is not a number above zero.
#[must_use]
pub fn stretched(patience: Duration) -> Duration {
    match std::env::var("TEST_PATIENCE") {
        Ok(text) => match text.parse::<f64>() {
            Ok(factor) if factor.is_finite() && factor > 0.0 => patience.mul_f64(factor),
            _ => panic!("TEST_PATIENCE must be a number above zero, not `{text}`"),
        },
        Err(_) => patience,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_what_the_check_finds_at_last() {
        let mut polls = 0;
        let found = eventually("the third poll", Duration::from_secs(10), async || {
            polls += 1;
            (polls == 3).then_some("here")
        })
        .await;
        assert_eq!((found, polls), ("here", 3));
    }

    #[tokio::test]
    async fn names_what_did_not_come_even_when_the_check_hangs() {
        let waiting = tokio::spawn(async {
            eventually("the end of time", Duration::from_millis(50), async || {
                std::future::pending::<Option<()>>().await
            })
            .await;
        });
        let panic = waiting
            .await
            .expect_err("the check never finds anything")
            .into_panic();
        let message = panic.downcast_ref::<String>().expect("a formatted message");
        assert!(message.contains("the end of time"), "{message}");
    }
}
