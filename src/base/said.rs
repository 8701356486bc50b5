//! What the log has said already.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many things are remembered; further ones count as said.
const MOST: usize = 1_000;

/// Remembers what was said, for warnings that would otherwise repeat for as long as their cause lasts.
#[derive(Debug, Default)]
pub struct Said(Mutex<BTreeSet<String>>);

impl Said {
    /// Nothing was said.
    #[must_use]
    pub const fn nothing() -> Self {
        Self(Mutex::new(BTreeSet::new()))
    }

    /// Whether this is the first time for `what`.
    pub fn first(&self, what: &str) -> bool {
        // Locked for one insertion, never across an await.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.len() < MOST && !said.contains(what) && said.insert(what.to_owned())
    }
}

/// How often an error that repeats is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// An error that repeats for as long as its cause lasts: reported at once, then once a minute with the number of times.
#[derive(Debug, Default)]
pub struct Repeated {
    unreported: u64,
    reported: Option<Instant>,
}

impl Repeated {
    /// Counts an error. Returns how many to report, if it is time to.
    pub fn report(&mut self, now: Instant) -> Option<u64> {
        self.unreported += 1;
        let is_due = self
            .reported
            .is_none_or(|reported| now.duration_since(reported) >= REPORT_INTERVAL);
        is_due.then(|| {
            self.reported = Some(now);
            std::mem::take(&mut self.unreported)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_repeats_is_reported_at_once_and_then_once_a_minute() {
        let (mut errors, start) = (Repeated::default(), Instant::now());
        let reports: Vec<_> = (0..=240)
            .map(|quarters| start + Duration::from_millis(250) * quarters)
            .filter_map(|now| errors.report(now))
            .collect();
        assert_eq!(reports, [1, 240]);
    }

    #[test]
    fn everything_is_said_once_and_the_memory_is_bounded() {
        let said = Said::nothing();
        assert_eq!(["a", "b", "a"].map(|what| said.first(what)), [true, true, false]);
        let first = (0..2 * MOST).filter(|n| said.first(&n.to_string())).count();
        assert_eq!(first, MOST - 2);
    }
}
