//! The decision: from the record of an entry and the time, which slots to claim now, or how long to wait.
//!
//! Pure, and the same in every beat. A claim succeeds only if the record in Redis still fits the decision, see
//! [`crate::store`].

use std::time::Duration;

use crate::entry::{CatchUp, ScheduleEntry};
use crate::slots::{Micros, Plan};

/// A message up to this late is on time: `skip` still sends it, and it does not count as caught up.
pub(crate) const ON_TIME: Duration = Duration::from_secs(5);
/// How far ahead the last slot may be before the clock counts as set back: the clocks of two machines may differ by less.
pub(crate) const TOLERANCE: Micros = 60_000_000;

/// What Redis keeps about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotRecord {
    /// The last slot that was sent or passed.
    pub(crate) last: Micros,
    /// A point on an interval's grid.
    pub(crate) anchor: Micros,
    /// The last slot that was sent.
    pub(crate) sent: Option<Micros>,
    /// How many slots were sent.
    pub(crate) runs: u64,
}

/// The condition on the record under which a slot may be claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// There is no record.
    First,
    /// Its last slot is earlier.
    After,
    /// Its last slot is this one, which lies in the future since the clock was set back.
    Instead(Micros),
}

/// What one beat knows about an entry.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    record: Option<SlotRecord>,
    /// The time at which this beat noticed that the clock had been set back.
    set_back: Option<Micros>,
}

impl Progress {
    /// Takes over the record from Redis.
    pub(crate) fn adopt(&mut self, record: Option<SlotRecord>) {
        if self.record != record {
            (self.record, self.set_back) = (record, None);
        }
    }

    pub(crate) fn record(&self) -> Option<&SlotRecord> {
        self.record.as_ref()
    }
}

/// What to do about an entry now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing, ever: the entry has no further slot.
    Never,
    /// Nothing before this time.
    Wait(Micros),
    Act(Act),
}

/// Slots to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Act {
    /// For the first slot; the others come after it.
    pub(crate) guard: Guard,
    pub(crate) anchor: Micros,
    /// Get one message each, in this order.
    pub(crate) slots: Vec<Micros>,
    /// Is recorded without a message.
    pub(crate) pass: Option<Micros>,
    /// How many slots get no message.
    pub(crate) missed: u64,
    /// How many messages are for slots that passed while nothing could be sent.
    pub(crate) caught_up: u64,
}

/// Decides what to do about an entry. After a clock jump the slots before `now` were leapt over rather than missed: at
/// most one message makes up for them.
pub(crate) fn decide(
    entry: &ScheduleEntry,
    progress: &mut Progress,
    now: Micros,
    clock_jumped: bool,
) -> Decision {
    let Some(record) = progress.record else {
        return first(entry, now);
    };
    let plan = &entry.plan;
    let anchor = record.anchor;
    let mut last = progress.set_back.unwrap_or(record.last);
    // The clock may be set back again before anything is sent by the new time.
    if is_set_back(plan, anchor, last, now) {
        progress.set_back = Some(now);
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
        // The last slot's jitter has not passed yet, but earlier slots are due.
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
        CatchUp::All(limit) if clock_jumped => u64::from(limit > 0),
        CatchUp::All(limit) => count.min(limit as u64),
    };
    let slots = match wanted {
        0 => Vec::new(),
        1 => vec![slot],
        wanted => plan.last_slots(anchor, last, slot, usize::try_from(wanted).unwrap_or(usize::MAX)),
    };
    let sent = slots.len() as u64;
    Decision::Act(Act {
        guard: progress
            .set_back
            .map_or(Guard::After, |_| Guard::Instead(record.last)),
        anchor,
        pass: slots.is_empty().then_some(slot),
        missed: count.saturating_sub(sent),
        caught_up: sent.saturating_sub(on_time),
        slots,
    })
}

/// Decides about an entry without a record. An interval is due at once. A crontab only gets its record, so that slots
/// missed from now on can be caught up.
fn first(entry: &ScheduleEntry, now: Micros) -> Decision {
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

/// Whether the last slot is so far ahead that waiting for it would stall the entry: by more than clocks of two machines
/// differ, and by more than two steps of the plan.
fn is_set_back(plan: &Plan, anchor: Micros, last: Micros, now: Micros) -> bool {
    if last <= now.saturating_add(TOLERANCE) {
        return false;
    }
    let Some(here) = plan.next(anchor, now) else {
        return false;
    };
    let Some(next) = plan.next(anchor, last) else {
        // So far ahead that no slot follows.
        return true;
    };
    let step = plan.next(anchor, here).map_or(Micros::MAX, |after| after - here);
    next - now > step.saturating_mul(2)
}

#[cfg(test)]
mod tests;
