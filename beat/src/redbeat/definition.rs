//! RedBeat's JSON: the definition of an entry and its last run.
//!
//! These are the fields `definition` and `meta` of the hash `redbeat:<name>`, in the form of `redbeat.decoder` (RedBeat
//! 2.4.2).

use std::time::Duration;

use chrono::{DateTime, Datelike, FixedOffset, NaiveDate, SecondsFormat, TimeZone, Timelike};
use chrono_tz::Tz;
use serde_json::{Map, Value, json};
use thiserror::Error;
use tradebot_core::wire::envelope::Priority;
use tradebot_core::wire::{python_json, timestamp};

use crate::crontab::{Crontab, Field};
use crate::entry::{Expires, ScheduleEntry};
use crate::slots::{Micros, Plan, time};

/// Why this beat does not run an entry, or RedBeat cannot.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Unsupported(String);

/// Reads a definition. Crontabs are in `zone`, entries without a queue in `queue`.
pub(super) fn entry(definition: &[u8], zone: Tz, queue: &str) -> Result<ScheduleEntry, Unsupported> {
    let unsupported = |what: &str| Unsupported(what.to_owned());
    let definition: Value = python_json::from_slice(definition)
        .map_err(|error| Unsupported(format!("the definition is not JSON: {error}")))?;
    let text = |name: &str| definition[name].as_str().map(str::to_owned);
    let plan = plan(&definition["schedule"], zone)?;
    let options = definition["options"].as_object().cloned().unwrap_or_default();
    let option = |name: &str| options.get(name).and_then(Value::as_str);
    let queue = option("queue").or(option("routing_key")).unwrap_or(queue);
    let name = text("name").ok_or_else(|| unsupported("the definition has no name"))?;
    let task = text("task").ok_or_else(|| unsupported("the definition has no task"))?;
    let expires = match options.get("expires") {
        None | Some(Value::Null) => Expires::Never,
        Some(Value::Number(seconds)) => {
            let seconds = seconds
                .as_f64()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            Expires::After(seconds.ok_or_else(|| unsupported("the option `expires` is out of range"))?)
        }
        Some(Value::String(text)) => timestamp::parse(text)
            .map(|at| Expires::At(at.timestamp_micros()))
            .ok_or_else(|| unsupported("the option `expires` is not a time"))?,
        Some(other) => datetime(other)
            .map(|at| Expires::At(at.timestamp_micros()))
            .ok_or_else(|| unsupported("the option `expires` is neither a number nor a time"))?,
    };
    if let Some(unknown) = options
        .keys()
        .find(|name| !KNOWN_OPTIONS.contains(&name.as_str()))
    {
        return Err(Unsupported(format!("the option `{unknown}` is not supported")));
    }
    let args = definition["args"].as_array().into_iter().flatten();
    let kwargs = definition["kwargs"].as_object().into_iter().flatten();
    Ok(ScheduleEntry {
        args: args.map(argument).collect::<Result<_, _>>()?,
        kwargs: kwargs
            .map(|(name, value)| Ok((name.clone(), argument(value)?)))
            .collect::<Result<_, Unsupported>>()?,
        priority: Priority(options.get("priority").and_then(Value::as_i64).unwrap_or(0)),
        expires,
        enabled: definition["enabled"].as_bool().unwrap_or(true),
        ..ScheduleEntry::new(name, task, queue, plan)
    })
}

/// An argument as kombu writes the value that RedBeat decodes from it.
fn argument(value: &Value) -> Result<Value, Unsupported> {
    let fields = match value {
        Value::Array(values) => return values.iter().map(argument).collect(),
        Value::Object(fields) => fields,
        other => return Ok(other.clone()),
    };
    match fields
        .get("__type__")
        .map(|kind| kind.as_str().unwrap_or_default())
    {
        Some("datetime") => {
            let at = datetime(value)
                .ok_or_else(|| Unsupported("an argument is of type `datetime` and holds none".into()))?;
            Ok(json!({"__type__": "datetime", "__value__": isoformat(at)}))
        }
        Some(kind @ ("interval" | "crontab" | "rrule" | "weekday")) => Err(Unsupported(format!(
            "an argument is of type `{kind}`, which no message can hold"
        ))),
        kind => {
            let others = fields.iter().filter(|(name, _)| *name != "__type__");
            let mut fields: Map<String, Value> = others
                .map(|(name, value)| Ok((name.clone(), argument(value)?)))
                .collect::<Result<_, Unsupported>>()?;
            // RedBeat's decoder takes the type of an object out and puts it back.
            if kind.is_some() {
                fields.insert("__type__".into(), value["__type__"].clone());
            }
            Ok(Value::Object(fields))
        }
    }
}

/// A time as Python's `isoformat` writes it.
fn isoformat(at: DateTime<FixedOffset>) -> String {
    let format = if at.timestamp_subsec_micros() == 0 {
        SecondsFormat::Secs
    } else {
        SecondsFormat::Micros
    };
    at.to_rfc3339_opts(format, false)
}

const KNOWN_OPTIONS: [&str; 4] = ["queue", "routing_key", "priority", "expires"];

fn plan(schedule: &Value, zone: Tz) -> Result<Plan, Unsupported> {
    match schedule["__type__"].as_str() {
        Some("interval") if schedule["relative"] != true => schedule["every"]
            .as_f64()
            .and_then(|every| Duration::try_from_secs_f64(every).ok())
            .map(Plan::every)
            .ok_or_else(|| Unsupported("the interval is not a number of seconds".into())),
        Some("crontab") => {
            let texts = Field::ALL.map(|field| field_text(&schedule[field.name()]));
            let crontab = Crontab::new(texts).map_err(|error| Unsupported(error.to_string()))?;
            Ok(Plan::Crontab(Box::new(crontab), zone))
        }
        other => Err(Unsupported(format!(
            "schedules of type {other:?} are not supported"
        ))),
    }
}

/// A field as text. Celery also takes a number or a list of numbers.
fn field_text(field: &Value) -> String {
    match field {
        Value::Null => "*".into(),
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().map(field_text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// Fails if RedBeat cannot represent one of our entries: it has one time zone for all crontabs.
pub(super) fn check(entry: &ScheduleEntry, zone: Tz) -> Result<(), Unsupported> {
    match &entry.plan {
        Plan::Crontab(_, own) if *own != zone => Err(Unsupported(format!(
            "entry `{}` is in {own}, but RedBeat has one timezone for all entries: {zone} (--redbeat-timezone)",
            entry.name
        ))),
        _ => Ok(()),
    }
}

/// The definition of one of our entries.
pub(super) fn definition(entry: &ScheduleEntry, now: Micros) -> String {
    let schedule = match &entry.plan {
        Plan::Interval(every) => {
            let every = Duration::from_micros(every.unsigned_abs()).as_secs_f64();
            json!({"__type__": "interval", "every": every, "relative": false})
        }
        Plan::Crontab(crontab, _) => {
            let mut fields = Map::from_iter([("__type__".to_owned(), json!("crontab"))]);
            for field in [
                Field::Minute,
                Field::Hour,
                Field::DayOfWeek,
                Field::DayOfMonth,
                Field::MonthOfYear,
            ] {
                fields.insert(field.name().to_owned(), json!(crontab.text(field)));
            }
            Value::Object(fields)
        }
    };
    let mut options = Map::from_iter([("queue".to_owned(), json!(entry.queue))]);
    if entry.priority != Priority::default() {
        options.insert("priority".into(), json!(entry.priority.0));
    }
    let valid = match entry.expires {
        Expires::NextSlot => entry.plan.gap(now, entry.plan.next(now, now).unwrap_or(now)),
        Expires::After(time) => Some(time),
        Expires::At(_) | Expires::Never => None,
    };
    if let Some(valid) = valid {
        options.insert("expires".into(), json!(valid.as_secs_f64()));
    }
    if let Expires::At(at) = entry.expires {
        options.insert("expires".into(), datetime_value(at));
    }
    json!({
        "name": entry.name,
        "task": entry.task,
        "args": entry.args,
        "kwargs": entry.kwargs,
        "options": options,
        "schedule": schedule,
        "enabled": entry.enabled,
    })
    .to_string()
}

/// The last run and the number of runs from `meta`.
pub(super) fn last_run(meta: &[u8]) -> (Option<Micros>, u64) {
    let meta: Value = python_json::from_slice(meta).unwrap_or_default();
    let runs = meta["total_run_count"].as_u64().unwrap_or(0);
    let at = datetime(&meta["last_run_at"]).map(|at| at.timestamp_micros());
    (at, runs)
}

/// `meta` after a run.
pub(super) fn meta(last_run_at: Micros, runs: u64) -> String {
    json!({"last_run_at": datetime_value(last_run_at), "total_run_count": runs}).to_string()
}

/// A time in RedBeat's form.
fn datetime_value(at: Micros) -> Value {
    let at = time(at);
    json!({
        "__type__": "datetime",
        "year": at.year(), "month": at.month(), "day": at.day(),
        "hour": at.hour(), "minute": at.minute(), "second": at.second(),
        "microsecond": at.nanosecond() / 1000,
        "timezone": "UTC",
    })
}

/// Reads a time in RedBeat's form.
fn datetime(value: &Value) -> Option<DateTime<FixedOffset>> {
    let part = |name: &str| value[name].as_u64().and_then(|number| u32::try_from(number).ok());
    let year = i32::try_from(value["year"].as_i64()?).ok()?;
    let local = NaiveDate::from_ymd_opt(year, part("month")?, part("day")?)?.and_hms_micro_opt(
        part("hour").unwrap_or(0),
        part("minute").unwrap_or(0),
        part("second").unwrap_or(0),
        part("microsecond").unwrap_or(0),
    )?;
    match &value["timezone"] {
        Value::String(name) => {
            let zone: Tz = name.parse().ok()?;
            Some(zone.from_local_datetime(&local).earliest()?.fixed_offset())
        }
        // RedBeat writes an offset without a name as seconds.
        Value::Number(seconds) => {
            #[expect(clippy::cast_possible_truncation, reason = "an offset of less than a day")]
            let offset = FixedOffset::east_opt(seconds.as_f64()? as i32)?;
            offset.from_local_datetime(&local).single()
        }
        _ => Some(local.and_utc().fixed_offset()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = 1_764_000_000_123_456;

    #[test]
    fn definition_and_meta_survive_a_round_trip() {
        let mut ours = ScheduleEntry::new("e", "t", "q", Plan::every(Duration::from_millis(1500)));
        (ours.args, ours.priority, ours.expires) = (
            vec![json!(1)],
            Priority(3),
            Expires::After(Duration::from_secs(9)),
        );
        let crontab = Crontab::from_line("*/5 3 1 * mon-fri").unwrap();
        let cron = ScheduleEntry {
            plan: Plan::Crontab(Box::new(crontab), Tz::Europe__Paris),
            enabled: false,
            ..ours.clone()
        };
        for entry in [ours, cron] {
            check(&entry, Tz::Europe__Paris).unwrap();
            let text = definition(&entry, NOW);
            assert_eq!(
                super::entry(text.as_bytes(), Tz::Europe__Paris, "celery").unwrap(),
                entry
            );
        }
        assert_eq!(last_run(meta(NOW, 7).as_bytes()), (Some(NOW), 7));
    }

    #[test]
    fn reads_what_redbeat_writes_and_rejects_what_it_cannot_run() {
        let zone = r#"{"last_run_at": {"__type__": "datetime", "year": 2025, "month": 11, "day": 24, "hour": 17, "minute": 0, "second": 0, "microsecond": 123456, "timezone": "Europe/Paris"}, "total_run_count": 2}"#;
        assert_eq!(last_run(zone.as_bytes()), (Some(NOW), 2));
        assert_eq!(
            last_run(zone.replace("\"Europe/Paris\"", "3600.0").as_bytes()),
            (Some(NOW), 2)
        );
        assert_eq!(last_run(br#"{"last_run_at": null}"#), (None, 0));
        let list = r#"{"name": "e", "task": "t", "schedule": {"__type__": "crontab", "minute": [0, 30], "hour": 4, "day_of_week": "*", "day_of_month": "*", "month_of_year": "*"}, "options": null}"#;
        assert_eq!(
            entry(list.as_bytes(), Tz::UTC, "celery")
                .unwrap()
                .plan
                .to_string(),
            "0,30 4 * * * UTC"
        );
        for (schedule, options) in [
            (r#"{"__type__": "rrule", "freq": 5}"#, "{}"),
            (r#"{"__type__": "interval", "every": 5, "relative": true}"#, "{}"),
            (
                r#"{"__type__": "interval", "every": 5, "relative": false}"#,
                r#"{"countdown": 5}"#,
            ),
        ] {
            let text =
                format!(r#"{{"name": "e", "task": "t", "schedule": {schedule}, "options": {options}}}"#);
            assert!(entry(text.as_bytes(), Tz::UTC, "celery").is_err(), "{text}");
        }
    }
}
