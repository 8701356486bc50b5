//! Random crontabs and instants, compared with Python Celery's `crontab`.

use chrono::TimeDelta;
use chrono_tz::Tz;
use tradebot_test_support::{Python, seeded_rng};

use super::Crontab;
use crate::slots::time;
use crate::zone;

/// How many cases one run draws.
const CASES: usize = 10_000;

#[test]
fn random_crontabs_are_due_when_python_says_so() {
    let seed = seeded_rng().u32(..).to_string();
    let arguments = [seed.as_str(), &CASES.to_string()];
    let cases = Python::CELERY_NEWEST.script("crontab_due.py", &arguments, &[]);
    let cases: Vec<(String, String, i64, Option<i64>)> = serde_json::from_value(cases).expect("cases");
    assert_eq!(cases.len(), CASES);
    let (mut equal, mut refused, mut at_a_change) = (0, 0, 0);
    for (line, zone, instant, expected) in cases {
        let zone: Tz = zone.parse().expect("a zone");
        // An empty field has nothing between two blanks.
        let fields: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let crontab = Crontab::new(fields.try_into().expect("five fields"));
        let due = crontab
            .as_ref()
            .ok()
            .and_then(|crontab| zone::next_after(crontab, zone, time(instant)));
        match (due, expected) {
            (None, None) => refused += 1,
            (Some(due), Some(expected)) if due == time(expected) => equal += 1,
            (Some(due), Some(expected))
                if clocks_change(zone, due.min(time(expected)), due.max(time(expected))) =>
            {
                // Known differences at a clock change: our hourly crontabs run in a repeated hour, Celery's do not. Within
                // that hour Celery returns an instant of its first pass, which is over. After the first of several times
                // in a skipped hour Celery forgets the others, or returns one after a regular time. And we do not shift
                // hourly crontabs where clocks move by half an hour.
                let hourly = crontab.is_ok_and(|crontab| crontab.is_hourly());
                assert!(
                    hourly || due < time(expected) || time(expected) <= time(instant),
                    "{line} {zone} after {}: {due}, Python says {}",
                    time(instant),
                    time(expected)
                );
                at_a_change += 1;
            }
            _ => panic!(
                "{line} {zone} after {}: {due:?}, Python says {expected:?}",
                time(instant)
            ),
        }
    }
    println!("{equal} equal, {refused} refused by both, {at_a_change} differ at a change of clocks");
    assert!(equal > CASES / 2);
}

/// Whether clocks change from three hours before `from` to three hours after `to`.
fn clocks_change(zone: Tz, from: chrono::DateTime<chrono::Utc>, to: chrono::DateTime<chrono::Utc>) -> bool {
    use chrono::{Offset, TimeZone};
    let offset = |time: chrono::DateTime<chrono::Utc>| zone.offset_from_utc_datetime(&time.naive_utc()).fix();
    offset(from - TimeDelta::hours(3)) != offset(to + TimeDelta::hours(3))
}
