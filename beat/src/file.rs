//! The schedule file: entries as TOML.
//!
//! `schedule.example.toml` beside this crate's `Cargo.toml` shows every option. A mistake is told with the file, the
//! line and what is expected there.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use chrono_tz::Tz;
use serde::Deserialize;
use serde_json::{Map, Value};
use thiserror::Error;
use toml::Spanned;
use tradebot_core::wire::envelope::Priority;

use crate::crontab::{Crontab, Field};
use crate::entry::{CatchUp, Entry, Expires};
use crate::slots::Plan;

/// How many missed slots `catch_up = "all"` sends where the entry does not say.
const CATCH_UP_LIMIT: usize = 100;
/// How long a previous message counts as pending where the entry does not say.
const PENDING_LIMIT: Duration = Duration::from_secs(3600);
/// Ten years, the longest time that a number of seconds may stand for.
const LONGEST: f64 = 10.0 * 365.0 * 86400.0;

/// Why a schedule file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("schedule file {path} cannot be read")]
    Read { path: String, source: std::io::Error },
    #[error("{path}, line {line}: {what}")]
    Line { path: String, line: usize, what: String },
}

/// Reads the entries of a file; `queue` is that of entries which name none, where the file names none either.
pub(crate) fn read(path: &Path, queue: &str) -> Result<Vec<Entry>, FileError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read {
        path: shown.clone(),
        source,
    })?;
    parse(&text, queue).map_err(|mistake| FileError::Line {
        path: shown,
        line: text[..mistake.at.min(text.len())].matches('\n').count() + 1,
        what: mistake.what,
    })
}

/// A mistake and the byte it begins at.
struct Mistake {
    at: usize,
    what: String,
}

fn mistake<T>(at: &Spanned<T>, what: impl Into<String>) -> Mistake {
    Mistake {
        at: at.span().start,
        what: what.into(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    timezone: Option<Spanned<String>>,
    queue: Option<Spanned<String>>,
    #[serde(default)]
    entry: Vec<Spanned<Table>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    name: Spanned<String>,
    task: Spanned<String>,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    kwargs: Map<String, Value>,
    queue: Option<Spanned<String>>,
    #[serde(default)]
    priority: i64,
    expires: Option<Spanned<SecondsOrNot>>,
    interval: Option<Spanned<f64>>,
    crontab: Option<Spanned<CrontabForm>>,
    timezone: Option<Spanned<String>>,
    #[serde(default = "yes")]
    enabled: bool,
    catch_up: Option<Spanned<String>>,
    catch_up_limit: Option<Spanned<usize>>,
    jitter: Option<Spanned<f64>>,
    unless_pending: Option<Spanned<SecondsOrNot>>,
}

fn yes() -> bool {
    true
}

/// `300`, or `false` for "not at all" and `true` for "as usual".
#[derive(Deserialize, Clone, Copy)]
#[serde(untagged, expecting = "expected a number of seconds, `true` or `false`")]
enum SecondsOrNot {
    Switch(bool),
    Seconds(f64),
}

/// One line as in a crontab, or a table with Celery's names.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected `\"minute hour day_of_month month_of_year day_of_week\"` or a table of these"
)]
enum CrontabForm {
    Line(String),
    Fields(CrontabFields),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CrontabFields {
    minute: Option<CrontabField>,
    hour: Option<CrontabField>,
    day_of_month: Option<CrontabField>,
    month_of_year: Option<CrontabField>,
    day_of_week: Option<CrontabField>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CrontabField {
    Number(u32),
    Text(String),
}

fn parse(text: &str, queue: &str) -> Result<Vec<Entry>, Mistake> {
    let document: Document = toml::from_str(text).map_err(|error| Mistake {
        at: error.span().map_or(0, |span| span.start),
        what: error.message().to_owned(),
    })?;
    let zone = document.timezone.as_ref().map_or(Ok(Tz::UTC), zone_named)?;
    let queue = document
        .queue
        .as_ref()
        .map_or(Ok(queue), |name| not_empty(name, "the name of a queue"))?;
    let mut names = HashSet::new();
    let mut entries = Vec::with_capacity(document.entry.len());
    for table in &document.entry {
        let entry = entry_of(table, zone, queue)?;
        if !names.insert(entry.name.clone()) {
            let what = format!(
                "there is an entry `{}` already, expected another name",
                entry.name
            );
            return Err(mistake(&table.get_ref().name, what));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry_of(spanned: &Spanned<Table>, zone: Tz, queue: &str) -> Result<Entry, Mistake> {
    let table = spanned.get_ref();
    let plan = plan_of(spanned, zone)?;
    let name = not_empty(&table.name, "the entry's name")?;
    let task = not_empty(&table.task, "the registered name of a task")?;
    let queue = table
        .queue
        .as_ref()
        .map_or(Ok(queue), |name| not_empty(name, "the name of a queue"))?;
    let expires = match &table.expires {
        None => Expires::NextSlot,
        Some(expires) => match expires.get_ref() {
            SecondsOrNot::Switch(true) => Expires::NextSlot,
            SecondsOrNot::Switch(false) => Expires::Never,
            SecondsOrNot::Seconds(after) => Expires::After(seconds(expires, *after, 0.001)?),
        },
    };
    let unless_pending = match &table.unless_pending {
        None => None,
        Some(limit) => match limit.get_ref() {
            SecondsOrNot::Switch(wanted) => wanted.then_some(PENDING_LIMIT),
            SecondsOrNot::Seconds(for_so_long) => Some(seconds(limit, *for_so_long, 0.001)?),
        },
    };
    let jitter = match &table.jitter {
        None => Duration::ZERO,
        Some(jitter) => seconds(jitter, *jitter.get_ref(), 0.0)?,
    };
    if let (Plan::Interval(every), Some(at)) = (&plan, &table.jitter)
        && jitter.as_micros() > u128::from(every.unsigned_abs())
    {
        return Err(mistake(
            at,
            "jitter is longer than the interval, expected at most the interval",
        ));
    }
    if let Some(at) = [
        ("args", Value::Array(table.args.clone())),
        ("kwargs", Value::Object(table.kwargs.clone())),
    ]
    .iter()
    .find_map(|(name, value)| has_date(value).then_some(*name))
    {
        return Err(mistake(
            spanned,
            format!("{at} has a date, which JSON knows none of, expected a text"),
        ));
    }
    Ok(Entry {
        args: table.args.clone(),
        kwargs: table.kwargs.clone(),
        priority: Priority(table.priority),
        expires,
        enabled: table.enabled,
        catch_up: catch_up_of(table)?,
        jitter,
        unless_pending,
        ..Entry::new(name, task, queue, plan)
    })
}

fn plan_of(spanned: &Spanned<Table>, zone: Tz) -> Result<Plan, Mistake> {
    let table = spanned.get_ref();
    match (&table.interval, &table.crontab) {
        (Some(interval), None) => {
            if let Some(zone) = &table.timezone {
                return Err(mistake(
                    zone,
                    "an interval has no timezone, expected it beside a `crontab`",
                ));
            }
            Ok(Plan::every(seconds(interval, *interval.get_ref(), 0.001)?))
        }
        (None, Some(crontab)) => {
            let zone = table.timezone.as_ref().map_or(Ok(zone), zone_named)?;
            let parsed = match crontab.get_ref() {
                CrontabForm::Line(line) => Crontab::from_line(line),
                CrontabForm::Fields(fields) => Crontab::new(fields.texts()),
            };
            let parsed = parsed.map_err(|error| mistake(crontab, error.to_string()))?;
            Ok(Plan::Crontab(Box::new(parsed), zone))
        }
        (Some(_), Some(both)) => Err(mistake(
            both,
            "an entry has one plan, expected `interval` or `crontab`",
        )),
        (None, None) => Err(mistake(
            spanned,
            "the entry has no plan, expected `interval = SECONDS` or `crontab = \"…\"`",
        )),
    }
}

fn catch_up_of(table: &Table) -> Result<CatchUp, Mistake> {
    let policy = table.catch_up.as_ref().map(|policy| policy.get_ref().as_str());
    let limit = table.catch_up_limit.as_ref();
    match (policy, limit) {
        (Some("all"), limit) => Ok(CatchUp::All(
            limit.map_or(CATCH_UP_LIMIT, |limit| *limit.get_ref()),
        )),
        (_, Some(limit)) => Err(mistake(
            limit,
            "expected `catch_up = \"all\"` beside a `catch_up_limit`",
        )),
        (None | Some("one"), None) => Ok(CatchUp::One),
        (Some("skip"), None) => Ok(CatchUp::Skip),
        (Some(other), None) => {
            let what = format!("catch_up is `{other}`, expected `skip`, `one` or `all`");
            Err(table.catch_up.as_ref().map_or(
                Mistake {
                    at: 0,
                    what: what.clone(),
                },
                |at| mistake(at, what),
            ))
        }
    }
}

impl CrontabFields {
    /// In the order of [`Field::ALL`].
    fn texts(&self) -> [String; 5] {
        Field::ALL.map(|field| {
            let field = match field {
                Field::Minute => &self.minute,
                Field::Hour => &self.hour,
                Field::DayOfMonth => &self.day_of_month,
                Field::MonthOfYear => &self.month_of_year,
                Field::DayOfWeek => &self.day_of_week,
            };
            match field {
                None => "*".to_owned(),
                Some(CrontabField::Number(number)) => number.to_string(),
                Some(CrontabField::Text(text)) => text.clone(),
            }
        })
    }
}

fn zone_named(name: &Spanned<String>) -> Result<Tz, Mistake> {
    name.get_ref().parse().map_err(|_| {
        let what = format!(
            "timezone is `{}`, expected a name such as `UTC` or `Europe/Istanbul`",
            name.get_ref()
        );
        mistake(name, what)
    })
}

fn not_empty<'t>(text: &'t Spanned<String>, what: &str) -> Result<&'t str, Mistake> {
    if text.get_ref().trim().is_empty() {
        return Err(mistake(text, format!("empty, expected {what}")));
    }
    Ok(text.get_ref())
}

fn seconds<T>(at: &Spanned<T>, number: f64, least: f64) -> Result<Duration, Mistake> {
    if (least..=LONGEST).contains(&number) {
        return Ok(Duration::from_secs_f64(number));
    }
    Err(mistake(
        at,
        format!("`{number}`, expected seconds, at least {least} and at most {LONGEST}"),
    ))
}

/// TOML has dates; its reader hands them on as a map with this key.
fn has_date(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_date),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name.starts_with("$__toml") || has_date(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
