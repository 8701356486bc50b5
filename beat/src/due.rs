//! The decision: given what was sent last and the time, what is to be sent now, or until when nothing is.
//!
//! Pure, and the same in every beat. What it decides only happens if the record in Redis is still the one it was
//! decided upon, see [`crate::store`].

use std::time::Duration;

use crate::entry::{CatchUp, Entry};
use crate::slots::{Micros, Plan};

/// A message so late is still on time: `skip` sends it, and nothing is counted as caught up.
pub(crate) const ON_TIME: Duration = Duration::from_secs(5);
/// How far the last slot may lie in the future before the clock counts as set back. By less two machines may differ.
pub(crate) const TOLERANCE: Micros = 60_000_000;

/// What Redis keeps of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// The last slot that was sent or passed over.
    pub(crate) last: Micros,
    /// A point of an interval's grid.
    pub(crate) anchor: Micros,
    /// The last slot that was sent.
    pub(crate) sent: Option<Micros>,
    /// How many were sent.
    pub(crate) runs: u64,
}

/// What the record has to be for a slot to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// There is none.
    First,
    /// Its last slot lies before.
    After,
    /// Its last slot is this one: for a clock that was set back behind it.
    Instead(Micros),
}

/// What one beat knows of an entry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct State {
    record: Option<Record>,
    /// With a clock that was set back: where it stood when that was noticed.
    set_back: Option<Micros>,
}

impl State {
    /// Takes over what Redis has; says whether that is news.
    pub(crate) fn adopt(&mut self, record: Option<Record>) -> bool {
        let news = self.record != record;
        if news {
            (self.record, self.set_back) = (record, None);
        }
        news
    }

    pub(crate) fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Whether this is all that is known: this record, and no clock that was set back.
    pub(crate) fn stands_at(&self, record: &Record) -> bool {
        self.set_back.is_none() && self.record.as_ref() == Some(record)
    }
}

/// What to do about an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is never due again.
    Never,
    /// Nothing is due before this.
    Wait(Micros),
    Act(Act),
}

/// Slots to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Act {
    /// For the first of them; the others come after it.
    pub(crate) guard: Guard,
    pub(crate) anchor: Micros,
    /// One message each, in this order.
    pub(crate) slots: Vec<Micros>,
    /// Recorded without a message.
    pub(crate) pass: Option<Micros>,
    /// Slots that get no message.
    pub(crate) missed: u64,
    /// Messages for slots that passed while nothing could be sent.
    pub(crate) caught_up: u64,
}

/// Decides. `jumped` says that the clock has leapt over the slots before `now`: none of them was missed then, and no
/// more than one message makes up for them.
pub(crate) fn decide(entry: &Entry, state: &mut State, now: Micros, jumped: bool) -> Decision {
    let Some(record) = state.record else {
        return first(entry, now);
    };
    let plan = &entry.plan;
    let anchor = record.anchor;
    let mut last = state.set_back.unwrap_or(record.last);
    // That may be so again before anything was sent by the new time.
    if is_set_back(plan, anchor, last, now) {
        state.set_back = Some(now);
        last = now;
    }
    let wait = || match plan.next(anchor, last) {
        Some(next) => Decision::Wait(entry.due(next)),
        None => Decision::Never,
    };
    let due = plan.passed(anchor, last, now).and_then(|(slot, count)| {
        if entry.due(slot) <= now {
            return Some((slot, count));
        }
        // Its jitter has not passed yet; what came before it is due all the same.
        plan.passed(anchor, last, slot - 1)
    });
    let Some((slot, count)) = due else {
        return wait();
    };
    let late = now.saturating_sub(entry.due(slot)).unsigned_abs();
    let on_time = u64::from(Duration::from_micros(late) <= ON_TIME);
    let wanted = match entry.catch_up {
        CatchUp::Skip => on_time,
        CatchUp::One => 1,
        CatchUp::All(limit) if jumped => u64::from(limit > 0),
        CatchUp::All(limit) => count.min(limit as u64),
    };
    let slots = match wanted {
        0 => Vec::new(),
        1 => vec![slot],
        wanted => plan.last_slots(anchor, last, slot, usize::try_from(wanted).unwrap_or(usize::MAX)),
    };
    let sent = slots.len() as u64;
    Decision::Act(Act {
        guard: state
            .set_back
            .map_or(Guard::After, |_| Guard::Instead(record.last)),
        anchor,
        pass: slots.is_empty().then_some(slot),
        missed: count.saturating_sub(sent),
        caught_up: sent.saturating_sub(on_time),
        slots,
    })
}

/// Of an entry that no beat has seen before, an interval is due at once; a crontab is noted, so that from now on its
/// slots can be missed.
fn first(entry: &Entry, now: Micros) -> Decision {
    let at_once = matches!(entry.plan, Plan::Interval(_));
    Decision::Act(Act {
        guard: Guard::First,
        anchor: now,
        slots: if at_once { vec![now] } else { Vec::new() },
        pass: (!at_once).then_some(now),
        missed: 0,
        caught_up: 0,
    })
}

/// Whether the last slot is so far ahead that waiting for it would stop the entry: by more than two machines' clocks
/// differ, and by more than two of its own steps.
fn is_set_back(plan: &Plan, anchor: Micros, last: Micros, now: Micros) -> bool {
    if last <= now.saturating_add(TOLERANCE) {
        return false;
    }
    let Some((next, here)) = plan.next(anchor, last).zip(plan.next(anchor, now)) else {
        return false;
    };
    let step = plan.next(anchor, here).map_or(Micros::MAX, |after| after - here);
    next - now > step.saturating_mul(2)
}

#[cfg(test)]
mod tests;
