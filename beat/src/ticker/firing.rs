//! Taking the slots of entries that are due.

use std::borrow::Cow;

use futures_util::future::join_all;
use tradebot_base::connection::RedisTrouble;

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
    /// If it was made ahead.
    message: Option<String>,
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
            if let Some(ready) = self.ahead.take(entry, &self.states[entry], now)
                && !self.jumped
            {
                takings.extend(self.takings(entry, &ready.act, Some((ready.id, ready.message))));
                continue;
            }
            match decide(&self.entries[entry], &mut self.states[entry], now, self.jumped) {
                Decision::Wait(until) => self.agenda.push(until, entry),
                Decision::Never => {}
                Decision::Act(act) => takings.extend(self.takings(entry, &act, None)),
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
            // Nothing is noted, and no log written, before all have their answers: that would make the later ones late.
            let claims = batches
                .clone()
                .map(async |batch| (self.claim(batch).await, self.clock.now()));
            let answers = join_all(claims).await;
            let mut outcome = Ok(());
            for (batch, (answers, at)) in batches.zip(answers) {
                match answers {
                    Ok(answers) => {
                        for (taking, answer) in batch.iter().zip(answers) {
                            self.settle(taking, answer, at);
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

    /// The slots to be taken of an entry; `ready` is id and message of the only one.
    fn takings(&self, entry: usize, act: &Act, mut ready: Option<(String, String)>) -> Vec<Taking> {
        let mut guard = act.guard;
        let mut counts = (act.missed, act.caught_up);
        let mut one = |slot: Micros, sends: bool| {
            let (missed, caught_up) = std::mem::take(&mut counts);
            let (id, message) = match ready.take() {
                Some((id, message)) => (id, Some(message)),
                None if sends => (self.entries[entry].task_id(slot), None),
                None => (String::new(), None),
            };
            Taking {
                entry,
                guard: std::mem::replace(&mut guard, Guard::After),
                anchor: act.anchor,
                slot,
                id,
                message,
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
        let now = self.clock.wall();
        let claims: Vec<Claim<'_>> = takings.iter().map(|taking| self.claim_of(taking, now)).collect();
        self.store.claim(&claims).await
    }

    fn claim_of<'t>(&'t self, taking: &'t Taking, now: Micros) -> Claim<'t> {
        let entry = &self.entries[taking.entry];
        let message = || match &taking.message {
            Some(message) => Cow::Borrowed(message.as_str()),
            None => {
                let id = taking.id.clone();
                Cow::Owned(entry.message(id, taking.slot, taking.anchor, now, &self.instance.origin))
            }
        };
        Claim {
            entry: &entry.name,
            guard: taking.guard,
            slot: taking.slot,
            anchor: taking.anchor,
            message: (!taking.id.is_empty()).then(message),
            queue: &entry.queue,
            priority: entry.priority,
        }
    }
}
