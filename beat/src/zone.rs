//! A crontab in a time zone: the instants at which it is due, and the rule for the days on which clocks change.
//!
//! The rule:
//! - **Clocks go forward.** A time that does not exist runs as long after the change as it would have come after it on
//!   an unchanged clock: `30 2 * * *` at 03:30, once. Celery does the same.
//! - **Clocks go back, restricted hours** (the hour field leaves hours out). A time that comes twice runs at the first
//!   only: `30 2 * * *` once. Celery does the same.
//! - **Every hour** (the hour field matches all 24). The crontab follows the clock as it shows: both passes of a
//!   repeated hour run, and a missing hour is missing. `30 * * * *` so runs every 60 minutes of real time through both
//!   changes. Celery leaves the repeated hour out, a gap of two hours (celery issue 10107); that is not imitated.
//!
//! No slot is an instant twice: where a shifted time meets a regular one, there is one run.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

use crate::crontab::Crontab;

/// How far ahead a change of clocks is looked for at a time: within it there is at most one.
const WINDOW: TimeDelta = TimeDelta::days(7);
/// No zone has ever moved its clocks by more in one step.
const LARGEST_STEP: TimeDelta = TimeDelta::hours(25);
/// The smallest step between two instants here.
const TICK: TimeDelta = TimeDelta::microseconds(1);

/// The first instant after `after` at which the crontab is due in `zone`.
pub(crate) fn next_after(crontab: &Crontab, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let regular = next_regular(crontab, zone, after)?;
    let shifted = if crontab.is_hourly() {
        None
    } else {
        shifted_after(crontab, zone, after, regular)
    };
    Some(shifted.unwrap_or(regular))
}

/// The next instant at which the local clock shows a matching time, for the first time unless the crontab is hourly.
fn next_regular(crontab: &Crontab, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut from = after;
    let mut offset = offset_at(zone, from);
    loop {
        let due = instant(crontab.next_after(from.naive_utc() + offset)?, offset);
        // The clock may change before that; then nothing is due until it does.
        let change = first_change(zone, from, due, offset);
        match change {
            Some(change) => {
                offset = offset_at(zone, change);
                from = change - TICK;
                // The instant before the change, as if it had the new offset.
                let due = instant(crontab.next_after(from.naive_utc() + offset)?, offset);
                if first_change(zone, change, due, offset).is_none() {
                    if crontab.is_hourly() || !is_second_pass(zone, due) {
                        return Some(due);
                    }
                    from = due;
                } else {
                    from = change;
                }
            }
            None if crontab.is_hourly() || !is_second_pass(zone, due) => return Some(due),
            None => from = due,
        }
    }
}

/// The next instant of a time that a change forward left out, if there is one before the next regular time.
fn shifted_after(
    crontab: &Crontab,
    zone: Tz,
    after: DateTime<Utc>,
    regular: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    // Where the crontab has few days, several changes may come before its next time.
    let mut from = after - LARGEST_STEP;
    loop {
        let change = first_change(zone, from, regular, offset_at(zone, from))?;
        let shifted = shifted_by(crontab, zone, change, after);
        if shifted.is_some_and(|shifted| shifted < regular) {
            return shifted;
        }
        from = change;
    }
}

/// The first shifted instant after `after` of the times that `change` left out.
fn shifted_by(
    crontab: &Crontab,
    zone: Tz,
    change: DateTime<Utc>,
    after: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let old = offset_at(zone, change - TICK);
    let gap = offset_at(zone, change) - old;
    let start = (change - TICK).max(after);
    let due = instant(crontab.next_after(start.naive_utc() + old)?, old);
    (due < change + gap).then_some(due)
}

/// The first instant in `(from, to]` whose offset is not `offset`, which is that of `from`.
fn first_change(
    zone: Tz,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    offset: TimeDelta,
) -> Option<DateTime<Utc>> {
    let mut same = from;
    let mut other = loop {
        let end = (same + WINDOW).min(to);
        if offset_at(zone, end) != offset {
            break end;
        }
        if end == to {
            return None;
        }
        same = end;
    };
    while other - same > TICK {
        let middle = same + (other - same) / 2;
        if offset_at(zone, middle) == offset {
            same = middle;
        } else {
            other = middle;
        }
    }
    Some(other)
}

fn is_second_pass(zone: Tz, due: DateTime<Utc>) -> bool {
    let local = due.with_timezone(&zone).naive_local();
    matches!(zone.from_local_datetime(&local), LocalResult::Ambiguous(first, _) if first < due)
}

fn offset_at(zone: Tz, time: DateTime<Utc>) -> TimeDelta {
    if zone == Tz::UTC {
        return TimeDelta::zero();
    }
    TimeDelta::seconds(
        zone.offset_from_utc_datetime(&time.naive_utc())
            .fix()
            .local_minus_utc()
            .into(),
    )
}

fn instant(local: NaiveDateTime, offset: TimeDelta) -> DateTime<Utc> {
    (local - offset).and_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All instants of a day's plan, in UTC, from `from` on.
    fn due(line: &str, zone: Tz, from: &str, count: usize) -> Vec<String> {
        let crontab = Crontab::from_line(line).unwrap();
        let mut after = from.parse::<DateTime<Utc>>().unwrap() - TICK;
        let mut found = Vec::new();
        while found.len() < count {
            after = next_after(&crontab, zone, after).unwrap();
            found.push(after.format("%d %H:%M").to_string());
        }
        found
    }

    const PARIS: Tz = Tz::Europe__Paris;
    const NEW_YORK: Tz = Tz::America__New_York;
    const LORD_HOWE: Tz = Tz::Australia__Lord_Howe;

    /// Crontab, zone, an instant, and the instants from there on.
    type Case = (&'static str, Tz, &'static str, &'static [&'static str]);

    fn check(cases: &[Case]) {
        for (line, zone, from, expected) in cases {
            assert_eq!(
                due(line, *zone, from, expected.len()),
                *expected,
                "{line} in {zone} from {from}"
            );
        }
    }

    #[test]
    fn clocks_that_go_forward_shift_the_times_that_do_not_exist() {
        // Paris: 29 March 2026, 01:00 UTC, 02:00 becomes 03:00. New York: 8 March 2026, 07:00 UTC. Lord Howe moves by
        // half an hour: 4 October 2026, 15:30 UTC the day before, 02:00 becomes 02:30.
        check(&[
            (
                "30 2 * * *",
                PARIS,
                "2026-03-28T00:00:00Z",
                &["28 01:30", "29 01:30", "30 00:30"],
            ),
            (
                "*/20 2 * * *",
                PARIS,
                "2026-03-29T00:00:00Z",
                &["29 01:00", "29 01:20", "29 01:40", "30 00:00"],
            ),
            // Other changes come first: the clocks go back in October.
            (
                "30 2 29 3 *",
                PARIS,
                "2025-06-01T00:00:00Z",
                &["29 01:30", "29 00:30"],
            ),
            (
                "0 2 31 3 0",
                PARIS,
                "2029-06-15T00:00:00Z",
                &["31 01:00", "31 01:00"],
            ),
            (
                "30 2,3 * * *",
                PARIS,
                "2026-03-29T00:00:00Z",
                &["29 01:30", "30 00:30"],
            ),
            (
                "45 2-3 * * *",
                PARIS,
                "2026-03-29T01:20:00Z",
                &["29 01:45", "30 00:45"],
            ),
            (
                "30 * * * *",
                PARIS,
                "2026-03-29T00:00:00Z",
                &["29 00:30", "29 01:30", "29 02:30", "29 03:30"],
            ),
            (
                "30 2 * * *",
                NEW_YORK,
                "2026-03-07T00:00:00Z",
                &["07 07:30", "08 07:30", "09 06:30"],
            ),
            (
                "15 2 * * *",
                LORD_HOWE,
                "2026-10-03T00:00:00Z",
                &["03 15:45", "04 15:15"],
            ),
            (
                "0 * * * *",
                LORD_HOWE,
                "2026-10-03T14:00:00Z",
                &["03 14:30", "03 16:00", "03 17:00"],
            ),
        ]);
    }

    #[test]
    fn clocks_that_go_back_repeat_only_what_runs_every_hour() {
        // Paris: 25 October 2026, 01:00 UTC, 03:00 becomes 02:00. New York: 1 November 2026, 06:00 UTC. Lord Howe: 5
        // April 2026, 15:00 UTC the day before, 02:00 becomes 01:30.
        check(&[
            (
                "30 2 * * *",
                PARIS,
                "2026-10-24T00:00:00Z",
                &["24 00:30", "25 00:30", "26 01:30"],
            ),
            (
                "30 1-3 * * *",
                PARIS,
                "2026-10-24T23:00:00Z",
                &["24 23:30", "25 00:30", "25 02:30", "26 00:30"],
            ),
            (
                "30 * * * *",
                PARIS,
                "2026-10-24T23:00:00Z",
                &["24 23:30", "25 00:30", "25 01:30", "25 02:30"],
            ),
            (
                "*/30 * 25 10 *",
                PARIS,
                "2026-10-25T00:00:00Z",
                &["25 00:00", "25 00:30", "25 01:00", "25 01:30", "25 02:00"],
            ),
            (
                "0 1 * * *",
                NEW_YORK,
                "2026-10-31T00:00:00Z",
                &["31 05:00", "01 05:00", "02 06:00"],
            ),
            (
                "0 * * * *",
                NEW_YORK,
                "2026-11-01T04:30:00Z",
                &["01 05:00", "01 06:00", "01 07:00"],
            ),
            (
                "45 1 * * *",
                LORD_HOWE,
                "2026-04-04T00:00:00Z",
                &["04 14:45", "05 15:15"],
            ),
            (
                "*/15 * * * *",
                LORD_HOWE,
                "2026-04-04T14:30:00Z",
                &["04 14:30", "04 14:45", "04 15:00", "04 15:15", "04 15:30"],
            ),
        ]);
    }

    #[test]
    fn a_day_that_a_zone_left_out_shifts_as_well_and_long_waits_end() {
        // Samoa had no 30 December 2011: its 09:00 is that of the 31st, which runs once.
        let zone = Tz::Pacific__Apia;
        assert_eq!(
            due("0 9 30,31 12 *", zone, "2011-12-30T00:00:00Z", 2),
            ["30 19:00", "29 19:00"]
        );
        let crontab = Crontab::from_line("0 9 29 2 *").unwrap();
        let start = "2026-11-23T00:00:00Z".parse().unwrap();
        let next = next_after(&crontab, Tz::Europe__Istanbul, start).unwrap();
        assert_eq!(next.to_rfc3339(), "2028-02-29T06:00:00+00:00");
    }

    proptest::proptest! {
        #[test]
        fn the_next_instant_is_later_and_none_lies_between(
            minute in "[0-5]?[0-9]|\\*/(7|15|20)", hour in "\\*|[01]?[0-9]|1-3|\\*/5",
            start in 1_700_000_000_i64..1_900_000_000, part in 0.0..1.0_f64,
            zone in proptest::sample::select(vec![Tz::UTC, Tz::Europe__Paris, Tz::America__New_York, Tz::Australia__Lord_Howe, Tz::Africa__Casablanca]),
        ) {
            let crontab = Crontab::from_line(&format!("{minute} {hour} * * *")).unwrap();
            let start = DateTime::from_timestamp(start, 0).unwrap();
            let next = next_after(&crontab, zone, start).unwrap();
            proptest::prop_assert!(next > start);
            #[expect(clippy::cast_possible_truncation, reason = "a number of microseconds within a few days")]
            let between = start + TimeDelta::microseconds(((next - TICK - start).num_microseconds().unwrap() as f64 * part) as i64);
            proptest::prop_assert_eq!(next_after(&crontab, zone, between).unwrap(), next);
        }
    }
}
