//! When an entry is due: its slots, each an instant in microseconds since 1970.
//!
//! Each slot is sent once. The slots of an interval lie on a grid that starts when any beat first sees the entry; Redis
//! keeps that anchor. The slots of a crontab are the minutes that match it.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::crontab::Crontab;
use crate::zone;

/// An instant in microseconds since 1970.
pub(crate) type Micros = i64;

/// How many missed slots of a crontab are counted at most.
pub(crate) const COUNTED: u64 = 10_000;

/// When an entry is due.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plan {
    /// One slot every so many microseconds.
    Interval(Micros),
    /// One slot at each minute that matches, in a zone.
    Crontab(Box<Crontab>, Tz),
}

impl Plan {
    /// An interval; at least a millisecond.
    pub(crate) fn every(interval: Duration) -> Self {
        let micros = Micros::try_from(interval.as_micros()).unwrap_or(Micros::MAX);
        Self::Interval(micros.max(1000))
    }

    /// The first slot after `after`; `anchor` is a point on an interval's grid.
    pub(crate) fn next(&self, anchor: Micros, after: Micros) -> Option<Micros> {
        match self {
            Self::Interval(every) => {
                let slot = (after - anchor).div_euclid(*every) + 1;
                anchor.checked_add(slot.checked_mul(*every)?)
            }
            Self::Crontab(crontab, zone) => {
                zone::next_after(crontab, *zone, time(after)).map(|due| due.timestamp_micros())
            }
        }
    }

    /// The last slot in `(after, now]`, and how many there are; `None` if there are none. The count of a crontab's slots
    /// stops at [`COUNTED`].
    pub(crate) fn passed(&self, anchor: Micros, after: Micros, now: Micros) -> Option<(Micros, u64)> {
        let first = self.next(anchor, after).filter(|first| *first <= now)?;
        if let Self::Interval(every) = self {
            let more = (now - first) / every;
            return Some((first + more * every, u64::try_from(more).unwrap_or(0) + 1));
        }
        let (mut last, mut count) = (first, 1);
        while let Some(next) = self.next(anchor, last).filter(|next| *next <= now) {
            if count >= COUNTED {
                return Some((self.last_before(anchor, now).unwrap_or(next), count));
            }
            (last, count) = (next, count + 1);
        }
        Some((last, count))
    }

    /// The last slot at or before `now`; searches from further and further back.
    fn last_before(&self, anchor: Micros, now: Micros) -> Option<Micros> {
        let mut back: Micros = 60_000_000;
        while let Some(start) = now.checked_sub(back).filter(|start| *start > 0) {
            let mut found = self.next(anchor, start).filter(|slot| *slot <= now);
            while let Some(next) = found
                .and_then(|slot| self.next(anchor, slot))
                .filter(|next| *next <= now)
            {
                found = Some(next);
            }
            if found.is_some() {
                return found;
            }
            back = back.checked_mul(2)?;
        }
        None
    }

    /// Up to `count` slots in `(after, last]`, the latest ones, in order.
    pub(crate) fn last_slots(
        &self,
        anchor: Micros,
        after: Micros,
        last: Micros,
        count: usize,
    ) -> Vec<Micros> {
        if let Self::Interval(every) = self {
            let wanted = Micros::try_from(count)
                .unwrap_or(Micros::MAX)
                .min((last - after) / every + 1);
            let first = last - (wanted - 1) * every;
            return (0..wanted)
                .map(|n| first + n * every)
                .filter(|slot| *slot > after)
                .collect();
        }
        let mut slots = std::collections::VecDeque::new();
        let mut at = after;
        while let Some(next) = self.next(anchor, at).filter(|next| *next <= last) {
            if slots.len() == count {
                slots.pop_front();
            }
            slots.push_back(next);
            at = next;
        }
        slots.into()
    }

    /// The time from a slot to the next one.
    pub(crate) fn gap(&self, anchor: Micros, slot: Micros) -> Option<Duration> {
        let next = self.next(anchor, slot)?;
        u64::try_from(next - slot).ok().map(Duration::from_micros)
    }
}

/// `every 300 s`, or the crontab and its zone.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interval(every) => {
                let every = Duration::from_micros(every.unsigned_abs());
                write!(f, "every {} s", every.as_secs_f64())
            }
            Self::Crontab(crontab, zone) => write!(f, "{crontab} {zone}"),
        }
    }
}

/// The instant as a time; the latest possible time if it is out of range.
pub(crate) fn time(micros: Micros) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Micros = 1_000_000;

    #[test]
    fn slots_of_an_interval_stay_on_the_grid_after_any_delay() {
        let plan = Plan::every(Duration::from_secs(300));
        let anchor = 1_000 * SECOND + 7;
        let next = |after: Micros| (plan.next(anchor, anchor + after).unwrap() - anchor) / SECOND;
        assert_eq!(
            [0, 1, 299_999_999, 300 * SECOND, 1_000 * SECOND].map(next),
            [300, 300, 300, 600, 1200]
        );
        assert_eq!(next(-1), 0);
        assert_eq!(plan.passed(anchor, anchor, anchor + 299 * SECOND), None);
        assert_eq!(
            plan.passed(anchor, anchor, anchor + 1000 * SECOND),
            Some((anchor + 900 * SECOND, 3))
        );
        let last = anchor + 900 * SECOND;
        assert_eq!(
            plan.last_slots(anchor, anchor, last, 2),
            [last - 300 * SECOND, last]
        );
        assert_eq!(plan.last_slots(anchor, anchor, last, 9).len(), 3);
    }

    #[test]
    fn the_count_of_a_crontabs_slots_is_bounded_and_the_last_slot_exact() {
        let crontab = Crontab::from_line("* * * * *").unwrap();
        let plan = Plan::Crontab(Box::new(crontab), Tz::UTC);
        let now = 1_800_000_000 * SECOND + 5;
        let year = 365 * 86_400 * SECOND;
        let (last, count) = plan.passed(0, now - year, now).unwrap();
        assert_eq!((last, count), (1_800_000_000 * SECOND, COUNTED));
        let hour_ago = now - 3600 * SECOND;
        assert_eq!(plan.passed(0, hour_ago, now), Some((last, 60)));
        assert_eq!(plan.last_slots(0, hour_ago, last, 2), [last - 60 * SECOND, last]);
        assert_eq!(plan.gap(0, last), Some(Duration::from_secs(60)));
    }

    #[test]
    fn the_last_slot_of_a_rare_crontab_is_found_years_back() {
        let crontab = Crontab::from_line("0 0 29 2 *").unwrap();
        let plan = Plan::Crontab(Box::new(crontab), Tz::UTC);
        let now: DateTime<Utc> = "2027-01-01T00:00:00Z".parse().unwrap();
        let last = plan.last_before(0, now.timestamp_micros()).unwrap();
        assert_eq!(time(last).to_rfc3339(), "2024-02-29T00:00:00+00:00");
    }
}
