//! Randomness that a failed test can repeat.

use std::sync::OnceLock;

static SEED: OnceLock<u64> = OnceLock::new();

/// A random number generator, seeded from `TEST_SEED` or else at random.
///
/// It prints the seed, and the test runner shows what a failed test printed. All generators of a run share one seed,
/// so `TEST_SEED` repeats every draw of a test, though not the timing around it.
///
/// # Panics
/// When `TEST_SEED` is set and is not a whole number.
#[must_use]
pub fn seeded_rng() -> fastrand::Rng {
    let seed = *SEED.get_or_init(|| match std::env::var("TEST_SEED") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("TEST_SEED must be a whole number, not `{text}`")),
        Err(_) => fastrand::u64(..),
    });
    println!("random draws, to repeat them: TEST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generator_draws_the_same_numbers() {
        let draws = || {
            let mut rng = seeded_rng();
            [(); 8].map(|()| rng.u64(..))
        };
        assert_eq!(draws(), draws());
    }
}
