//! The time that slots are named by, and what becomes of it when a clock is set.
//!
//! Waiting is done on the monotonic timer; the wall clock only says which slots have passed. A wall clock that moved
//! otherwise than the monotonic one was set, or the machine slept. Beats on several machines follow the clock of the
//! one that sends, for as long as it does, as soon as theirs differs by more than [`AGREED`]: the slots of one machine
//! cannot come an hour before those of another. What they compare with is the server's clock, which is good enough to
//! agree on, and is used for nothing else.

use std::time::Duration;

use tokio::time::Instant;
use tradebot_base::clock::SharedClock;

use crate::slots::Micros;

/// A difference that is no set clock: a virtual machine that was held up for a moment has it, too.
const STEADY: Micros = 500_000;
/// By so much may two machines' clocks differ without anybody minding.
const AGREED: Micros = 1_000_000;
/// An answer that took longer says nothing about the server's clock.
const PROMPT: Micros = 600_000;

/// The clock of one beat.
#[derive(Debug)]
pub(crate) struct BeatClock {
    clock: SharedClock,
    /// Both clocks as they were last read.
    wall: Micros,
    steady: Instant,
    /// How far the wall clock is ahead of the server's.
    ahead: Option<Micros>,
    /// What is added to the wall clock to have the clock of the beat that sends.
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

    /// The time by which slots are named: that of the last [`jump`](Self::jump) and what has passed since, so that a
    /// clock that is set in between is not followed unnoticed.
    pub(crate) fn now(&self) -> Micros {
        self.wall + micros(self.steady.elapsed()) + self.correction
    }

    /// This machine's time.
    pub(crate) fn wall(&self) -> Micros {
        self.clock.now().timestamp_micros()
    }

    /// How far this machine's clock is ahead of the server's, once that is known.
    pub(crate) fn ahead(&self) -> Option<Micros> {
        self.ahead
    }

    /// By how much the clock was set since the last call, if it was.
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

    /// Takes note of the server's time in an answer to what was asked at `asked`.
    pub(crate) fn compare(&mut self, asked: Micros, server: Micros) {
        let answered = self.wall();
        if (0..PROMPT).contains(&(answered - asked)) {
            self.ahead = Some(asked + (answered - asked) / 2 - server);
        }
    }

    /// Follows the beat that sends; `None` follows this machine's own clock. Says by how much that sets the time.
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
    async fn a_clock_that_was_set_is_told_from_time_that_passed() {
        let (manual, mut clock) = clock();
        tokio::time::advance(Duration::from_secs(100)).await;
        manual.advance(TimeDelta::milliseconds(99_700));
        assert_eq!(clock.jump(), None);
        manual.advance(TimeDelta::hours(-1));
        assert_eq!(clock.jump(), Some(-3_600_000_000));
        assert_eq!(clock.jump(), None, "told once");
    }

    #[tokio::test(start_paused = true)]
    async fn followers_go_by_the_leaders_clock_if_theirs_differs() {
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
        // Once it leads itself, its own clock counts.
        assert_eq!(clock.follow(None), Some(-hour));
        // An answer that came late tells nothing.
        manual.advance(TimeDelta::seconds(4));
        clock.compare(start, start);
        assert_eq!(clock.ahead(), Some(5));
        manual.advance(TimeDelta::hours(1));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(clock.jump(), Some(hour));
        assert_eq!(clock.ahead(), Some(hour + 5), "known without asking");
    }
}
