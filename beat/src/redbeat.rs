//! The schedule in RedBeat's keys, so that its tooling and a Python RedBeat can take over and back.
//!
//! With `--redbeat` the schedule is what `redbeat::schedule` holds: our entries, written as RedBeat writes those of its
//! configuration, and whatever else is there. The scheduler that holds `redbeat::lock` runs it, ours or Python's. Ours
//! sends a slot by a script that compares the entry's `meta`, pushes the message and moves `meta` and score on: several
//! of ours send a slot once even where the lock fails. Slots lie on the entry's grid; Python's drift with each run.
//!
//! Entries that cannot be run here as Python would (`rrule`, relative intervals, options such as `countdown`) stay as
//! they are. Nothing is deleted: RedBeat's tooling does that.

mod definition;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use chrono_tz::Tz;
use redis::{Pipeline, Script, cmd};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::{Connection, RedisTrouble, ScriptCall};
use tradebot_core::wire::keys::Keys;

use crate::entry::Entry;
use crate::metrics::Metrics;
use crate::running::{Beat, HEARTBEAT, HEARTBEAT_SECONDS, Instance, LONGEST_SLEEP, Parts, Standing};
use crate::slots::{Micros, Plan};

/// How long the lock outlives its last renewal; a Python RedBeat looks for it every five seconds.
const LOCK: Duration = Duration::from_secs(5);
/// Entries asked for at a time, and run in one tick.
const ROUND: usize = 1000;
/// Entries looked at in one tick, those that are left alone or disabled included.
const MOST: usize = 100_000;
/// An entry whose slot is so far in the future ran by a clock that was set back since.
const FUTURE: Micros = 60_000_000;

/// Names of RedBeat's keys, and what Python has in its configuration.
#[derive(Debug, Clone)]
pub(crate) struct RedbeatOptions {
    /// `redbeat_key_prefix`.
    pub(crate) prefix: String,
    /// `timezone` of the Python application, in which crontabs are.
    pub(crate) zone: Tz,
    /// Queue of entries that name none.
    pub(crate) queue: String,
}

/// A scheduler that shares RedBeat's keys.
pub(crate) struct Redbeat {
    entries: Vec<Entry>,
    connection: Connection,
    keys: Keys,
    options: RedbeatOptions,
    clock: SharedClock,
    instance: Instance,
    metrics: Metrics,
    holds_lock: bool,
    installed: bool,
    beaten: Option<Instant>,
    last_slot: Option<Micros>,
    /// Entries that are left alone, as was said already.
    left: HashSet<String>,
    lock: Script,
    claim: Script,
    release: Script,
}

/// An entry on the schedule, as Redis has it.
struct Scheduled {
    key: String,
    entry: Entry,
    meta: String,
    last_run: Option<Micros>,
    runs: u64,
}

impl Redbeat {
    /// Our entries must be such that RedBeat can have them.
    pub(crate) fn new(parts: Parts, options: RedbeatOptions) -> Result<Self> {
        for entry in &parts.entries {
            definition::definition(entry, options.zone, parts.instance.started_at)?;
        }
        parts.metrics.note_entries(parts.entries.len());
        Ok(Self {
            entries: parts.entries,
            connection: parts.store.connection().clone(),
            keys: parts.store.keys().clone(),
            options,
            clock: parts.clock,
            instance: parts.instance,
            metrics: parts.metrics,
            holds_lock: false,
            installed: false,
            beaten: None,
            last_slot: None,
            left: HashSet::new(),
            lock: Script::new(include_str!("scripts/redbeat_lock.lua")),
            claim: Script::new(include_str!("scripts/redbeat_claim.lua")),
            release: Script::new(include_str!("scripts/leave.lua")),
        })
    }

    fn now(&self) -> Micros {
        self.clock.now().timestamp_micros()
    }

    fn named(&self, rest: &str) -> String {
        format!("{}{rest}", self.options.prefix)
    }

    /// Takes or extends the lock of all schedulers.
    async fn take_lock(&mut self) -> Result<bool, RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.named(":lock"))
            .arg(&self.instance.id)
            .number(LOCK.as_millis());
        let held: i64 = self.connection.script(None, &self.lock, &call).await?;
        let held = held == 1;
        if held != self.holds_lock {
            info!(
                "{}",
                if held {
                    "this beat holds RedBeat's lock"
                } else {
                    "another scheduler holds RedBeat's lock"
                }
            );
            self.metrics.leader.set(held.into());
            self.beaten = None;
            // Whoever had it meanwhile may have installed other entries in place of ours.
            self.installed &= held;
        }
        self.holds_lock = held;
        Ok(held)
    }

    /// Writes our entries as RedBeat writes those of its configuration: what ran before stays known.
    async fn install(&mut self) -> Result<(), RedisTrouble> {
        let now = self.now();
        for part in self.entries.chunks(ROUND) {
            let mut ask = Pipeline::new();
            for entry in part {
                ask.cmd("HGET").arg(self.named(&entry.name)).arg("meta");
            }
            let metas: Vec<Option<String>> = self.connection.pipeline(&ask).await?;
            let mut write = Pipeline::new();
            write.atomic();
            for (entry, meta) in part.iter().zip(metas) {
                let key = self.named(&entry.name);
                let Ok(definition) = definition::definition(entry, self.options.zone, now) else {
                    continue;
                };
                let (last_run, _) = meta.as_deref().map_or((None, 0), definition::last_run);
                // RedBeat runs what never ran at once; a crontab here begins with its next minute.
                let meta = match (&entry.plan, last_run) {
                    (Plan::Crontab(..), None) => definition::meta(now, 0),
                    _ => json!({"last_run_at": null}).to_string(),
                };
                let since = last_run.unwrap_or(now);
                let score = match (&entry.plan, last_run) {
                    (Plan::Interval(_), None) => Some(now),
                    _ => entry.plan.next(since, since),
                };
                write.hset(&key, "definition", definition).ignore();
                write.hset_nx(&key, "meta", meta).ignore();
                write
                    .zadd(
                        self.named(":schedule"),
                        &key,
                        score.map_or(-1, |score| score / 1_000_000),
                    )
                    .ignore();
                write.sadd(self.named(":statics"), &entry.name).ignore();
            }
            self.connection.pipeline::<()>(&write).await?;
        }
        Ok(())
    }

    /// The entries that are due, or will be within a sleep. What cannot be run keeps its place, before all of them.
    async fn due(&mut self, now: Micros) -> Result<Vec<Scheduled>, RedisTrouble> {
        let (mut found, mut looked) = (Vec::new(), 0);
        while found.len() < ROUND && looked < MOST {
            let mut ask = cmd("ZRANGEBYSCORE");
            ask.arg(self.named(":schedule")).arg(0).arg(now / 1_000_000 + 1);
            ask.arg("LIMIT").arg(looked).arg(ROUND);
            let keys: Vec<String> = self.connection.command(&ask).await?;
            self.metrics.heard.set(now / 1_000_000);
            looked += keys.len();
            let last = keys.len() < ROUND;
            if !keys.is_empty() {
                self.read(keys, &mut found).await?;
            }
            if last {
                break;
            }
        }
        Ok(found)
    }

    /// Adds to `found` those entries that can be run.
    async fn read(&mut self, keys: Vec<String>, found: &mut Vec<Scheduled>) -> Result<(), RedisTrouble> {
        let mut ask = Pipeline::new();
        for key in &keys {
            ask.cmd("HMGET").arg(key).arg("definition").arg("meta");
        }
        let documents: Vec<(Option<String>, Option<String>)> = self.connection.pipeline(&ask).await?;
        for (key, (definition, meta)) in keys.into_iter().zip(documents) {
            let Some(definition) = definition else {
                continue;
            };
            match definition::entry(&definition, self.options.zone, &self.options.queue) {
                Ok(entry) if entry.enabled => {
                    let meta = meta.unwrap_or_default();
                    let (last_run, runs) = definition::last_run(&meta);
                    self.left.remove(&key);
                    found.push(Scheduled {
                        key,
                        entry,
                        meta,
                        last_run,
                        runs,
                    });
                }
                Ok(_) => {}
                Err(reason) => {
                    if self.left.insert(key.clone()) {
                        warn!(key, %reason, "an entry of RedBeat is left alone");
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends the slot that is due, unless somebody moved the entry on.
    async fn send(&mut self, scheduled: &Scheduled, due: Micros, now: Micros) -> Result<(), RedisTrouble> {
        let Scheduled { key, entry, .. } = scheduled;
        // Of several slots that passed the last is sent, as RedBeat sends one for all.
        let (slot, passed) = match scheduled.last_run {
            Some(last) if last <= now => entry.plan.passed(last, last, now).unwrap_or((due, 1)),
            _ => (due, 1),
        };
        let id = entry.task_id(slot);
        let message = entry.message(id.clone(), slot, slot, now, &self.instance.origin);
        let score = entry.plan.next(slot, slot).map_or(-1, |next| next / 1_000_000);
        let mut call = ScriptCall::default();
        call.key(key)
            .key(self.named(":schedule"))
            .key(self.keys.list_for(&entry.queue, entry.priority));
        call.arg(&scheduled.meta)
            .arg(definition::meta(slot, scheduled.runs + 1))
            .number(score)
            .arg(&message);
        let sent: i64 = self.connection.script(None, &self.claim, &call).await?;
        if sent == 1 {
            let late = Duration::from_micros((self.now() - slot).max(0).unsigned_abs());
            self.instance.tell_sent(entry, &id, late);
            self.metrics.note_sent(late, now);
            self.metrics.missed.inc_by(passed - 1);
            self.last_slot = Some(slot);
        }
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<(), RedisTrouble> {
        if self.beaten.is_some_and(|beaten| beaten.elapsed() < HEARTBEAT) {
            return Ok(());
        }
        let text = self.instance.heartbeat(&Standing {
            entries: self.entries.len(),
            last_slot: self.last_slot,
            next_due: None,
            leader: self.holds_lock,
        });
        let mut set = cmd("SET");
        set.arg(self.keys.beat(&self.instance.id)).arg(text);
        self.connection
            .command::<()>(set.arg("EX").arg(HEARTBEAT_SECONDS))
            .await?;
        self.beaten = Some(Instant::now());
        Ok(())
    }
}

impl Beat for Redbeat {
    async fn turn(&mut self) -> Result<Duration, RedisTrouble> {
        self.heartbeat().await?;
        if !self.take_lock().await? {
            return Ok(LONGEST_SLEEP);
        }
        if !self.installed {
            self.install().await?;
            self.installed = true;
        }
        let now = self.now();
        let mut pause = LONGEST_SLEEP;
        for scheduled in self.due(now).await? {
            let due = due_at(&scheduled, now);
            if due <= now {
                self.send(&scheduled, due, now).await?;
            } else {
                pause = pause.min(Duration::from_micros((due - now).unsigned_abs()));
            }
        }
        Ok(pause)
    }

    fn troubled(&mut self) {
        self.metrics.broker_errors.inc();
    }

    async fn leave(&self) -> Result<(), RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.named(":lock"))
            .key(self.keys.beat(&self.instance.id))
            .arg(&self.instance.id);
        self.connection
            .script::<i64>(None, &self.release, &call)
            .await
            .map(|_| ())
    }
}

/// When an entry is due, by its last run.
fn due_at(scheduled: &Scheduled, now: Micros) -> Micros {
    match scheduled.last_run {
        // It never ran, or by a clock that was set back since.
        None => now,
        Some(last) if last > now + FUTURE => scheduled.entry.plan.next(now, now).unwrap_or(Micros::MAX),
        Some(last) => scheduled.entry.plan.next(last, last).unwrap_or(Micros::MAX),
    }
}
