//! The loop: wait for the next due entries, take their slots, wait again.
//!
//! Every beat runs it. The one that holds the lease takes slots as they become due; the others come
//! [a moment later](lease), read the records, and take what was left: a beat that was killed, stopped or cut off costs
//! its slots that moment. While the broker is away due entries stay due; what is sent once it is back is each entry's
//! catch-up policy.
//!
//! [`agenda`] is when each entry is to be looked at, [`ahead`] makes messages before they are due, [`firing`] takes the
//! slots of the entries that are due, and [`outcome`] notes what became of them.

mod agenda;
mod ahead;
mod firing;
mod lease;
mod outcome;

use std::collections::HashSet;
use std::time::Duration;

use tradebot_base::connection::RedisTrouble;

use crate::due::{Decision, State, decide};
use crate::entry::Entry;
use crate::metrics::Metrics;
use crate::running::{Beat, Instance, LONGEST_SLEEP, Parts};
use crate::slots::Micros;
use crate::store::Store;
use crate::timing::BeatClock;
use agenda::Agenda;
use ahead::{AHEAD, Ahead};
use lease::Lease;

/// Entries that are worked off at a time.
const ROUND: usize = 2000;
/// When an entry is tried again whose queue takes no message.
const REFUSED: Micros = 1_000_000;

/// A running schedule.
pub(crate) struct Ticker {
    entries: Vec<Entry>,
    states: Vec<State>,
    agenda: Agenda,
    ahead: Ahead,
    store: Store,
    clock: BeatClock,
    instance: Instance,
    metrics: Metrics,
    lease: Lease,
    /// What was sent of each entry has been read.
    loaded: bool,
    /// The clock was set, and what that means is not worked off yet.
    jumped: bool,
    last_slot: Option<Micros>,
    /// Every entry is to be put on the agenda anew.
    reschedule: bool,
    /// Entries whose queue took no message, as was said already.
    refused: HashSet<usize>,
}

impl Ticker {
    /// A ticker of the entries that are enabled.
    pub(crate) fn new(parts: Parts) -> Self {
        let entries: Vec<Entry> = parts.entries.into_iter().filter(|entry| entry.enabled).collect();
        parts.metrics.note_entries(entries.len());
        Self {
            states: vec![State::default(); entries.len()],
            agenda: Agenda::with_capacity(entries.len()),
            ahead: Ahead::default(),
            entries,
            store: parts.store,
            clock: BeatClock::new(parts.clock),
            instance: parts.instance,
            metrics: parts.metrics,
            lease: Lease::new(),
            loaded: false,
            jumped: false,
            last_slot: None,
            reschedule: true,
            refused: HashSet::new(),
        }
    }

    /// Reads what was sent of each entry.
    async fn load(&mut self) -> Result<(), RedisTrouble> {
        let all: Vec<usize> = (0..self.entries.len()).collect();
        self.refresh(&all).await
    }

    async fn refresh(&mut self, entries: &[usize]) -> Result<(), RedisTrouble> {
        let names: Vec<&str> = entries
            .iter()
            .map(|entry| self.entries[*entry].name.as_str())
            .collect();
        let records = self.store.records(&names).await?;
        for (entry, record) in entries.iter().zip(records) {
            self.states[*entry].adopt(record);
        }
        Ok(())
    }

    /// Puts every entry on the agenda anew, by the clock as it is now.
    fn schedule_all(&mut self) {
        self.agenda.clear();
        self.ahead.clear();
        let now = self.clock.now();
        for entry in 0..self.entries.len() {
            self.schedule(entry, now);
        }
    }

    fn schedule(&mut self, entry: usize, now: Micros) {
        match decide(&self.entries[entry], &mut self.states[entry], now, self.jumped) {
            Decision::Wait(until) => self.agenda.push(until, entry),
            Decision::Act(_) => self.agenda.push(now, entry),
            Decision::Never => {}
        }
    }

    /// Takes what is due; returns how long nothing is to be done.
    async fn tick(&mut self) -> Result<Duration, RedisTrouble> {
        if let Some(by) = self.clock.jump() {
            self.set_clock(by, "the clock was set, or this machine slept");
        }
        if self.lease.until_kept().is_zero() {
            self.keep().await?;
        }
        loop {
            if std::mem::take(&mut self.reschedule) {
                self.schedule_all();
            }
            let due = self.pop_due();
            if due.is_empty() {
                break;
            }
            if let Err(trouble) = self.fire(&due).await {
                let now = self.clock.now();
                let waiting: HashSet<usize> = self.agenda.entries().collect();
                for entry in due.into_iter().filter(|entry| !waiting.contains(entry)) {
                    self.agenda.push(now, entry);
                }
                return Err(trouble);
            }
        }
        self.jumped = false;
        let pause = LONGEST_SLEEP.min(self.lease.until_kept());
        let Some(next) = self.agenda.next() else {
            return Ok(pause);
        };
        let mut wake = next + self.lease.patience();
        if self.lease.leads && self.ahead.lacks(next) {
            if next - self.clock.now() <= AHEAD {
                self.prepare(next);
            } else {
                wake -= AHEAD;
            }
        }
        let until_due = u64::try_from(wake - self.clock.now()).unwrap_or(0);
        Ok(pause.min(Duration::from_micros(until_due)))
    }

    fn pop_due(&mut self) -> Vec<usize> {
        let until = self.clock.now() - self.lease.patience();
        std::iter::from_fn(|| self.agenda.pop(until))
            .take(ROUND)
            .map(|(_, entry)| entry)
            .collect()
    }
}

impl Beat for Ticker {
    async fn turn(&mut self) -> Result<Duration, RedisTrouble> {
        if !self.loaded {
            self.load().await?;
            self.loaded = true;
        }
        self.tick().await
    }

    fn troubled(&mut self) {
        self.metrics.broker_errors.inc();
        self.lease.forget();
    }

    async fn leave(&self) -> Result<(), RedisTrouble> {
        if self.instance.dry_run {
            return Ok(());
        }
        self.store.leave(&self.instance.id).await
    }
}
