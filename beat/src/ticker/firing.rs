//! Taking the slots of entries that are due.

use futures_util::future::join_all;
use tradebot_symbols::core::transport::RedisTrouble;

use super::{REFUSED, ROUND, Ticker};
use crate::due::{Act, Decision, Guard, decide};
use crate::slots::Micros;
use crate::store::{Answer, BATCH, Claim};

/// One slot that is to be taken.
pub(super) struct Taking {
    pub(super) entry: usize,
    pub(super) guard: Guard,
    pub(super) anchor: Micros,
    pub(super) slot: Micros,
    /// Empty if the slot is passed over.
    pub(super) id: String,
    pub(super) missed: u64,
    pub(super) caught_up: u64,
    pub(super) pending: bool,
}

impl Ticker {
    /// Takes the slots of entries that are due, and puts the entries back on the agenda.
    pub(super) async fn fire(&mut self, entries: &[usize]) -> Result<(), RedisTrouble> {
        if !self.lease.leads {
            self.keep().await?;
            self.refresh(entries).await?;
            if !self.lease.clock_known {
                let later = self.clock.now();
                for entry in entries {
                    self.agenda.push(later, *entry);
                }
                return Ok(());
            }
            if self.reschedule {
                // The clock is another one now; these entries are put on the agenda with all others.
                return Ok(());
            }
        }
        let now = self.clock.now();
        let mut takings = Vec::with_capacity(entries.len());
        for &entry in entries {
            match decide(&self.entries[entry], &mut self.states[entry], now, self.jumped) {
                Decision::Wait(until) => self.agenda.push(until, entry),
                Decision::Never => {}
                Decision::Act(act) => takings.extend(self.takings(entry, &act)),
            }
        }
        self.pass_over_pending(&mut takings, now).await?;
        self.take(&takings).await?;
        let now = self.clock.now();
        let mut last = None;
        for taking in &takings {
            // The slots of an entry stand together.
            if last.replace(taking.entry) != Some(taking.entry) {
                if self.refused.contains(&taking.entry) {
                    self.agenda.push(now + REFUSED, taking.entry);
                } else {
                    self.schedule(taking.entry, now);
                }
            }
        }
        Ok(())
    }

    /// Takes slots, and notes what became of each as far as that is known.
    async fn take(&mut self, takings: &[Taking]) -> Result<(), RedisTrouble> {
        let one_each = takings.windows(2).all(|pair| pair[0].entry != pair[1].entry);
        // Several slots of one entry must be taken in their order, whatever becomes of a batch.
        let at_a_time = if one_each { ROUND } else { BATCH };
        for part in takings.chunks(at_a_time) {
            let batches = part.chunks(BATCH);
            let answers = join_all(batches.clone().map(|batch| self.claim(batch))).await;
            let mut outcome = Ok(());
            for (batch, answers) in batches.zip(answers) {
                match answers {
                    Ok(answers) => {
                        for (taking, answer) in batch.iter().zip(answers) {
                            self.settle(taking, answer);
                        }
                    }
                    Err(trouble) => outcome = Err(trouble),
                }
            }
            outcome?;
            self.heard();
        }
        Ok(())
    }

    fn takings(&self, entry: usize, act: &Act) -> Vec<Taking> {
        let mut guard = act.guard;
        let mut counts = (act.missed, act.caught_up);
        let mut one = |slot: Micros, sends: bool| {
            let (missed, caught_up) = std::mem::take(&mut counts);
            Taking {
                entry,
                guard: std::mem::replace(&mut guard, Guard::After),
                anchor: act.anchor,
                slot,
                id: if sends {
                    self.entries[entry].task_id(slot)
                } else {
                    String::new()
                },
                missed,
                caught_up,
                pending: false,
            }
        };
        let slots = act.slots.iter().map(|slot| (*slot, true));
        let slots = slots.chain(act.pass.map(|slot| (slot, false)));
        slots.map(|(slot, sends)| one(slot, sends)).collect()
    }

    /// Has the slots passed over whose entry does not send while its last message is pending.
    async fn pass_over_pending(&self, takings: &mut [Taking], now: Micros) -> Result<(), RedisTrouble> {
        let mut asked = Vec::new();
        let mut ids = Vec::new();
        for (number, taking) in takings.iter().enumerate() {
            let entry = &self.entries[taking.entry];
            let sent = self.states[taking.entry].record().and_then(|record| record.sent);
            if let Some((limit, sent)) = entry.unless_pending.zip(sent)
                && !taking.id.is_empty()
                && u128::from((now - sent).unsigned_abs()) < limit.as_micros()
            {
                asked.push(number);
                ids.push(entry.task_id(sent));
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        let finished = self.store.finished(&ids).await?;
        for (number, finished) in asked.into_iter().zip(finished) {
            if !finished {
                takings[number].id.clear();
                takings[number].pending = true;
            }
        }
        Ok(())
    }

    async fn claim(&self, takings: &[Taking]) -> Result<Vec<Answer>, RedisTrouble> {
        let now = self.clock.wall();
        let claim = |taking: &Taking| -> Claim<'_> {
            let entry = &self.entries[taking.entry];
            let message = (!taking.id.is_empty()).then(|| {
                entry.message(
                    taking.id.clone(),
                    taking.slot,
                    taking.anchor,
                    now,
                    &self.instance.origin,
                )
            });
            Claim {
                entry: &entry.name,
                guard: taking.guard,
                slot: taking.slot,
                anchor: taking.anchor,
                message,
                queue: &entry.queue,
                priority: entry.priority,
            }
        };
        if self.instance.dry_run {
            let sends = |taking: &Taking| {
                if taking.id.is_empty() {
                    Answer::Passed
                } else {
                    Answer::Sent
                }
            };
            return Ok(takings.iter().map(sends).collect());
        }
        let claims: Vec<Claim<'_>> = takings.iter().map(claim).collect();
        self.store.claim(&claims).await
    }
}
