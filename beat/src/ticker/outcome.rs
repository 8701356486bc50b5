//! What became of a slot.

use std::time::Duration;

use tracing::{info, warn};

use super::Ticker;
use super::firing::Taking;
use crate::due::Record;
use crate::slots::Micros;
use crate::store::Answer;

impl Ticker {
    /// Takes note of what became of a slot, as the broker's answer had it `at` a time.
    pub(super) fn settle(&mut self, taking: &Taking, answer: Answer, at: Micros) {
        let entry = &self.entries[taking.entry];
        let state = &mut self.states[taking.entry];
        let was_refused = self.refused.remove(&taking.entry);
        let sent = answer == Answer::Sent;
        match answer {
            Answer::Taken(record) => {
                state.adopt(record);
                return;
            }
            Answer::Refused(reason) => {
                self.metrics.refused.inc();
                if !was_refused {
                    warn!(
                        beat.entry = entry.name,
                        queue = entry.queue,
                        reason,
                        "the queue takes no message, trying on"
                    );
                }
                self.refused.insert(taking.entry);
                return;
            }
            Answer::Sent => {
                let late = Duration::from_micros(u64::try_from(at - entry.due(taking.slot)).unwrap_or(0));
                self.metrics.note_sent(late, self.clock.wall());
                self.instance.tell_sent(entry, &taking.id, late);
                self.last_slot = Some(taking.slot);
            }
            Answer::Paused => {
                self.metrics.paused.inc();
            }
            Answer::Passed if taking.pending => {
                self.metrics.pending.inc();
                info!(beat.entry = entry.name, "not sent, the previous one is pending");
            }
            Answer::Passed => {}
        }
        if taking.missed > 0 {
            self.metrics.missed.inc_by(taking.missed);
            info!(
                beat.entry = entry.name,
                missed = taking.missed,
                "slots passed while nothing could be sent"
            );
        }
        self.metrics.caught_up.inc_by(taking.caught_up);
        let before = state.record().copied();
        state.adopt(Some(Record {
            last: taking.slot,
            anchor: taking.anchor,
            sent: if sent {
                Some(taking.slot)
            } else {
                before.and_then(|record| record.sent)
            },
            runs: before.map_or(0, |record| record.runs) + u64::from(sent),
        }));
    }
}
