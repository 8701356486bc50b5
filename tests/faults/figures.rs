//! The size of a run, and the figures it prints.

use std::fmt;
use std::time::Duration;

use tradebot_test_support::stretched;

/// Whether the long form was asked for (`SOAK=1`, `make soak`).
pub(crate) fn soak() -> bool {
    #[expect(
        clippy::disallowed_methods,
        reason = "a switch of the tests, not configuration"
    )]
    let value = std::env::var("SOAK");
    value.is_ok_and(|value| value == "1")
}

/// `long` in the long form, else `short`.
pub(crate) fn sized<T>(short: T, long: T) -> T {
    if soak() { long } else { short }
}

/// A bound in milliseconds, stretched by `TEST_PATIENCE`.
pub(crate) fn stretched_ms(bound: u64) -> u64 {
    let stretched = stretched(Duration::from_millis(bound));
    u64::try_from(stretched.as_millis()).expect("a bound of minutes")
}

/// Measured milliseconds.
#[derive(Default)]
pub(crate) struct Figures(Vec<u64>);

impl Figures {
    pub(crate) fn add(&mut self, milliseconds: u64) {
        self.0.push(milliseconds);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that so many per cent do not exceed; zero without values.
    pub(crate) fn percentile(&self, percent: usize) -> u64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.get(rank).copied().unwrap_or_default()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} measured, p50 {} ms, p99 {} ms, max {} ms",
            self.count(),
            self.percentile(50),
            self.percentile(99),
            self.percentile(100)
        )
    }
}

#[test]
fn percentiles_are_values_that_were_measured() {
    let mut figures = Figures::default();
    assert_eq!(figures.percentile(99), 0);
    for value in [30, 10, 20, 40] {
        figures.add(value);
    }
    assert_eq!(
        [0, 25, 50, 99, 100].map(|percent| figures.percentile(percent)),
        [10, 10, 20, 40, 40]
    );
}
