//! The entries in RedBeat's keys: writing ours, and reading those that are due.

use redis::{Pipeline, RedisResult, Value, cmd};
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

/// How many commands write one entry.
const WRITES: usize = 4;

/// An entry as read from Redis.
pub(super) struct RedbeatEntry {
    pub(super) key: String,
    pub(super) entry: ScheduleEntry,
    pub(super) meta: Vec<u8>,
    pub(super) last_run: Option<Micros>,
    pub(super) runs: u64,
}

impl Redbeat {
    /// Writes our entries as RedBeat writes those of its configuration, and keeps the last run of those already there.
    pub(super) async fn install(&mut self) -> Result<(), RedisTrouble> {
        let now = self.now();
        for part in self.entries.chunks(ROUND) {
            let mut ask = Pipeline::new();
            ask.ignore_errors();
            for entry in part {
                ask.cmd("HGET").arg(self.key(&entry.name)).arg("meta");
            }
            let metas: Vec<RedisResult<Option<Vec<u8>>>> = self.store.connection().pipeline(&ask).await?;
            let mut write = Pipeline::new();
            write.atomic().ignore_errors();
            for (entry, meta) in part.iter().zip(metas) {
                let last_run = meta.ok().flatten().and_then(|meta| definition::last_run(&meta).0);
                self.install_entry(&mut write, entry, last_run, now);
            }
            let written: Vec<RedisResult<Value>> = self.store.connection().pipeline(&write).await?;
            for (entry, written) in part.iter().zip(written.chunks(WRITES)) {
                if let Some(reason) = written.iter().find_map(|write| write.as_ref().err()) {
                    warn!(key = self.key(&entry.name), %reason, "cannot write an entry to RedBeat's keys as it should be");
                }
            }
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
        write.hset(&key, "definition", definition::definition(entry, now));
        // Keeps the `meta` that is already there.
        write.hset_nx(&key, "meta", meta);
        write.zadd(self.key(":schedule"), &key, score(next));
        write.sadd(self.key(":statics"), &entry.name);
    }

    /// The entries that are due now or within the next sleep. Unsupported entries stay first in the schedule for good,
    /// so this reads past them.
    pub(super) async fn due(&mut self, now: Micros) -> Result<Vec<RedbeatEntry>, RedisTrouble> {
        let (mut found, mut looked) = (Vec::new(), 0);
        while found.len() < ROUND && looked < MOST {
            let mut ask = cmd("ZRANGEBYSCORE");
            ask.arg(self.key(":schedule")).arg(0).arg(now / 1_000_000 + 1);
            ask.arg("LIMIT").arg(looked).arg(ROUND);
            let keys: Vec<Vec<u8>> = self.store.connection().command(&ask).await?;
            self.metrics.broker_answered_at(now);
            looked += keys.len();
            let last = keys.len() < ROUND;
            let keys: Vec<String> = keys
                .into_iter()
                .filter_map(|key| {
                    let key = String::from_utf8(key);
                    key.map_err(|key| self.name_unusable(&key.to_string(), "the key is not UTF-8"))
                        .ok()
                })
                .collect();
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
        ask.ignore_errors();
        for key in &keys {
            ask.cmd("HMGET").arg(key).arg("definition").arg("meta");
        }
        type Fields = (Option<Vec<u8>>, Option<Vec<u8>>);
        let documents: Vec<RedisResult<Fields>> = self.store.connection().pipeline(&ask).await?;
        for (key, fields) in keys.into_iter().zip(documents) {
            let (definition, meta) = match fields {
                Ok((Some(definition), meta)) => (definition, meta.unwrap_or_default()),
                Ok((None, _)) => {
                    self.name_unusable(&key, "there is no definition under the key");
                    continue;
                }
                Err(reason) => {
                    self.name_unusable(&key, &reason.to_string());
                    continue;
                }
            };
            match definition::entry(&definition, self.options.zone, &self.options.queue) {
                Ok(entry) if entry.enabled => {
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
                Err(reason) => self.name_unusable(&key, &reason.to_string()),
            }
        }
        Ok(())
    }

    /// Logs once that an entry cannot be run.
    pub(super) fn name_unusable(&mut self, key: &str, reason: &str) {
        if self.unsupported.insert(key.to_owned()) {
            warn!(key, reason, "cannot run a RedBeat entry, leaving it to Python");
        }
    }
}
