use super::*;

fn crontab(line: &str) -> Crontab {
    Crontab::from_line(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn next(line: &str, after: &str) -> String {
    let after = NaiveDateTime::parse_from_str(after, "%Y-%m-%d %H:%M:%S").unwrap();
    crontab(line).next_after(after).unwrap().to_string()
}

#[test]
fn both_days_must_match_and_ranges_wrap() {
    for (line, after, expected) in [
        ("* * * * *", "2026-11-23 10:00:00", "2026-11-23 10:01:00"),
        ("* * * * *", "2026-11-23 10:00:59", "2026-11-23 10:01:00"),
        ("0 0 * * *", "2026-12-31 00:00:00", "2027-01-01 00:00:00"),
        ("*/25 * * * *", "2026-11-23 10:26:00", "2026-11-23 10:50:00"),
        (
            "10-50/20 8-10 * * *",
            "2026-11-23 10:50:00",
            "2026-11-24 08:10:00",
        ),
        // Friday the 13th: Vixie cron would run on every 13th and every Friday.
        ("0 9 13 * fri", "2026-11-23 00:00:00", "2027-08-13 09:00:00"),
        ("0 0 * * fri-mon", "2026-11-23 00:00:00", "2026-11-27 00:00:00"),
        ("0 22-2/2 * * *", "2026-11-23 22:00:00", "2026-11-24 00:00:00"),
        ("0 0 29 2 *", "2026-11-23 00:00:00", "2028-02-29 00:00:00"),
        ("0 0 31 * *", "2026-11-30 00:00:00", "2026-12-31 00:00:00"),
        ("0 0 29 feb monday", "2072-03-01 00:00:00", "2112-02-29 00:00:00"),
        // A month's name stands for its number in any field.
        ("mar * * * *", "2026-11-23 10:00:00", "2026-11-23 10:03:00"),
    ] {
        assert_eq!(next(line, after), expected, "{line} after {after}");
    }
}

#[test]
fn expressions_that_celery_refuses_or_accepts_by_accident_are_refused_with_a_reason() {
    for (line, reason) in [
        (
            "* * * *",
            "expected five fields, `minute hour day_of_month month_of_year day_of_week`, found 4",
        ),
        (
            "60 * * * *",
            "minute `60`: expected `*`, `*/n`, `a`, `a-b`, `a-b/n` or several of these separated by commas, from 0 to 59; a number is out of range",
        ),
        ("* * 0 * *", "day_of_month `0`"),
        ("* * * 13 *", "month_of_year `13`"),
        ("* * * * 7", "Sunday is 0"),
        ("5/15 * * * *", "a step needs `*` or a range before it"),
        ("*/0 * * * *", "a step is a number above zero"),
        ("*/-1 * * * *", "a step is a number above zero"),
        ("1-5/2/3 * * * *", "a step is a number above zero"),
        ("1,,2 * * * *", "minute `1,,2`"),
        ("* * * * someday", "day_of_week `someday`"),
        ("-5 * * * *", "minute `-5`"),
        ("* * 30 feb *", "no date matches"),
    ] {
        let Err(error) = Crontab::from_line(line) else {
            panic!("{line} was accepted")
        };
        assert!(error.to_string().contains(reason), "{line}: {error}");
    }
}
