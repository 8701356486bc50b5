//! A crontab in a time zone: when it is due, and what happens on the days when clocks change.
//!
//! - **Clocks go forward.** A time that is skipped runs as late as it would by an unchanged clock: `30 2 * * *` at 03:30,
//!   once. Celery does the same.
//! - **Clocks go back, restricted hours** (the hour field leaves hours out). A time that comes twice runs the first time
//!   only. Celery does the same.
//! - **Clocks go back, every hour** (the hour field matches all 24). The crontab follows the clock on the wall: a repeated
//!   hour runs twice, a skipped hour does not run. `30 * * * *` runs every 60 minutes through both changes. Celery skips
//!   the repeated hour, a gap of two hours (celery issue 10107); we do not copy that.
//!
//! Each instant is one slot, even where a skipped time and a regular time fall on the same one.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};

use crate::crontab::Crontab;

/// No zone has ever moved its clocks further in one step.
const LARGEST_STEP: TimeDelta = TimeDelta::hours(25);

/// The first instant after `after` at which the crontab is due in `zone`.
///
/// Walks through local times. Near a change these are not in the order of their instants, so the walk starts early and
/// keeps the soonest instant until it meets a regular one after `after`.
pub(crate) fn next_after(crontab: &Crontab, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let hourly = crontab.is_hourly();
    let mut soonest: Option<DateTime<Tz>> = None;
    let mut local = earliest_local(zone, after)?;
    loop {
        let Some(next) = crontab.next_after(local) else {
            return soonest.map(|due| due.to_utc());
        };
        local = next;
        let (regular, extra) = match zone.from_local_datetime(&local) {
            LocalResult::Single(once) => (Some(once), None),
            LocalResult::Ambiguous(first, second) => (Some(first), Some(second).filter(|_| hourly)),
            LocalResult::None => (None, shifted(zone, local).filter(|_| !hourly)),
        };
        let candidates = [soonest, regular, extra].into_iter().flatten();
        soonest = candidates.filter(|due| *due > after).min();
        if regular.is_some_and(|due| due > after) {
            return soonest.map(|due| due.to_utc());
        }
    }
}

/// A local time before all those that may still be due after `after`, whatever a change nearby does.
fn earliest_local(zone: Tz, after: DateTime<Utc>) -> Option<NaiveDateTime> {
    let nearby = [-LARGEST_STEP, TimeDelta::zero(), LARGEST_STEP];
    let offset = nearby
        .into_iter()
        .filter_map(|step| after.checked_add_signed(step))
        .map(|near| {
            zone.offset_from_utc_datetime(&near.naive_utc())
                .fix()
                .local_minus_utc()
        })
        .min()?;
    after
        .naive_utc()
        .checked_add_signed(TimeDelta::seconds(offset.into()))
}

/// When a skipped local time runs: at the instant it would have had without the change.
fn shifted(zone: Tz, local: NaiveDateTime) -> Option<DateTime<Tz>> {
    let (_, before) = GapInfo::new(&local, &zone)?.begin?;
    let instant = local.checked_sub_offset(before.fix())?;
    Some(zone.from_utc_datetime(&instant))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest step between two instants here.
    const TICK: TimeDelta = TimeDelta::microseconds(1);

    /// The first `count` instants from `from` on, in UTC.
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

    /// A crontab, its zone, an instant, and the due instants from there on.
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
    fn clocks_that_go_forward_shift_skipped_times() {
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
            // The clocks go back in October first.
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
    fn clocks_that_go_back_repeat_only_hourly_crontabs() {
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
    fn a_skipped_day_shifts_too_and_rare_crontabs_are_found() {
        // Samoa skipped 30 December 2011: its 09:00 falls on that of the 31st, which runs once.
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
        fn the_next_instant_is_later_with_none_in_between(
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
