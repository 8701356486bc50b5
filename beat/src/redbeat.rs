//! The schedule in RedBeat's keys, which a Python RedBeat and its tools can share and take over.
//!
//! With `--redbeat` the schedule is what `redbeat::schedule` holds: our entries, written as RedBeat writes those of its
//! configuration, and all others in it. The scheduler that holds `redbeat::lock` runs it, ours or Python's. Ours sends a
//! slot by a script that compares the entry's `meta`, pushes the message and updates `meta` and score, so that several of
//! ours send a slot once even if the lock fails. Our slots lie on the entry's grid; Python's drift with each run.
//!
//! Entries that need what this beat does not support (`rrule`, relative intervals, options such as `countdown`) are left
//! to Python. This beat deletes no entry: RedBeat's tools do that.

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

use crate::entry::ScheduleEntry;
use crate::metrics::Metrics;
use crate::running::{
    HEARTBEAT_INTERVAL, HEARTBEAT_TTL_SECONDS, Instance, LONGEST_SLEEP, Scheduler, Setup, Status,
};
use crate::slots::{Micros, Plan};

/// How long the lock outlives its last renewal; a Python RedBeat tries for it every five seconds.
const LOCK: Duration = Duration::from_secs(5);
/// How many entries one command reads and one turn runs.
const ROUND: usize = 1000;
/// How many entries one turn looks at, unsupported and disabled ones included.
const MOST: usize = 100_000;
/// If the last run is further ahead than this, the clock was set back since.
const FUTURE: Micros = 60_000_000;

/// RedBeat's settings, as in the configuration of the Python application.
#[derive(Debug, Clone)]
pub(crate) struct RedbeatOptions {
    /// `redbeat_key_prefix`.
    pub(crate) prefix: String,
    /// `timezone`, which applies to crontabs.
    pub(crate) zone: Tz,
    /// Queue of entries that name none.
    pub(crate) queue: String,
}

/// A scheduler on RedBeat's keys.
pub(crate) struct Redbeat {
    entries: Vec<ScheduleEntry>,
    connection: Connection,
    keys: Keys,
    options: RedbeatOptions,
    clock: SharedClock,
    instance: Instance,
    metrics: Metrics,
    holds_lock: bool,
    installed: bool,
    heartbeat_at: Option<Instant>,
    last_slot: Option<Micros>,
    /// Keys of the unsupported entries that the log has named.
    unsupported: HashSet<String>,
    lock: Script,
    claim: Script,
    release: Script,
}

/// An entry as read from Redis.
struct RedbeatEntry {
    key: String,
    entry: ScheduleEntry,
    meta: String,
    last_run: Option<Micros>,
    runs: u64,
}

impl Redbeat {
    /// Fails if RedBeat cannot represent one of our entries.
    pub(crate) fn new(setup: Setup, options: RedbeatOptions) -> Result<Self> {
        for entry in &setup.entries {
            definition::definition(entry, options.zone, setup.instance.started_at)?;
        }
        setup.metrics.set_entries(setup.entries.len());
        Ok(Self {
            entries: setup.entries,
            connection: setup.store.connection().clone(),
            keys: setup.store.keys().clone(),
            options,
            clock: setup.clock,
            instance: setup.instance,
            metrics: setup.metrics,
            holds_lock: false,
            installed: false,
            heartbeat_at: None,
            last_slot: None,
            unsupported: HashSet::new(),
            lock: Script::new(include_str!("scripts/redbeat_lock.lua")),
            claim: Script::new(include_str!("scripts/redbeat_claim.lua")),
            release: Script::new(include_str!("scripts/leave.lua")),
        })
    }

    fn now(&self) -> Micros {
        self.clock.now().timestamp_micros()
    }

    fn key(&self, rest: &str) -> String {
        format!("{}{rest}", self.options.prefix)
    }

    /// Takes or extends the lock that all schedulers share; returns whether this beat holds it.
    async fn take_lock(&mut self) -> Result<bool, RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.key(":lock"))
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
            self.heartbeat_at = None;
            // Another scheduler may have replaced our entries meanwhile.
            self.installed &= held;
        }
        self.holds_lock = held;
        Ok(held)
    }

    /// Writes our entries as RedBeat writes those of its configuration, and keeps the last run of those already there.
    async fn install(&mut self) -> Result<(), RedisTrouble> {
        let now = self.now();
        for part in self.entries.chunks(ROUND) {
            let mut ask = Pipeline::new();
            for entry in part {
                ask.cmd("HGET").arg(self.key(&entry.name)).arg("meta");
            }
            let metas: Vec<Option<String>> = self.connection.pipeline(&ask).await?;
            let mut write = Pipeline::new();
            write.atomic();
            for (entry, meta) in part.iter().zip(metas) {
                let key = self.key(&entry.name);
                let Ok(definition) = definition::definition(entry, self.options.zone, now) else {
                    continue;
                };
                let (last_run, _) = meta.as_deref().map_or((None, 0), definition::last_run);
                // RedBeat runs an entry without a last run at once; our crontabs wait for their next minute.
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
                        self.key(":schedule"),
                        &key,
                        score.map_or(-1, |score| score / 1_000_000),
                    )
                    .ignore();
                write.sadd(self.key(":statics"), &entry.name).ignore();
            }
            self.connection.pipeline::<()>(&write).await?;
        }
        Ok(())
    }

    /// The entries that are due now or within the next sleep. Unsupported entries stay first in the schedule for good,
    /// so this reads past them.
    async fn due(&mut self, now: Micros) -> Result<Vec<RedbeatEntry>, RedisTrouble> {
        let (mut found, mut looked) = (Vec::new(), 0);
        while found.len() < ROUND && looked < MOST {
            let mut ask = cmd("ZRANGEBYSCORE");
            ask.arg(self.key(":schedule")).arg(0).arg(now / 1_000_000 + 1);
            ask.arg("LIMIT").arg(looked).arg(ROUND);
            let keys: Vec<String> = self.connection.command(&ask).await?;
            self.metrics.broker_answered_at(now);
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

    /// Reads entries and adds the ones this beat can run to `found`.
    async fn read(&mut self, keys: Vec<String>, found: &mut Vec<RedbeatEntry>) -> Result<(), RedisTrouble> {
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
                    self.unsupported.remove(&key);
                    found.push(RedbeatEntry {
                        key,
                        entry,
                        meta,
                        last_run,
                        runs,
                    });
                }
                Ok(_) => {}
                Err(reason) => {
                    if self.unsupported.insert(key.clone()) {
                        warn!(key, %reason, "cannot run a RedBeat entry, leaving it to Python");
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends the due slot, unless the entry has changed since it was read.
    async fn send(&mut self, scheduled: &RedbeatEntry, due: Micros, now: Micros) -> Result<(), RedisTrouble> {
        let RedbeatEntry { key, entry, .. } = scheduled;
        // If several slots passed, send only the last, as RedBeat does.
        let (slot, passed) = match scheduled.last_run {
            Some(last) if last <= now => entry.plan.passed(last, last, now).unwrap_or((due, 1)),
            _ => (due, 1),
        };
        let id = entry.task_id(slot);
        let expires = entry.expiry(slot, slot, now);
        let message = entry.message(id.clone(), expires, now, &self.instance.origin);
        let score = entry.plan.next(slot, slot).map_or(-1, |next| next / 1_000_000);
        let mut call = ScriptCall::default();
        call.key(key)
            .key(self.key(":schedule"))
            .key(self.keys.list_for(&entry.queue, entry.priority));
        call.arg(&scheduled.meta)
            .arg(definition::meta(slot, scheduled.runs + 1))
            .number(score)
            .arg(&message);
        let sent: i64 = self.connection.script(None, &self.claim, &call).await?;
        if sent == 1 {
            let late = Duration::from_micros((self.now() - slot).max(0).unsigned_abs());
            self.instance.log_sent(entry, &id, late);
            self.metrics.message_sent(late, now);
            self.metrics.missed.inc_by(passed - 1);
            self.last_slot = Some(slot);
        }
        Ok(())
    }

    async fn heartbeat(&mut self) -> Result<(), RedisTrouble> {
        if self
            .heartbeat_at
            .is_some_and(|at| at.elapsed() < HEARTBEAT_INTERVAL)
        {
            return Ok(());
        }
        let text = self.instance.heartbeat(&Status {
            entries: self.entries.len(),
            last_slot: self.last_slot,
            next_due: None,
            leader: self.holds_lock,
        });
        let mut set = cmd("SET");
        set.arg(self.keys.beat(&self.instance.id)).arg(text);
        self.connection
            .command::<()>(set.arg("EX").arg(HEARTBEAT_TTL_SECONDS))
            .await?;
        self.heartbeat_at = Some(Instant::now());
        Ok(())
    }
}

impl Scheduler for Redbeat {
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

    fn turn_failed(&mut self) {
        self.metrics.broker_errors.inc();
    }

    async fn leave(&self) -> Result<(), RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.key(":lock"))
            .key(self.keys.beat(&self.instance.id))
            .arg(&self.instance.id);
        self.connection
            .script::<i64>(None, &self.release, &call)
            .await
            .map(|_| ())
    }
}

/// When an entry is due after its last run. An entry that never ran is due now.
fn due_at(scheduled: &RedbeatEntry, now: Micros) -> Micros {
    match scheduled.last_run {
        None => now,
        Some(last) if last > now + FUTURE => scheduled.entry.plan.next(now, now).unwrap_or(Micros::MAX),
        Some(last) => scheduled.entry.plan.next(last, last).unwrap_or(Micros::MAX),
    }
}
