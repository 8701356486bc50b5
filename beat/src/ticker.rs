//! The main loop: wait for the next due entry, claim its slots, wait again.
//!
//! Every beat runs this loop. The leader claims slots as they fall due. Followers wait [a little longer](lease), read the
//! records again and claim what is left: if the leader is killed, stopped or cut off, its slots are late by that little.
//! While the broker is away, due entries stay due; each entry's catch-up policy decides what is sent afterwards.
//!
//! [`agenda`] orders entries by time, [`claiming`] claims the slots that are due, [`outcome`] records the result, and
//! [`lease`] decides which beat leads and by which clock.

mod agenda;
mod claiming;
mod lease;
mod outcome;

use std::collections::HashSet;
use std::time::Duration;

use tradebot_base::connection::RedisTrouble;

use crate::due::{Decision, Progress, decide};
use crate::entry::ScheduleEntry;
use crate::metrics::Metrics;
use crate::running::{Instance, LONGEST_SLEEP, Scheduler, Setup};
use crate::slots::Micros;
use crate::store::Store;
use crate::timing::BeatClock;
use agenda::Agenda;
use lease::LeaderLease;

/// How many due entries one turn handles, before it looks at the clock and the lease again.
const ROUND: usize = 2000;
/// How long an entry waits before it tries a queue again that refused its message.
const REFUSED_WAIT: Micros = 1_000_000;

/// A running schedule.
pub(crate) struct Ticker {
    entries: Vec<ScheduleEntry>,
    /// By entry, as this beat last saw it.
    progress: Vec<Progress>,
    agenda: Agenda,
    store: Store,
    clock: BeatClock,
    instance: Instance,
    metrics: Metrics,
    lease: LeaderLease,
    /// The records have been read.
    loaded: bool,
    /// The clock was set, and entries are yet to be decided by the new time.
    clock_jumped: bool,
    /// The agenda is out of date.
    reschedule: bool,
    last_slot: Option<Micros>,
    /// Entries whose queue refused the last message; the log has said so.
    refused: HashSet<usize>,
}

impl Ticker {
    /// Schedules the enabled entries.
    pub(crate) fn new(mut setup: Setup) -> Self {
        let entries: Vec<ScheduleEntry> = setup.entries.into_iter().filter(|entry| entry.enabled).collect();
        setup.metrics.set_entries(entries.len());
        Self {
            progress: vec![Progress::default(); entries.len()],
            agenda: Agenda::default(),
            entries,
            store: setup.store,
            clock: BeatClock::new(setup.clock),
            instance: setup.instance,
            metrics: setup.metrics,
            lease: LeaderLease::new(&mut setup.rng),
            loaded: false,
            clock_jumped: false,
            reschedule: true,
            last_slot: None,
            refused: HashSet::new(),
        }
    }

    /// Reads the records of entries.
    async fn refresh(&mut self, entries: &[usize]) -> Result<(), RedisTrouble> {
        let names: Vec<&str> = entries
            .iter()
            .map(|entry| self.entries[*entry].name.as_str())
            .collect();
        let records = self.store.records(&names).await?;
        for (entry, record) in entries.iter().zip(records) {
            self.progress[*entry].adopt(record);
        }
        Ok(())
    }

    /// Rebuilds the agenda by the clock as it is now.
    fn schedule_all(&mut self) {
        self.agenda.clear();
        let now = self.clock.now();
        for entry in 0..self.entries.len() {
            self.schedule(entry, now);
        }
    }

    fn schedule(&mut self, entry: usize, now: Micros) {
        match decide(
            &self.entries[entry],
            &mut self.progress[entry],
            now,
            self.clock_jumped,
        ) {
            Decision::Wait(until) => self.agenda.push(until, entry),
            Decision::Act(_) => self.agenda.push(now, entry),
            Decision::Never => {}
        }
    }

    /// Claims what is due; returns how long to sleep.
    async fn tick(&mut self) -> Result<Duration, RedisTrouble> {
        if let Some(by) = self.clock.jump() {
            self.clock_changed(by, "the clock was set, or this machine slept");
        }
        if self.lease.until_renewal().is_zero() {
            self.renew_lease().await?;
        }
        if std::mem::take(&mut self.reschedule) {
            self.schedule_all();
        }
        let due = self.pop_due();
        if !due.is_empty() {
            let claimed = self.claim_due(&due).await;
            self.reschedule |= claimed.is_err();
            return claimed.map(|()| Duration::ZERO);
        }
        self.clock_jumped = false;
        Ok(self.until_next())
    }

    fn until_next(&self) -> Duration {
        let pause = LONGEST_SLEEP.min(self.lease.until_renewal());
        let Some(next) = self.agenda.next() else {
            return pause;
        };
        let until_due = next + self.lease.patience() - self.clock.now();
        pause.min(Duration::from_micros(u64::try_from(until_due).unwrap_or(0)))
    }

    fn pop_due(&mut self) -> Vec<usize> {
        let until = self.clock.now() - self.lease.patience();
        std::iter::from_fn(|| self.agenda.pop(until))
            .take(ROUND)
            .collect()
    }
}

impl Scheduler for Ticker {
    async fn turn(&mut self) -> Result<Duration, RedisTrouble> {
        if !self.loaded {
            let all: Vec<usize> = (0..self.entries.len()).collect();
            self.refresh(&all).await?;
            self.loaded = true;
        }
        self.tick().await
    }

    fn turn_failed(&mut self) {
        self.metrics.broker_errors.inc();
        self.lease.renew_soon();
    }

    async fn repair(&mut self) -> Result<bool, RedisTrouble> {
        let keys = self.store.keys();
        let own = [
            (keys.beat_slots(), "HLEN"),
            (keys.beat_paused(), "SMEMBERS"),
            (keys.beat_leader(), "GET"),
        ];
        self.loaded = false;
        self.reschedule = true;
        self.store.repair(&own).await
    }

    async fn leave(&self) -> Result<(), RedisTrouble> {
        if self.instance.dry_run {
            return Ok(());
        }
        let lease = self.store.keys().beat_leader();
        self.store.leave(&lease, &self.instance.id).await
    }
}
