//! What follows from the result of a claim: the record as this beat knows it, logs and metrics.

use std::time::Duration;

use tracing::{info, warn};

use super::Ticker;
use super::claiming::DueSlot;
use crate::due::SlotRecord;
use crate::slots::Micros;
use crate::store::ClaimResult;

impl Ticker {
    /// Records the result of a claim that the broker answered `at` this time.
    pub(super) fn settle(&mut self, due: &DueSlot, result: ClaimResult, at: Micros) {
        let entry = &self.entries[due.entry];
        let progress = &mut self.progress[due.entry];
        let was_refused = self.refused.remove(&due.entry);
        let sent = result == ClaimResult::Sent;
        match result {
            ClaimResult::Taken(record) => {
                progress.adopt(record);
                return;
            }
            ClaimResult::Refused(reason) => {
                self.metrics.refused.inc();
                if !was_refused {
                    warn!(
                        beat.entry = entry.name,
                        queue = entry.queue,
                        reason,
                        "the queue refuses messages, retrying"
                    );
                }
                self.refused.insert(due.entry);
                return;
            }
            ClaimResult::Sent => {
                let late = Duration::from_micros(u64::try_from(at - entry.due(due.slot)).unwrap_or(0));
                self.metrics.message_sent(late, self.clock.wall());
                let id = due.task_id.as_deref().unwrap_or_default();
                self.instance.log_sent(entry, id, late);
                self.last_slot = Some(due.slot);
            }
            ClaimResult::Paused => {
                self.metrics.paused.inc();
            }
            ClaimResult::Passed if due.pending => {
                self.metrics.pending.inc();
                info!(beat.entry = entry.name, "not sent, the previous one is pending");
            }
            ClaimResult::Passed => {}
        }
        if due.missed > 0 {
            self.metrics.missed.inc_by(due.missed);
            info!(
                beat.entry = entry.name,
                missed = due.missed,
                "slots passed while nothing could be sent"
            );
        }
        self.metrics.caught_up.inc_by(due.caught_up);
        let before = progress.record().copied();
        let (last_sent, runs) = before.map_or((None, 0), |record| (record.sent, record.runs));
        progress.adopt(Some(SlotRecord {
            last: due.slot,
            anchor: due.anchor,
            sent: if sent { Some(due.slot) } else { last_sent },
            runs: runs + u64::from(sent),
        }));
    }
}
