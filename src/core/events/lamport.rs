//! The logical clock that events and remote control carry, so that their receivers can order them.
//!
//! Lamport's clock as kombu has it (`kombu.clocks.LamportClock`): every message sent moves it forward,
//! every message received moves it past the sender's.

use std::sync::atomic::{AtomicU64, Ordering};

/// One node's logical clock; starts at zero.
#[derive(Debug, Default)]
pub struct LamportClock(AtomicU64);

impl LamportClock {
    /// The present value.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Moves the clock forward for a message about to be sent, and returns its value.
    pub fn forward(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Moves the clock past the value in a received message, and returns the new value.
    pub fn adjust(&self, other: u64) -> u64 {
        let past = |value: u64| value.max(other).saturating_add(1);
        let moved = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |value| Some(past(value)));
        // The closure always gives a value, so both arms hold the one before.
        past(moved.unwrap_or_else(|before| before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_goes_back() {
        let clock = LamportClock::default();
        assert_eq!(clock.forward(), 1);
        assert_eq!(clock.adjust(10), 11);
        assert_eq!(clock.adjust(3), 12);
        assert_eq!(clock.forward(), 13);
        assert_eq!(clock.value(), 13);
    }
}
