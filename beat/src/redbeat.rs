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
mod schedule;

use std::collections::HashSet;
use std::time::Duration;

use anyhow::Result;
use chrono_tz::Tz;
use redis::Script;
use tokio::time::Instant;
use tracing::info;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::RedisTrouble;

use crate::entry::ScheduleEntry;
use crate::metrics::Metrics;
use crate::running::{HEARTBEAT_INTERVAL, Instance, LONGEST_SLEEP, Scheduler, Setup, Status, is_wrong_type};
use crate::slots::Micros;
use crate::store::Store;

use self::schedule::RedbeatEntry;

/// How long the lock outlives its last renewal; a Python RedBeat tries for it every five seconds.
const LOCK: Duration = Duration::from_secs(5);
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
    store: Store,
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
}

impl Redbeat {
    /// Fails if RedBeat cannot represent one of our entries.
    pub(crate) fn new(setup: Setup, options: RedbeatOptions) -> Result<Self> {
        for entry in &setup.entries {
            definition::check(entry, options.zone)?;
        }
        setup.metrics.set_entries(setup.entries.len());
        Ok(Self {
            entries: setup.entries,
            store: setup.store,
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
        let mut call = self.lock.prepare_invoke();
        call.key(self.key(":lock"))
            .arg(&self.instance.id)
            .arg(LOCK.as_millis());
        let held: i64 = self.store.connection().script(None, &call).await?;
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
        let mut call = self.claim.prepare_invoke();
        call.key(key)
            .key(self.key(":schedule"))
            .key(self.store.keys().list_for(&entry.queue, entry.priority));
        call.arg(&scheduled.meta[..])
            .arg(definition::meta(slot, scheduled.runs + 1))
            .arg(score(entry.plan.next(slot, slot)))
            .arg(&message);
        let sent: i64 = self.store.connection().script(None, &call).await?;
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
        let write = self.store.heartbeat(&self.instance.id, &text);
        self.store.connection().command::<()>(&write).await?;
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
                match self.send(&scheduled, due, now).await {
                    Err(trouble) if is_wrong_type(&trouble) => {
                        self.metrics.refused.inc();
                        let queue = &scheduled.entry.queue;
                        let reason = format!("it or its queue `{queue}` holds another type");
                        self.name_unusable(&scheduled.key, &reason);
                    }
                    sent => sent?,
                }
            } else {
                pause = pause.min(Duration::from_micros((due - now).unsigned_abs()));
            }
        }
        Ok(pause)
    }

    fn turn_failed(&mut self) {
        self.metrics.broker_errors.inc();
    }

    async fn repair(&mut self) -> Result<bool, RedisTrouble> {
        self.installed = false;
        let shared = [(self.key(":lock"), "GET"), (self.key(":schedule"), "ZCARD")];
        self.store.repair(&shared).await
    }

    async fn leave(&self) -> Result<(), RedisTrouble> {
        self.store.leave(&self.key(":lock"), &self.instance.id).await
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

/// The score of an entry in the schedule: when it is next due, in seconds; -1 for never.
fn score(next: Option<Micros>) -> i64 {
    next.map_or(-1, |next| next / 1_000_000)
}
