//! Messages made before they are due, so that at the slot nothing is left to do but to send them.
//!
//! A thousand messages take longer to make than to send. What is made ahead is used if, once it is due, the decision
//! would be the same; whoever asks later, or after anything has changed, decides and makes anew.

use std::collections::HashMap;

use super::{ROUND, Ticker};
use crate::due::{Act, Decision, Guard, ON_TIME, Record, State, decide};
use crate::entry::Entry;
use crate::slots::Micros;

/// How long before the next slot messages are made.
pub(super) const AHEAD: Micros = 100_000;
/// What is due by so much later is made with them.
const TOGETHER: Micros = 50_000;

/// A slot that will be due, and its message.
#[derive(Debug)]
pub(super) struct Prepared {
    /// What it was decided upon.
    record: Record,
    /// The decision holds in `from..until`.
    from: Micros,
    until: Micros,
    pub(super) act: Act,
    pub(super) id: String,
    pub(super) message: String,
}

impl Prepared {
    /// Of an entry that is due `at`: by what is known now it will send one message then. `wall` is what this machine's
    /// clock will show.
    fn new(entry: &Entry, state: &State, at: Micros, wall: Micros, origin: &str) -> Option<Self> {
        let record = *state.record()?;
        let Decision::Act(act) = decide(entry, &mut state.clone(), at, false) else {
            return None;
        };
        let [slot] = act.slots[..] else {
            return None;
        };
        if act.guard != Guard::After {
            return None;
        }
        let next = entry.plan.next(act.anchor, slot).unwrap_or(Micros::MAX);
        let late = Micros::try_from(ON_TIME.as_micros()).unwrap_or(Micros::MAX);
        let id = entry.task_id(slot);
        Some(Self {
            record,
            from: at,
            until: next.min(entry.due(slot).saturating_add(late)),
            message: entry.message(id.clone(), slot, act.anchor, wall, origin),
            id,
            act,
        })
    }

    /// Whether at `now` the decision would be the same.
    fn holds(&self, state: &State, now: Micros) -> bool {
        state.stands_at(&self.record) && (self.from..self.until).contains(&now)
    }
}

/// The messages that are ready, by entry.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    ready: HashMap<usize, Prepared>,
    /// What is due until then was looked at.
    until: Micros,
}

impl Ahead {
    /// Whether what is due at `next` was not looked at yet.
    pub(super) fn lacks(&self, next: Micros) -> bool {
        next > self.until
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What is ready of an entry, if it still is what would be decided at `now`.
    pub(super) fn take(&mut self, entry: usize, state: &State, now: Micros) -> Option<Prepared> {
        self.ready
            .remove(&entry)
            .filter(|prepared| prepared.holds(state, now))
    }
}

impl Ticker {
    /// Makes the messages of what is due at `next` and shortly after. Ends with that at the latest: what is not made by
    /// then is made when it is sent.
    pub(super) fn prepare(&mut self, next: Micros) {
        self.ahead.ready.clear();
        self.ahead.until = next.saturating_add(TOGETHER);
        let mut coming = Vec::new();
        while coming.len() < ROUND
            && let Some(one) = self.agenda.pop(self.ahead.until)
        {
            coming.push(one);
        }
        for &(at, entry) in &coming {
            let now = self.clock.now();
            if now >= next {
                break;
            }
            let wall = self.clock.wall() + (at - now);
            let (plan, state) = (&self.entries[entry], &self.states[entry]);
            if let Some(prepared) = Prepared::new(plan, state, at, wall, &self.instance.origin) {
                self.ahead.ready.insert(entry, prepared);
            }
        }
        for (at, entry) in coming {
            self.agenda.push(at, entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::crontab::Crontab;
    use crate::entry::CatchUp;
    use crate::slots::Plan;

    const SECOND: Micros = 1_000_000;
    const START: Micros = 1_800_000_000 * SECOND;

    fn state(record: Option<Record>) -> State {
        let mut state = State::default();
        state.adopt(record);
        state
    }

    fn record(last: Micros) -> Record {
        Record {
            last,
            anchor: START,
            sent: None,
            runs: 3,
        }
    }

    /// Any entry, any state, any time: what was prepared is used only where it is what would be decided then.
    #[test]
    fn what_was_made_ahead_is_what_would_be_decided_when_it_is_due() {
        let mut rng = fastrand::Rng::with_seed(7);
        let crontabs = ["* * * * *", "*/2,59 * * * *", "0 3 * * *"];
        let (mut used, mut left) = (0, 0);
        for _ in 0..20_000 {
            let plan = if rng.bool() {
                Plan::every(Duration::from_millis(rng.u64(1..20_000)))
            } else {
                let line = crontabs[rng.usize(0..crontabs.len())];
                Plan::Crontab(Box::new(Crontab::from_line(line).unwrap()), chrono_tz::UTC)
            };
            let mut entry = Entry::new("e", "t", "q", plan);
            entry.jitter = Duration::from_millis([0, 0, 900, 90_000][rng.usize(0..4)]);
            entry.catch_up = [CatchUp::Skip, CatchUp::One, CatchUp::All(3)][rng.usize(0..3)];
            let mut state = state(Some(record(START + rng.i64(0..100 * SECOND))));
            let Decision::Wait(at) = decide(&entry, &mut state, START, false) else {
                continue;
            };
            let Some(prepared) = Prepared::new(&entry, &state, at, at, "o") else {
                continue;
            };
            let now = at + rng.i64(-2..2 * SECOND) * rng.i64(0..10);
            if !prepared.holds(&state, now) {
                left += 1;
                continue;
            }
            used += 1;
            assert_eq!(
                decide(&entry, &mut state, now, false),
                Decision::Act(prepared.act),
                "{entry:?} {state:?} at {at}, now {now}"
            );
        }
        assert!(used > 1000 && left > 1000, "{used} used, {left} left");
    }

    #[test]
    fn nothing_is_sent_that_was_prepared_for_another_record() {
        let entry = Entry::new("e", "t", "q", Plan::every(Duration::from_secs(10)));
        let (before, at) = (state(Some(record(START))), START + 10 * SECOND);
        let prepared = Prepared::new(&entry, &before, at, at, "o").unwrap();
        assert_eq!(prepared.id, entry.task_id(at));
        assert!(prepared.message.contains(&prepared.id));
        assert!(prepared.holds(&before, at) && !prepared.holds(&before, at - 1));
        assert!(!prepared.holds(&before, at + 5 * SECOND + 1), "no longer on time");
        for other in [None, Some(record(START + 1)), Some(record(at))] {
            assert!(!prepared.holds(&state(other), at), "{other:?}");
        }
        assert!(
            Prepared::new(&entry, &state(None), at, at, "o").is_none(),
            "its first slot is named by the time at which it is looked at"
        );
    }
}
