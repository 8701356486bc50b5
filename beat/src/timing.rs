//! The clock that decides which slots are due, and what happens when a machine's clock is set or wrong.
//!
//! Waits use the monotonic timer; the wall clock only says which slots have passed. If the two move apart, the wall clock
//! was set or the machine slept. If a follower's wall clock differs from the leader's by more than [`AGREED`], it follows
//! the leader's: otherwise its slots could come an hour early. Both compare their clocks with the Redis server's, which
//! serves for nothing else.

use std::time::Duration;

use tokio::time::Instant;
use tradebot_base::clock::SharedClock;

use crate::slots::Micros;

/// A smaller difference between wall clock and timer is no set clock: a virtual machine that stalls shows it, too.
const STEADY: Micros = 500_000;
/// How far two machines' clocks may differ before a follower corrects its own.
const AGREED: Micros = 1_000_000;
/// An answer that takes longer is not used to compare clocks.
const PROMPT: Micros = 600_000;

/// The clock of one beat.
#[derive(Debug)]
pub(crate) struct BeatClock {
    clock: SharedClock,
    /// The wall clock and the timer as last read.
    wall: Micros,
    steady: Instant,
    /// How far the wall clock is ahead of the server's, once known.
    ahead: Option<Micros>,
    /// The difference between the leader's clock and the wall clock, where it matters.
    correction: Micros,
}

impl BeatClock {
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self {
            wall: clock.now().timestamp_micros(),
            steady: Instant::now(),
            clock,
            ahead: None,
            correction: 0,
        }
    }

    /// The time that decides what is due. It runs on the timer since the last [`jump`](Self::jump), so that a clock that
    /// is set in between takes effect only when it is noticed.
    pub(crate) fn now(&self) -> Micros {
        self.wall + micros(self.steady.elapsed()) + self.correction
    }

    /// This machine's wall clock.
    pub(crate) fn wall(&self) -> Micros {
        self.clock.now().timestamp_micros()
    }

    /// How far this machine's clock is ahead of the server's, once known.
    pub(crate) fn ahead(&self) -> Option<Micros> {
        self.ahead
    }

    /// How far the wall clock was set since the last call, if it was.
    pub(crate) fn jump(&mut self) -> Option<Micros> {
        let (wall, steady) = (self.wall(), Instant::now());
        let passed = micros(steady - self.steady);
        let by = wall - self.wall - passed;
        (self.wall, self.steady) = (wall, steady);
        if by.abs() < STEADY {
            return None;
        }
        self.ahead = self.ahead.map(|ahead| ahead + by);
        Some(by)
    }

    /// Compares the wall clock with the server's time, which just arrived in answer to a question sent at `asked_at`.
    pub(crate) fn compare(&mut self, asked_at: Micros, server_time: Micros) {
        let took = self.wall() - asked_at;
        if (0..PROMPT).contains(&took) {
            self.ahead = Some(asked_at + took / 2 - server_time);
        }
    }

    /// Follows the leader's clock, or this machine's with `None`. Returns how far that moves the time.
    pub(crate) fn follow(&mut self, leader_ahead: Option<Micros>) -> Option<Micros> {
        let correction = match leader_ahead.zip(self.ahead) {
            Some((leader, own)) if (leader - own).abs() > AGREED => leader - own,
            _ => 0,
        };
        let by = correction - self.correction;
        if by.abs() < STEADY {
            return None;
        }
        self.correction = correction;
        Some(by)
    }
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use chrono::{DateTime, TimeDelta};
    use tradebot_base::clock::ManualClock;

    use super::*;

    fn clock() -> (Arc<ManualClock>, BeatClock) {
        let manual = Arc::new(ManualClock::at(
            DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
        ));
        let clock = BeatClock::new(Arc::clone(&manual) as SharedClock);
        (manual, clock)
    }

    #[tokio::test(start_paused = true)]
    async fn a_set_clock_is_not_mistaken_for_passing_time() {
        let (manual, mut clock) = clock();
        tokio::time::advance(Duration::from_secs(100)).await;
        manual.advance(TimeDelta::milliseconds(99_700));
        assert_eq!(clock.jump(), None);
        manual.advance(TimeDelta::hours(-1));
        assert_eq!(clock.jump(), Some(-3_600_000_000));
        assert_eq!(clock.jump(), None, "reported once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_uses_the_leaders_clock_if_its_own_differs() {
        let (manual, mut clock) = clock();
        let start = clock.now();
        let hour = 3_600_000_000;
        assert_eq!(clock.follow(Some(hour)), None, "nothing to compare with yet");
        clock.compare(start, start - 5);
        assert_eq!(clock.ahead(), Some(5));
        assert_eq!(
            clock.follow(Some(900_000)),
            None,
            "small differences do not matter"
        );
        assert_eq!(clock.follow(Some(hour + 5)), Some(hour));
        assert_eq!((clock.now(), clock.wall()), (start + hour, start));
        assert_eq!(clock.follow(Some(hour + 6)), None);
        // As leader it uses its own clock.
        assert_eq!(clock.follow(None), Some(-hour));
        // A late answer is not used.
        manual.advance(TimeDelta::seconds(4));
        clock.compare(start, start);
        assert_eq!(clock.ahead(), Some(5));
        manual.advance(TimeDelta::hours(1));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(clock.jump(), Some(hour));
        assert_eq!(clock.ahead(), Some(hour + 5), "known without asking");
    }
}
