//! Reminders in the log while outcomes cannot be stored.
//!
//! Each of them keeps a slot, so a result backend that stays unreachable stops the worker in the end.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When the first reminder is due; each waits twice as long as the one before.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);

/// All hold-ups of one worker: there is one reminder for all of them.
#[derive(Debug, Default)]
pub(super) struct HoldUps(Mutex<Reminder>);

#[derive(Debug, Default)]
struct Reminder {
    waiting: usize,
    since: Option<Instant>,
    interval: Duration,
    next: Option<Instant>,
}

/// One outcome that waits to be stored.
#[derive(Debug)]
pub(super) struct HeldUp<'a>(&'a HoldUps);

impl HoldUps {
    /// Notes an outcome that could not be stored at once.
    pub(super) fn begin(&self) -> HeldUp<'_> {
        self.with(|state| {
            if state.waiting == 0 {
                let now = Instant::now();
                *state = Reminder {
                    waiting: 0,
                    since: Some(now),
                    interval: FIRST,
                    next: Some(now + FIRST),
                };
            }
            state.waiting += 1;
        });
        HeldUp(self)
    }

    fn with<T>(&self, act: impl FnOnce(&mut Reminder) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl HeldUp<'_> {
    /// How many outcomes wait and for how many seconds, if a reminder is due.
    pub(super) fn reminder(&self) -> Option<(usize, u64)> {
        self.0.with(|state| {
            let now = Instant::now();
            if state.next.is_none_or(|next| now < next) {
                return None;
            }
            state.interval = (state.interval * 2).min(LONGEST);
            state.next = Some(now + state.interval);
            let since = state.since.unwrap_or(now);
            Some((state.waiting, now.duration_since(since).as_secs()))
        })
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.waiting -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reminder_comes_once_for_all_and_less_and_less_often() {
        let hold_ups = HoldUps::default();
        let (one, other) = (hold_ups.begin(), hold_ups.begin());
        assert_eq!(one.reminder(), None);
        let pass = |time: Duration| {
            hold_ups.with(|state| {
                state.since = state.since.map(|since| since - time);
                state.next = state.next.map(|next| next - time);
            });
        };
        let first = Duration::from_secs(10);
        pass(first);
        assert_eq!(one.reminder(), Some((2, 10)));
        assert_eq!(other.reminder(), None, "one of them has said it");
        pass(first);
        assert_eq!(other.reminder(), None);
        pass(first);
        drop(one);
        assert_eq!(other.reminder(), Some((1, 30)));
        for minutes in [5, 5, 5, 5] {
            pass(Duration::from_secs(60 * minutes));
            assert!(other.reminder().is_some(), "at least every five minutes");
        }
        drop(other);
        assert_eq!(hold_ups.begin().reminder(), None, "the next trouble begins anew");
    }
}
