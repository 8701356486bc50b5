//! The entries in RedBeat's keys: writing ours, and reading those that are due.

use redis::{Pipeline, cmd};
use serde_json::json;
use tracing::warn;
use tradebot_base::connection::RedisTrouble;

use super::{Redbeat, definition, score};
use crate::entry::ScheduleEntry;
use crate::slots::{Micros, Plan};

/// How many entries one command reads and one turn runs.
const ROUND: usize = 1000;
/// How many entries one turn looks at, unsupported and disabled ones included.
const MOST: usize = 100_000;

/// An entry as read from Redis.
pub(super) struct RedbeatEntry {
    pub(super) key: String,
    pub(super) entry: ScheduleEntry,
    pub(super) meta: String,
    pub(super) last_run: Option<Micros>,
    pub(super) runs: u64,
}

impl Redbeat {
    /// Writes our entries as RedBeat writes those of its configuration, and keeps the last run of those already there.
    pub(super) async fn install(&mut self) -> Result<(), RedisTrouble> {
        let now = self.now();
        for part in self.entries.chunks(ROUND) {
            let mut ask = Pipeline::new();
            for entry in part {
                ask.cmd("HGET").arg(self.key(&entry.name)).arg("meta");
            }
            let metas: Vec<Option<String>> = self.store.connection().pipeline(&ask).await?;
            let mut write = Pipeline::new();
            write.atomic();
            for (entry, meta) in part.iter().zip(metas) {
                let last_run = meta.as_deref().and_then(|meta| definition::last_run(meta).0);
                self.install_entry(&mut write, entry, last_run, now);
            }
            self.store.connection().pipeline::<()>(&write).await?;
        }
        Ok(())
    }

    fn install_entry(
        &self,
        write: &mut Pipeline,
        entry: &ScheduleEntry,
        last_run: Option<Micros>,
        now: Micros,
    ) {
        let never_ran = || json!({"last_run_at": null}).to_string();
        // RedBeat runs an entry without a last run at once; our crontabs wait for their next minute.
        let (meta, next) = match (last_run, &entry.plan) {
            (None, Plan::Interval(_)) => (never_ran(), Some(now)),
            (None, Plan::Crontab(..)) => (definition::meta(now, 0), entry.plan.next(now, now)),
            (Some(last), _) => (never_ran(), entry.plan.next(last, last)),
        };
        let key = self.key(&entry.name);
        write
            .hset(&key, "definition", definition::definition(entry, now))
            .ignore();
        // Keeps the `meta` that is already there.
        write.hset_nx(&key, "meta", meta).ignore();
        write.zadd(self.key(":schedule"), &key, score(next)).ignore();
        write.sadd(self.key(":statics"), &entry.name).ignore();
    }

    /// The entries that are due now or within the next sleep. Unsupported entries stay first in the schedule for good,
    /// so this reads past them.
    pub(super) async fn due(&mut self, now: Micros) -> Result<Vec<RedbeatEntry>, RedisTrouble> {
        let (mut found, mut looked) = (Vec::new(), 0);
        while found.len() < ROUND && looked < MOST {
            let mut ask = cmd("ZRANGEBYSCORE");
            ask.arg(self.key(":schedule")).arg(0).arg(now / 1_000_000 + 1);
            ask.arg("LIMIT").arg(looked).arg(ROUND);
            let keys: Vec<String> = self.store.connection().command(&ask).await?;
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
        let documents: Vec<(Option<String>, Option<String>)> = self.store.connection().pipeline(&ask).await?;
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
}
