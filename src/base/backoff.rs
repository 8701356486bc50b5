//! Capped, jittered delays between attempts.
//!
//! [`celery_countdown`] is Celery's series for task retries (`celery.utils.time.get_exponential_backoff_interval`),
//! because Python peers retry the same message. [`Reconnect`] is for our connections.

use std::time::Duration;

/// The delay before the next retry of a task, as Celery computes it.
///
/// It is `min(maximum, factor * 2^retries)` seconds, with `jitter` a random whole number from zero to that value. `retries`
/// counts earlier retries.
#[must_use]
pub fn celery_countdown(
    factor: u32,
    retries: u32,
    maximum: u32,
    jitter: bool,
    rng: &mut fastrand::Rng,
) -> Duration {
    let factor = u64::from(factor.max(1));
    let doubled = 1_u64
        .checked_shl(retries)
        .filter(|_| retries < 63)
        .unwrap_or(u64::MAX);
    let delay = factor.saturating_mul(doubled).min(u64::from(maximum));
    Duration::from_secs(if jitter { rng.u64(0..=delay) } else { delay })
}

/// The delays of a reconnect loop: from 50 ms doubling to 1 s, each multiplied by 0.5 to 1.5.
///
/// With this low cap a worker is back within 2 s of its server, at the cost of one connection attempt per second.
#[derive(Debug)]
pub struct Reconnect {
    attempt: u32,
    rng: fastrand::Rng,
}

impl Reconnect {
    const FIRST_MS: u64 = 50;
    const CAP_MS: u64 = 1000;

    /// A fresh series.
    #[must_use]
    pub fn new(rng: fastrand::Rng) -> Self {
        Self { attempt: 0, rng }
    }

    /// Restarts the series. Call it after the first successful command.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// The number of delays since the last reset.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        let base = (Self::FIRST_MS << self.attempt.min(8)).min(Self::CAP_MS);
        self.attempt = self.attempt.saturating_add(1);
        Duration::from_millis(self.rng.u64(base / 2..=base + base / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_without_jitter_doubles_to_the_cap() {
        let mut rng = fastrand::Rng::with_seed(1);
        let series: Vec<u64> = (0..12)
            .map(|n| celery_countdown(1, n, 600, false, &mut rng).as_secs())
            .collect();
        assert_eq!(series, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
        assert_eq!(
            celery_countdown(1, 4_000_000_000, 600, false, &mut rng).as_secs(),
            600
        );
        assert_eq!(celery_countdown(0, 0, 600, false, &mut rng).as_secs(), 1);
    }

    #[test]
    fn full_jitter_reaches_both_ends_and_never_leaves_them() {
        let mut rng = fastrand::Rng::with_seed(7);
        let drawn: std::collections::BTreeSet<u64> = (0..2000)
            .map(|_| celery_countdown(1, 3, 600, true, &mut rng).as_secs())
            .collect();
        assert_eq!(drawn, (0..=8).collect());
    }

    #[test]
    fn reconnect_waits_are_capped_and_start_again_after_a_reset() {
        let mut waits = Reconnect::new(fastrand::Rng::with_seed(3));
        for _ in 0..50 {
            assert!(waits.next_delay() <= Duration::from_millis(1500));
        }
        waits.reset();
        assert!(waits.next_delay() <= Duration::from_millis(75));
    }
}
