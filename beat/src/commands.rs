//! The one-off commands: explain, list, run now, pause and resume.

use std::collections::HashSet;
use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use redis::cmd;
use thiserror::Error;
use tradebot_base::connection::RedisTrouble;
use uuid::Uuid;

use crate::due::{Decision, Progress, SlotRecord, decide};
use crate::entry::{CatchUp, ScheduleEntry};
use crate::slots::{Micros, Plan, time};
use crate::store::Store;

/// How many slots `--explain` shows per entry.
const SHOWN: usize = 5;

/// The schedule has no entry with this name.
#[derive(Debug, Error)]
#[error("there is no entry `{name}`; the schedule has {known}")]
pub(crate) struct UnknownEntry {
    name: String,
    known: String,
}

/// Describes each entry, with its next slots as if the schedule started now.
pub(crate) fn explain(entries: &[ScheduleEntry], now: DateTime<Utc>) -> String {
    let mut text = String::new();
    for entry in entries {
        let catch_up = match entry.catch_up {
            CatchUp::Skip => "skip".to_owned(),
            CatchUp::One => "one".to_owned(),
            CatchUp::All(limit) => format!("all, at most {limit}"),
        };
        let state = if entry.enabled { "" } else { "  (disabled)" };
        let _ = writeln!(text, "{}{state}", entry.name);
        let _ = writeln!(text, "  task      {}", entry.task);
        let _ = writeln!(text, "  plan      {}", entry.plan);
        let _ = writeln!(text, "  queue     {}, priority {}", entry.queue, entry.priority.0);
        let _ = writeln!(text, "  catch-up  {catch_up}");
        for (number, slot) in next_slots(&entry.plan, now.timestamp_micros())
            .into_iter()
            .enumerate()
        {
            let label = if number == 0 { "next" } else { "" };
            let _ = writeln!(text, "  {label:9} {}", local(&entry.plan, slot));
        }
    }
    text
}

/// A table of the entries and their records.
pub(crate) async fn list(
    entries: &[ScheduleEntry],
    store: &Store,
    now: DateTime<Utc>,
) -> Result<String, RedisTrouble> {
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let records = store.records(&names).await?;
    let paused: HashSet<String> = store.paused().await?.into_iter().collect();
    let mut rows = vec![["ENTRY", "STATE", "RUNS", "LAST SENT", "NEXT", "QUEUE", "PLAN"].map(str::to_owned)];
    for (entry, record) in entries.iter().zip(records) {
        let state = match (entry.enabled, paused.contains(&entry.name)) {
            (false, _) => "disabled",
            (true, true) => "paused",
            (true, false) => "active",
        };
        rows.push([
            entry.name.clone(),
            state.to_owned(),
            record.map_or(0, |record| record.runs).to_string(),
            record
                .and_then(|record| record.sent)
                .map_or("-".to_owned(), |sent| local(&entry.plan, sent)),
            next(entry, record, now.timestamp_micros()),
            entry.queue.clone(),
            entry.plan.to_string(),
        ]);
    }
    Ok(table(&rows))
}

/// The entry with this name.
pub(crate) fn find<'e>(entries: &'e [ScheduleEntry], name: &str) -> Result<&'e ScheduleEntry, UnknownEntry> {
    entries.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let mut known: Vec<&str> = entries.iter().take(20).map(|entry| entry.name.as_str()).collect();
        if entries.len() > known.len() {
            known.push("…");
        }
        UnknownEntry {
            name: name.to_owned(),
            known: known.join(", "),
        }
    })
}

/// Sends an entry's task now and leaves its slots alone. Returns the task's id.
pub(crate) async fn run_now(
    entry: &ScheduleEntry,
    store: &Store,
    now: DateTime<Utc>,
    origin: &str,
) -> Result<String, RedisTrouble> {
    let id = Uuid::new_v4().to_string();
    let now = now.timestamp_micros();
    let message = entry.message(id.clone(), entry.expiry(now, now, now), now, origin);
    let list = store.keys().list_for(&entry.queue, entry.priority);
    store
        .connection()
        .command::<i64>(cmd("LPUSH").arg(list).arg(message))
        .await?;
    Ok(format!("{id}\n"))
}

/// Pauses or resumes entries.
pub(crate) async fn set_paused(
    entries: &[ScheduleEntry],
    names: &[String],
    store: &Store,
    paused: bool,
) -> anyhow::Result<String> {
    for name in names {
        find(entries, name)?;
    }
    let changed = store.set_paused(names, paused).await?;
    let state = if paused { "paused" } else { "active" };
    Ok(format!("{changed} changed, now {state}: {}\n", names.join(", ")))
}

/// The next slots of a plan that starts now; the first slot of an interval is now.
fn next_slots(plan: &Plan, now: Micros) -> Vec<Micros> {
    let mut slots = Vec::with_capacity(SHOWN);
    let mut after = match plan {
        Plan::Interval(_) => now - 1,
        Plan::Crontab(..) => now,
    };
    while slots.len() < SHOWN
        && let Some(slot) = plan.next(now, after)
    {
        slots.push(slot);
        after = slot;
    }
    slots
}

/// A slot in the plan's time zone.
fn local(plan: &Plan, slot: Micros) -> String {
    match plan {
        Plan::Interval(_) => time(slot).to_rfc3339_opts(SecondsFormat::Secs, true),
        Plan::Crontab(_, zone) => time(slot)
            .with_timezone(zone)
            .to_rfc3339_opts(SecondsFormat::Secs, true),
    }
}

fn next(entry: &ScheduleEntry, record: Option<SlotRecord>, now: Micros) -> String {
    let mut progress = Progress::default();
    progress.adopt(record);
    match decide(entry, &mut progress, now, false) {
        _ if !entry.enabled => "-".to_owned(),
        Decision::Never => "never".to_owned(),
        Decision::Wait(until) => local(&entry.plan, until),
        Decision::Act(act) if act.slots.is_empty() => entry
            .plan
            .next(act.anchor, now)
            .map_or("never".to_owned(), |slot| local(&entry.plan, slot)),
        Decision::Act(_) => "now".to_owned(),
    }
}

fn table(rows: &[[String; 7]]) -> String {
    let mut widths = [0; 7];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    text
}
