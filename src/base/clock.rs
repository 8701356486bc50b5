//! The wall clock, injected so that a test can set it.
//!
//! It only dates things (`eta`, `date_done`, scores in `unacked_index`). Timers use tokio's monotonic clock.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};

/// A source of the current time.
pub trait Clock: Debug + Send + Sync {
    /// The current UTC time.
    fn now(&self) -> DateTime<Utc>;

    /// The current time as Unix seconds with a fraction, the form kombu scores `unacked_index` with.
    fn unix_seconds(&self) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds since 1970 fit in 53 bits until 2255"
        )]
        let micros = self.now().timestamp_micros() as f64;
        micros / 1e6
    }

    /// The current time as whole Unix seconds.
    fn unix_time(&self) -> i64 {
        self.now().timestamp()
    }
}

/// A clock shared by the parts of one process.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl SystemClock {
    /// The machine's clock, ready to be shared.
    #[must_use]
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock(Mutex<DateTime<Utc>>);

impl ManualClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(Mutex::new(now))
    }

    /// Moves the clock, backwards too.
    pub fn advance(&self, by: TimeDelta) {
        // A poisoned lock still holds a valid time: nothing can panic between lock and store.
        let mut now = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_1970_counts_downwards() {
        let clock = ManualClock::at(DateTime::UNIX_EPOCH - TimeDelta::milliseconds(1500));
        assert_eq!(clock.unix_time(), -2);
    }
}
