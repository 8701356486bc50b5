//! Celery's `crontab`: which minutes match, in local time.
//!
//! The cron libraries follow Vixie cron or Quartz: if day of month and day of week are both restricted, either may match;
//! Sunday may be 7, `5/15` starts at five, and a range must not run backwards. In Celery (`celery.schedules.crontab`) both
//! days must match, 7 and `5/15` are errors, `fri-mon` wraps around, and a month's name stands for its number in any
//! field. An entry taken over from a Python beat must keep its times, so we parse the expressions ourselves.
//!
//! We refuse what Celery accepts by accident: text after a complete range or after the name of a day or month (`1-5/2/3`,
//! `fri/2`). Both refuse expressions that match no date, such as the 30th of February.
//!
//! [`crate::zone`] deals with time zones and clock changes.

use std::fmt;

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};
use thiserror::Error;

/// How many years to search for a match. The 29th of February falls on a given weekday every 28 years, or after 40 if
/// the century between has no leap day.
const HORIZON_YEARS: i32 = 41;

/// One of the five fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field {
    Minute,
    Hour,
    DayOfMonth,
    MonthOfYear,
    DayOfWeek,
}

impl Field {
    /// In the order of cron and of `crontab.from_string`.
    pub(crate) const ALL: [Self; 5] = [
        Self::Minute,
        Self::Hour,
        Self::DayOfMonth,
        Self::MonthOfYear,
        Self::DayOfWeek,
    ];

    /// The name of Celery's argument.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day_of_month",
            Self::MonthOfYear => "month_of_year",
            Self::DayOfWeek => "day_of_week",
        }
    }

    fn first(self) -> u32 {
        match self {
            Self::DayOfMonth | Self::MonthOfYear => 1,
            Self::Minute | Self::Hour | Self::DayOfWeek => 0,
        }
    }

    fn last(self) -> u32 {
        match self {
            Self::Minute => 59,
            Self::Hour => 23,
            Self::DayOfMonth => 31,
            Self::MonthOfYear => 12,
            Self::DayOfWeek => 6,
        }
    }

    fn every(self) -> u64 {
        (self.first()..=self.last()).fold(0, |set, number| set | 1 << number)
    }
}

/// Why a crontab cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum CrontabError {
    #[error("expected five fields, `minute hour day_of_month month_of_year day_of_week`, found {0}")]
    Fields(usize),
    #[error(
        "{} `{text}`: expected `*`, `*/n`, `a`, `a-b`, `a-b/n` or several of these separated by commas, from {} to {}{reason}",
        .field.name(), .field.first(), .field.last()
    )]
    Field {
        field: Field,
        text: String,
        reason: &'static str,
    },
    #[error("no date matches day_of_month, month_of_year and day_of_week together")]
    Never,
}

/// A crontab: five sets of numbers, and the texts they were parsed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crontab {
    sets: [u64; 5],
    texts: [String; 5],
}

impl Crontab {
    /// Parses the five fields, in the order of [`Field::ALL`].
    pub(crate) fn new(texts: [String; 5]) -> Result<Self, CrontabError> {
        let mut sets = [0; 5];
        for ((set, field), text) in sets.iter_mut().zip(Field::ALL).zip(&texts) {
            *set = parse(field, text)?;
        }
        let crontab = Self { sets, texts };
        let start = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default();
        match crontab.next_after(start.and_time(NaiveTime::MIN)) {
            Some(_) => Ok(crontab),
            None => Err(CrontabError::Never),
        }
    }

    /// Parses one line of five fields, separated by blanks.
    pub(crate) fn from_line(line: &str) -> Result<Self, CrontabError> {
        let fields: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let found = fields.len();
        let texts = fields.try_into().map_err(|_| CrontabError::Fields(found))?;
        Self::new(texts)
    }

    /// The text of a field as given.
    pub(crate) fn text(&self, field: Field) -> &str {
        &self.texts[field as usize]
    }

    /// Whether every hour matches. Clock changes treat such a crontab differently, see [`crate::zone`].
    pub(crate) fn is_hourly(&self) -> bool {
        self.set(Field::Hour) == Field::Hour.every()
    }

    /// The first match after `time`; `None` if there is none within [`HORIZON_YEARS`].
    pub(crate) fn next_after(&self, time: NaiveDateTime) -> Option<NaiveDateTime> {
        let minute = time.with_second(0)?.with_nanosecond(0)?;
        let minute = minute.checked_add_signed(TimeDelta::minutes(1))?;
        if let Some(found) = self
            .time_from(minute.time())
            .filter(|_| self.matches_date(minute.date()))
        {
            return Some(minute.date().and_time(found));
        }
        let date = self.date_after(minute.date())?;
        Some(date.and_time(self.time_from(NaiveTime::MIN)?))
    }

    /// The first matching time of day at or after `start`.
    fn time_from(&self, start: NaiveTime) -> Option<NaiveTime> {
        let at_or_after = |field: Field, number: u32| {
            let rest = self.set(field) >> number << number;
            (rest != 0).then(|| rest.trailing_zeros())
        };
        let hour = at_or_after(Field::Hour, start.hour())?;
        if hour == start.hour()
            && let Some(minute) = at_or_after(Field::Minute, start.minute())
        {
            return NaiveTime::from_hms_opt(hour, minute, 0);
        }
        let hour = if hour == start.hour() {
            at_or_after(Field::Hour, hour + 1)?
        } else {
            hour
        };
        NaiveTime::from_hms_opt(hour, at_or_after(Field::Minute, 0)?, 0)
    }

    fn date_after(&self, date: NaiveDate) -> Option<NaiveDate> {
        let mut date = date.succ_opt()?;
        let horizon = date.year() + HORIZON_YEARS;
        while date.year() <= horizon {
            if !self.has(Field::MonthOfYear, date.month()) {
                let (year, month) = match date.month() {
                    12 => (date.year() + 1, 1),
                    month => (date.year(), month + 1),
                };
                date = NaiveDate::from_ymd_opt(year, month, 1)?;
            } else if self.matches_date(date) {
                return Some(date);
            } else {
                date = date.succ_opt()?;
            }
        }
        None
    }

    fn matches_date(&self, date: NaiveDate) -> bool {
        self.has(Field::MonthOfYear, date.month())
            && self.has(Field::DayOfMonth, date.day())
            && self.has(Field::DayOfWeek, date.weekday().num_days_from_sunday())
    }

    fn set(&self, field: Field) -> u64 {
        self.sets[field as usize]
    }

    fn has(&self, field: Field, number: u32) -> bool {
        self.set(field) & (1 << number) != 0
    }
}

/// One line, in the order of cron.
impl fmt::Display for Crontab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts.join(" "))
    }
}

fn parse(field: Field, text: &str) -> Result<u64, CrontabError> {
    let wrong = |reason| CrontabError::Field {
        field,
        text: text.to_owned(),
        reason,
    };
    let mut set = 0;
    for part in text.split(',') {
        set |= parse_part(field, part.trim()).map_err(wrong)?;
    }
    Ok(set)
}

/// Parses one part between commas. An error is the end of the sentence in [`CrontabError::Field`].
fn parse_part(field: Field, part: &str) -> Result<u64, &'static str> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    let numbers: Vec<u32> = if range == "*" {
        (field.first()..=field.last()).collect()
    } else if let Some((from, to)) = range.split_once('-') {
        let (from, to) = (number(field, from)?, number(field, to)?);
        if from <= to {
            (from..=to).collect()
        } else {
            (from..=field.last()).chain(field.first()..=to).collect()
        }
    } else if step.is_some() {
        return Err("; a step needs `*` or a range before it");
    } else {
        vec![number(field, range)?]
    };
    let step = match step.map(str::parse::<usize>) {
        None => 1,
        Some(Ok(step)) if step > 0 => step,
        Some(_) => return Err("; a step is a number above zero"),
    };
    Ok(numbers
        .iter()
        .step_by(step)
        .fold(0, |set, number| set | 1 << number))
}

/// A number, or a name that starts with the three letters of a month or weekday.
fn number(field: Field, text: &str) -> Result<u32, &'static str> {
    const MONTHS: [&str; 12] = [
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ];
    const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let named = |names: &[&str], first: u32| {
        let start = text.get(..3)?.to_ascii_lowercase();
        (first..)
            .zip(names)
            .find(|(_, name)| **name == start)
            .map(|(number, _)| number)
    };
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if digits {
        text.parse().ok()
    } else {
        named(&MONTHS, 1).or_else(|| named(&WEEKDAYS, 0))
    };
    match number {
        None => Err(""),
        Some(7) if field == Field::DayOfWeek => Err("; Sunday is 0"),
        Some(number) if (field.first()..=field.last()).contains(&number) => Ok(number),
        Some(_) => Err("; a number is out of range"),
    }
}

#[cfg(test)]
mod against_python;
#[cfg(test)]
mod tests;
