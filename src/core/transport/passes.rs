//! What one consumer has seen of the lists it serves, and how much of the server's time it may take to see more.
//!
//! A list full of other workers' messages is looked through once. After that, each look reads a few elements at both ends
//! and what was pushed since (see `scripts/claim.lua`). Pauses between looks are in proportion to what a look costs, and so
//! are pauses between the windows of a slow pass: the first one through a very long list, or a check of a known one.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Up to this depth, the first pass through a list does not pause, and its messages are served strictly in order.
pub(super) const DEPTH: usize = 20_000;
/// The part of the time that looks take: one in so many. Two workers stay below two hundredths of the server's time.
const LOOKS: u32 = 200;
/// The shortest and the longest pause between two looks.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The part of the time that windows take: of the first pass, of a check while messages of ours wait there, of any other.
const FIRST_PASS: u32 = 200;
const OURS_WAIT: u32 = 10;
const CHECK: u32 = 400;
/// The least pause between two checks of a list.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// What a consumer has seen of its lists.
#[derive(Debug, Default)]
pub struct Passes {
    lists: HashMap<String, Seen>,
    /// What looks took since the last pause.
    spent: Duration,
    /// When the next slow window is due.
    next_window: Option<Instant>,
}

/// What was seen of one list. The script's header explains the first five.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(super) length: i64,
    pub(super) marker: Vec<u8>,
    pub(super) newer: usize,
    pub(super) place: usize,
    pub(super) known: bool,
    /// It changed since the last pass began.
    changed: bool,
    /// Messages of ours were left in it: in the pass under way, and in all.
    left_in_pass: bool,
    left: bool,
    ended: Option<Instant>,
}

/// What one claim saw of one list.
#[derive(Debug, Default)]
pub struct Look {
    /// The list.
    pub list: String,
    /// Its length now; `None` if the claim did not get that far.
    pub length: Option<usize>,
    /// A pass through the list began with this claim.
    pub began: bool,
    /// A pass through the list ended with this claim.
    pub ended: bool,
    /// Foreign tasks that the pass came by, with their numbers.
    pub passed: Vec<(String, usize)>,
    /// Foreign tasks whose messages were pushed since the last claim.
    pub pushed: Vec<(String, usize)>,
    pub(crate) seen: Seen,
    pub(crate) left: usize,
    pub(crate) windowed: bool,
}

impl Seen {
    /// What the script returned of a list; an empty marker stands for the old one.
    pub(super) fn new(length: i64, marker: Vec<u8>, newer: usize, place: usize, known: bool) -> Self {
        Self {
            length,
            marker,
            newer,
            place,
            known,
            ..Self::default()
        }
    }
}

impl Passes {
    /// What was seen of a list.
    pub(super) fn of(&self, list: &str) -> Seen {
        self.lists.get(list).cloned().unwrap_or_default()
    }

    /// Whether a slow window of this list is due.
    pub(super) fn window_is_due(&self, list: &str) -> bool {
        let due = self.lists.get(list).and_then(|seen| self.window_of(seen));
        due.is_some_and(|due| due <= Instant::now())
    }

    /// When the next slow window is due, if one is needed.
    #[must_use]
    pub fn next_window(&self) -> Option<Instant> {
        self.lists.values().filter_map(|seen| self.window_of(seen)).min()
    }

    fn window_of(&self, seen: &Seen) -> Option<Instant> {
        let needed = !seen.known || seen.place > 0 || seen.changed || seen.left;
        let rested = seen.ended.filter(|_| seen.place == 0).map(|at| at + CHECK_PAUSE);
        let due = self.next_window.max(rested).unwrap_or_else(Instant::now);
        needed.then_some(due)
    }

    /// Adopts what a claim saw, which took `cost`. Without it, the next claim reads the same again.
    pub fn adopt(&mut self, looks: &[Look], cost: Duration) {
        let now = Instant::now();
        let served = |list: &String| {
            looks
                .iter()
                .any(|look| look.list == *list && look.length != Some(0))
        };
        self.lists.retain(|list, _| served(list));
        let mut rest = CHECK;
        for look in looks
            .iter()
            .filter(|look| look.length.is_some_and(|length| length > 0))
        {
            let old = self.of(&look.list);
            let mut seen = look.seen.clone();
            let changed = seen.length != old.length || !seen.marker.is_empty() && seen.marker != old.marker;
            if seen.marker.is_empty() {
                seen.marker = old.marker;
            }
            seen.changed = changed || old.changed && !look.began;
            seen.left_in_pass = look.left > 0 || old.left_in_pass && !look.began;
            seen.left = seen.left_in_pass || old.left && !look.ended;
            seen.ended = if look.ended { Some(now) } else { old.ended };
            if seen.left {
                rest = rest.min(OURS_WAIT);
            } else if !seen.known {
                rest = rest.min(FIRST_PASS);
            }
            self.lists.insert(look.list.clone(), seen);
        }
        if looks.iter().any(|look| look.windowed) {
            self.next_window = Some(now + cost * rest);
        } else {
            self.spent += cost;
        }
    }

    /// Whether the next claim finds more without a wait: the first pass or new elements are not finished.
    #[must_use]
    pub fn go_on(&self) -> bool {
        self.lists.values().any(|seen| {
            if seen.known || seen.place >= DEPTH {
                seen.newer > 0
            } else {
                true
            }
        })
    }

    /// Whether all lists were empty.
    #[must_use]
    pub fn all_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Whether messages of ours were left in a list: they fall due there.
    #[must_use]
    pub fn ours_wait(&self) -> bool {
        self.lists.values().any(|seen| seen.left)
    }

    /// How long to wait before the next look; an empty queue needs no pause.
    pub fn pause(&mut self) -> Duration {
        let spent = std::mem::take(&mut self.spent);
        if self.all_empty() {
            return Duration::ZERO;
        }
        (spent * LOOKS).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn look(length: i64, place: usize, known: bool) -> Look {
        Look {
            list: "q".into(),
            length: usize::try_from(length).ok(),
            seen: Seen::new(length, b"marker".to_vec(), 0, place, known),
            ..Look::default()
        }
    }

    #[test]
    fn looks_take_one_part_in_two_hundred_and_pauses_are_bounded() {
        let mut passes = Passes::default();
        assert_eq!(passes.pause(), Duration::ZERO);
        let pause = |passes: &mut Passes, costs: &[Duration]| {
            for cost in costs {
                passes.adopt(&[look(9, 0, true)], *cost);
            }
            passes.pause()
        };
        assert_eq!(pause(&mut passes, &[MS / 2, MS / 2]), 200 * MS);
        assert_eq!(pause(&mut passes, &[MS / 100]), 20 * MS);
        assert_eq!(pause(&mut passes, &[10 * MS]), 250 * MS);
        passes.adopt(&[look(0, 0, false)], MS);
        assert_eq!(passes.pause(), Duration::ZERO, "an empty queue");
    }

    #[test]
    fn windows_are_due_in_proportion_to_what_the_last_one_took() {
        let wait = |look: Look| {
            let mut passes = Passes::default();
            passes.adopt(
                &[Look {
                    windowed: true,
                    ..look
                }],
                10 * MS,
            );
            let due = passes.next_window().expect("a window is needed");
            due.saturating_duration_since(Instant::now()).as_secs_f64()
        };
        let first_pass = wait(look(1_000_000, 30_000, false));
        assert!((1.5..=2.0).contains(&first_pass), "{first_pass} s");
        let check = wait(look(1_000_000, 512, true));
        assert!((3.0..=4.0).contains(&check), "{check} s");
        let ours_wait = wait(Look {
            left: 1,
            ..look(1_000_000, 512, true)
        });
        assert!((0.05..=0.1).contains(&ours_wait), "{ours_wait} s");
    }

    #[test]
    fn a_list_that_does_not_change_is_not_checked_again() {
        let mut passes = Passes::default();
        let ended = |began: bool| Look {
            began,
            ended: true,
            ..look(9, 0, true)
        };
        passes.adopt(&[ended(true)], MS);
        assert!(passes.next_window().is_some() && !passes.go_on());
        passes.adopt(&[ended(true)], MS);
        assert_eq!(passes.next_window(), None);
        passes.adopt(&[look(10, 0, true)], MS);
        assert!(passes.next_window().is_some(), "it has changed");
    }

    #[test]
    fn a_first_pass_goes_on_at_once_up_to_its_depth() {
        let mut passes = Passes::default();
        passes.adopt(&[look(1_000_000, DEPTH - 1, false)], MS);
        assert!(passes.go_on());
        passes.adopt(&[look(1_000_000, DEPTH, false)], MS);
        assert!(!passes.go_on());
    }
}
