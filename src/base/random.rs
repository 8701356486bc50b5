//! A random source, injected so that a test can repeat its numbers.

use std::sync::{Arc, Mutex, PoisonError};

/// A random source that the parts of one process share.
pub type SharedRandom = Arc<Random>;

/// A random source: seeded by the machine, or by a test.
#[derive(Debug)]
pub struct Random(Mutex<fastrand::Rng>);

impl Random {
    /// A source seeded by the machine.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that draws a seed from the machine"
    )]
    pub fn system() -> SharedRandom {
        Arc::new(Self(Mutex::new(fastrand::Rng::new())))
    }

    /// A source with a fixed seed.
    #[must_use]
    pub fn seeded(seed: u64) -> SharedRandom {
        Arc::new(Self(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A number from 0 up to, but not including, 1.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.with(fastrand::Rng::f64)
    }

    /// A generator for one owner, seeded from this source.
    #[must_use]
    pub fn fork(&self) -> fastrand::Rng {
        self.with(fastrand::Rng::fork)
    }

    fn with<T>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        draw(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers() {
        let draw = |seed| {
            let random = Random::seeded(seed);
            (random.fraction().to_bits(), random.fork().u64(..))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!((0.0..1.0).contains(&Random::system().fraction()));
    }
}
