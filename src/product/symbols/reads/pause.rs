//! The pause after a failed attempt.

use std::time::Duration;

use crate::product::symbols::cache::LONGEST_PAUSE;

/// The pause after the first failure. It doubles with each further one, up to [`LONGEST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The pause after a failure that followed `earlier` others in a row. `fraction`, from 0 to 1, spreads it by a fifth either
/// way, so that not all processes try again at once.
pub(super) fn pause_after(earlier: u32, fraction: f64) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << earlier.min(8)).min(LONGEST_PAUSE);
    pause.mul_f64(0.8 + 0.4 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_one_second_to_fifteen() {
        let pauses =
            [0, 1, 2, 3, 4, 5, u32::MAX].map(|earlier| pause_after(earlier, 0.5).as_secs_f64().round());
        assert_eq!(pauses, [1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]);
        assert_eq!(pause_after(0, 0.0), Duration::from_millis(800));
        assert_eq!(pause_after(0, 1.0), Duration::from_millis(1200));
    }
}
