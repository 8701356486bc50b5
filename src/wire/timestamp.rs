//! Times on the wire: written as Python's `isoformat` does, read as leniently as Celery does.

use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, SecondsFormat, Timelike, Utc};

/// Writes a time as `datetime.isoformat()` does: with `+00:00`, and without a fraction if it is zero.
#[must_use]
pub fn isoformat(time: DateTime<Utc>) -> String {
    let format = if time.nanosecond() / 1000 == 0 {
        SecondsFormat::Secs
    } else {
        SecondsFormat::Micros
    };
    time.to_rfc3339_opts(format, false)
}

/// Reads an ISO-8601 date or time as a Celery worker does. Without an offset it is UTC.
///
/// Accepts a date alone, `T` or a space between date and time, a time without seconds, fractions of up to nine
/// digits, `Z`, `±HH:MM`, `±HHMM` and `±HH`. Anything else is `None`; Celery treats that as an invalid task.
#[must_use]
pub fn parse(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.with_timezone(&Utc));
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Some(date.and_hms_opt(0, 0, 0)?.and_utc());
    }
    let text = text.replacen(' ', "T", 1);
    let (naive, offset) = split_offset(&text)?;
    let naive = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y%m%dT%H%M%S%.f"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(naive, format).ok())?;
    Some(naive.and_local_timezone(offset).single()?.with_timezone(&Utc))
}

/// Splits off the trailing offset; without one it is UTC.
fn split_offset(text: &str) -> Option<(&str, FixedOffset)> {
    let utc = FixedOffset::east_opt(0)?;
    if let Some(naive) = text.strip_suffix(['Z', 'z']) {
        return Some((naive, utc));
    }
    let time_at = text.find('T')?;
    let Some(sign_at) = text[time_at..].find(['+', '-']).map(|at| at + time_at) else {
        return Some((text, utc));
    };
    let (naive, offset) = text.split_at(sign_at);
    let digits: String = offset[1..].chars().filter(|c| *c != ':').collect();
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = match digits.len() {
        2 => (digits.as_str(), "0"),
        4 => digits.split_at(2),
        _ => return None,
    };
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    let signed = if offset.starts_with('-') {
        -seconds
    } else {
        seconds
    };
    Some((naive, FixedOffset::east_opt(signed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form_a_producer_sends() {
        let expected = "2026-11-23T10:38:55+00:00";
        for text in [
            "2026-11-23T10:38:55+00:00",
            "2026-11-23T10:38:55Z",
            "2026-11-23T10:38:55",
            "2026-11-23 10:38:55",
            "2026-11-23T11:38:55+01:00",
            "2026-11-23T11:38:55+0100",
            "2026-11-23T11:38:55+01",
            "2026-11-23T05:08:55-05:30",
            "20261123T103855",
        ] {
            assert_eq!(parse(text).map(isoformat).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(
            parse("2026-12-01").map(isoformat).as_deref(),
            Some("2026-12-01T00:00:00+00:00")
        );
        assert_eq!(
            parse("2026-12-01T10:00").map(isoformat).as_deref(),
            Some("2026-12-01T10:00:00+00:00")
        );
        assert_eq!(
            parse("2026-11-23T10:38:55.363526+00:00")
                .map(isoformat)
                .as_deref(),
            Some("2026-11-23T10:38:55.363526+00:00")
        );
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "soon",
            "2026-13-01",
            "2026-11-23T",
            "T",
            "+",
            "2026-11-23T10:38:55+1",
            "2026-11-23T25:00",
            "2026-11-23T10:38:55+1é1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }

        #[test]
        fn no_text_of_nearly_the_right_shape_panics(text in "[0-9é]{4}-[0-9]{2}-[0-9]{2}[T ][0-9é:]{0,8}[.0-9é]{0,4}[+-]?[0-9é:]{0,5}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_is_written_is_read_back(micros in 0_i64..4_000_000_000_000_000) {
            let time = DateTime::from_timestamp_micros(micros).unwrap();
            assert_eq!(parse(&isoformat(time)), Some(time));
        }
    }
}
