//! The schedule file: entries in TOML.
//!
//! `schedule.example.toml` beside this crate's `Cargo.toml` shows every option. An error names the file, the line and
//! what is expected there.

mod schema;

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use chrono_tz::Tz;
use serde_json::Value;
use thiserror::Error;
use toml::Spanned;
use tradebot_core::wire::envelope::Priority;

use self::schema::{CatchUpPolicy, EntryTable, Name, ScheduleFile, SecondsOrSwitch};
use crate::entry::{CatchUp, Expires, ScheduleEntry};
use crate::slots::Plan;

/// How many missed slots `catch_up = "all"` sends by default.
const CATCH_UP_LIMIT: usize = 100;
/// How long `unless_pending = true` waits for a result.
const PENDING_LIMIT: Duration = Duration::from_secs(3600);

/// Why a schedule file cannot be used.
#[derive(Debug, Error)]
pub(crate) enum FileError {
    #[error("cannot read schedule file {path}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}, line {line}: {what}")]
    Line { path: String, line: usize, what: String },
}

/// Reads the entries of a file. `queue` is for entries without a queue in a file without a queue.
pub(crate) fn read(path: &Path, queue: &str) -> Result<Vec<ScheduleEntry>, FileError> {
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

/// A mistake and the byte at which it begins.
struct Mistake {
    at: usize,
    what: String,
}

fn mistake(span: Range<usize>, what: impl Into<String>) -> Mistake {
    Mistake {
        at: span.start,
        what: what.into(),
    }
}

fn parse(text: &str, queue: &str) -> Result<Vec<ScheduleEntry>, Mistake> {
    let file: ScheduleFile =
        toml::from_str(text).map_err(|error| mistake(error.span().unwrap_or_default(), error.message()))?;
    let zone = file.timezone.map_or(Tz::UTC, |zone| zone.0);
    let queue = file.queue.map_or(queue.to_owned(), |Name(queue)| queue);
    let mut names = HashSet::new();
    let mut entries = Vec::with_capacity(file.entry.len());
    for table in file.entry {
        let name = table.get_ref().name.span();
        let entry = entry_of(table, zone, &queue)?;
        if !names.insert(entry.name.clone()) {
            let what = format!("the name `{}` is taken, expected another name", entry.name);
            return Err(mistake(name, what));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn entry_of(table: Spanned<EntryTable>, zone: Tz, queue: &str) -> Result<ScheduleEntry, Mistake> {
    let span = table.span();
    let table = table.into_inner();
    let plan = plan_of(&table, span.clone(), zone)?;
    let catch_up = catch_up_of(&table)?;
    let jitter = table
        .jitter
        .as_ref()
        .map_or(Duration::ZERO, |jitter| jitter.get_ref().0);
    if let (Some(interval), Some(at)) = (table.interval, &table.jitter)
        && jitter > interval.0
    {
        let what = "jitter is longer than the interval, expected at most the interval";
        return Err(mistake(at.span(), what));
    }
    for (name, value) in [
        ("args", Value::Array(table.args.clone())),
        ("kwargs", Value::Object(table.kwargs.clone())),
    ] {
        if has_date(&value) {
            let what = format!("{name} contains a date, which JSON does not have, expected a text");
            return Err(mistake(span, what));
        }
    }
    let queue = table.queue.map_or(queue.to_owned(), |Name(queue)| queue);
    let name = table.name.into_inner().0;
    Ok(ScheduleEntry {
        args: table.args,
        kwargs: table.kwargs,
        priority: Priority(table.priority),
        expires: match table.expires {
            None | Some(SecondsOrSwitch::Switch(true)) => Expires::NextSlot,
            Some(SecondsOrSwitch::Switch(false)) => Expires::Never,
            Some(SecondsOrSwitch::Seconds(after)) => Expires::After(after.0),
        },
        enabled: table.enabled,
        catch_up,
        jitter,
        unless_pending: match table.unless_pending {
            None | Some(SecondsOrSwitch::Switch(false)) => None,
            Some(SecondsOrSwitch::Switch(true)) => Some(PENDING_LIMIT),
            Some(SecondsOrSwitch::Seconds(limit)) => Some(limit.0),
        },
        ..ScheduleEntry::new(name, table.task.0, &queue, plan)
    })
}

fn plan_of(table: &EntryTable, span: Range<usize>, zone: Tz) -> Result<Plan, Mistake> {
    match (table.interval, &table.crontab, &table.timezone) {
        (Some(interval), None, None) => Ok(Plan::every(interval.0)),
        (Some(_), None, Some(zone)) => Err(mistake(
            zone.span(),
            "an interval has no timezone, expected it beside a `crontab`",
        )),
        (None, Some(crontab), own) => {
            let zone = own.as_ref().map_or(zone, |own| own.get_ref().0);
            Ok(Plan::Crontab(Box::new(crontab.get_ref().0.clone()), zone))
        }
        (Some(_), Some(crontab), _) => Err(mistake(
            crontab.span(),
            "the entry has two plans, expected `interval` or `crontab`",
        )),
        (None, None, _) => Err(mistake(
            span,
            "the entry has no plan, expected `interval = SECONDS` or `crontab = \"…\"`",
        )),
    }
}

fn catch_up_of(table: &EntryTable) -> Result<CatchUp, Mistake> {
    match (table.catch_up, &table.catch_up_limit) {
        (CatchUpPolicy::All, limit) => Ok(CatchUp::All(
            limit.as_ref().map_or(CATCH_UP_LIMIT, |limit| *limit.get_ref()),
        )),
        (_, Some(limit)) => Err(mistake(
            limit.span(),
            "expected `catch_up = \"all\"` beside a `catch_up_limit`",
        )),
        (CatchUpPolicy::One, None) => Ok(CatchUp::One),
        (CatchUpPolicy::Skip, None) => Ok(CatchUp::Skip),
    }
}

/// TOML has dates; its reader turns one into a map with this key.
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
