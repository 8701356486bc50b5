//! What the beats keep in Redis, and the one way to claim a slot.
//!
//! A script claims a slot: it checks the entry's record, pushes the message and moves the record on, all or nothing. So
//! each slot is sent once, however many beats run and whatever happens to them or their connections: a second attempt,
//! our own after a lost answer included, finds that the record has moved. Neither lease nor clock plays a part in this.

use std::time::Duration;

use redis::{Cmd, Script, cmd};
use tracing::warn;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_core::wire::envelope::Priority;
use tradebot_core::wire::keys::{self, Keys};

use crate::due::{Guard, SlotRecord};
use crate::slots::Micros;

/// The most slots that one script claims: the server serves no other client meanwhile, for 0.7 ms as measured.
pub(crate) const BATCH: usize = 100;
/// How many records one command reads.
const READ: usize = 1000;
/// How many seconds Redis keeps a heartbeat.
const HEARTBEAT_TTL_SECONDS: u64 = 15;

/// A slot to claim.
#[derive(Debug, Clone)]
pub(crate) struct SlotClaim<'e> {
    pub(crate) entry: &'e str,
    pub(crate) guard: Guard,
    pub(crate) slot: Micros,
    pub(crate) anchor: Micros,
    /// The message to push; without one the slot is only recorded.
    pub(crate) message: Option<String>,
    pub(crate) queue: &'e str,
    pub(crate) priority: Priority,
}

/// The result of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClaimResult {
    Sent,
    /// Recorded without a message.
    Passed,
    /// Recorded without a message because the entry is paused.
    Paused,
    /// The record does not match the guard: another beat was first, or this one was and lost the answer.
    Taken(Option<SlotRecord>),
    /// Redis refused the push, for the reason given.
    Refused(String),
}

/// Which beat leads, according to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseHolder {
    pub(crate) instance: String,
    /// How far the holder's clock is ahead of the server's.
    pub(crate) ahead: Option<Micros>,
    pub(crate) server_time: Micros,
}

/// The beats' keys in the broker's database.
pub(crate) struct Store {
    connection: Connection,
    /// Where results are, for entries that wait for them.
    results: Connection,
    keys: Keys,
    result_key_prefix: String,
    claim: Script,
    renew_lease: Script,
    leave: Script,
    repair: Script,
}

impl Store {
    pub(crate) fn new(
        connection: Connection,
        results: Connection,
        keys: Keys,
        result_key_prefix: String,
    ) -> Self {
        Self {
            connection,
            results,
            keys,
            result_key_prefix,
            claim: Script::new(include_str!("scripts/claim.lua")),
            renew_lease: Script::new(include_str!("scripts/renew_lease.lua")),
            leave: Script::new(include_str!("scripts/leave.lua")),
            repair: Script::new(include_str!("scripts/repair.lua")),
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The record of each entry.
    pub(crate) async fn records(&self, entries: &[&str]) -> Result<Vec<Option<SlotRecord>>, RedisTrouble> {
        let mut records = Vec::with_capacity(entries.len());
        for part in entries.chunks(READ) {
            let mut ask = cmd("HMGET");
            ask.arg(self.keys.beat_slots()).arg(part);
            let texts: Vec<Option<Vec<u8>>> = self.connection.command(&ask).await?;
            let texts = texts.into_iter().map(|text| String::from_utf8(text?).ok());
            records.extend(texts.map(|text| record(&text?)));
        }
        Ok(records)
    }

    /// Claims slots; returns one result per claim. After an error any of them may have been claimed.
    pub(crate) async fn claim(&self, claims: &[SlotClaim<'_>]) -> Result<Vec<ClaimResult>, RedisTrouble> {
        match self.claim_together(claims).await {
            Err(trouble) if trouble.is_forbidden() => {}
            claimed => return claimed,
        }
        // The server refuses all of them if this user may not use the queue of one.
        let mut results = Vec::with_capacity(claims.len());
        for claim in claims {
            match self.claim_together(std::slice::from_ref(claim)).await {
                Err(trouble) if trouble.is_forbidden() => {
                    results.push(ClaimResult::Refused(error_chain(&trouble)));
                }
                claimed => results.extend(claimed?),
            }
        }
        Ok(results)
    }

    async fn claim_together(&self, claims: &[SlotClaim<'_>]) -> Result<Vec<ClaimResult>, RedisTrouble> {
        let mut call = self.claim.prepare_invoke();
        call.key(self.keys.beat_slots()).key(self.keys.beat_paused());
        for claim in claims {
            if claim.message.is_some() {
                call.key(self.keys.list_for(claim.queue, claim.priority));
            }
            call.arg(claim.entry);
            match claim.guard {
                Guard::First => call.arg("first"),
                Guard::After => call.arg("after"),
                Guard::Instead(last) => call.arg(last),
            };
            call.arg(claim.slot).arg(claim.anchor);
            call.arg(claim.message.as_deref().unwrap_or_default());
        }
        let answers: Vec<Vec<u8>> = self.connection.script(None, &call).await?;
        let answers = answers.iter().map(|text| String::from_utf8_lossy(text));
        Ok(answers.map(|text| claim_result(&text)).collect())
    }

    /// The command that writes a heartbeat.
    pub(crate) fn heartbeat(&self, instance: &str, text: &str) -> Cmd {
        let mut set = cmd("SET");
        set.arg(self.keys.beat(instance)).arg(text);
        set.arg("EX").arg(HEARTBEAT_TTL_SECONDS);
        set
    }

    /// Asks for the lease or renews it, and writes a heartbeat if one is given.
    pub(crate) async fn renew_lease(
        &self,
        instance: &str,
        ahead: Option<Micros>,
        lease: Duration,
        heartbeat: Option<&str>,
    ) -> Result<LeaseHolder, RedisTrouble> {
        let mut call = self.renew_lease.prepare_invoke();
        call.key(self.keys.beat_leader()).arg(instance);
        match ahead {
            Some(ahead) => call.arg(ahead),
            None => call.arg(""),
        };
        call.arg(lease.as_millis());
        let before = heartbeat.map(|text| self.heartbeat(instance, text));
        let (holder, seconds, micros): (Vec<u8>, Micros, Micros) =
            self.connection.script(before.as_ref(), &call).await?;
        let holder = String::from_utf8_lossy(&holder);
        let (holder, ahead) = holder.split_once(' ').unwrap_or((&holder, ""));
        Ok(LeaseHolder {
            instance: holder.to_owned(),
            ahead: number(ahead),
            server_time: seconds * 1_000_000 + micros,
        })
    }

    /// Releases the lease or lock in a key if `instance` holds it, and deletes the heartbeat.
    pub(crate) async fn leave(&self, lease: &str, instance: &str) -> Result<(), RedisTrouble> {
        let mut call = self.leave.prepare_invoke();
        call.key(lease).key(self.keys.beat(instance)).arg(instance);
        self.connection.script::<i64>(None, &call).await.map(|_| ())
    }

    /// Deletes those of the keys that hold another type than they should, and names them. Each key comes with a command
    /// that fails on another type. Returns whether there were any.
    pub(crate) async fn repair(&self, keys: &[(String, &str)]) -> Result<bool, RedisTrouble> {
        let mut call = self.repair.prepare_invoke();
        for (key, command) in keys {
            call.key(key).arg(*command);
        }
        let deleted: Vec<String> = self.connection.script(None, &call).await?;
        for key in &deleted {
            warn!(
                key,
                "deleted a key that held something else than a beat keeps there"
            );
        }
        Ok(!deleted.is_empty())
    }

    /// Whether each of these tasks has a final result.
    pub(crate) async fn finished(&self, task_ids: &[String]) -> Result<Vec<bool>, RedisTrouble> {
        let mut ask = cmd("MGET");
        for id in task_ids {
            ask.arg(keys::task_meta(&self.result_key_prefix, id));
        }
        let documents: Vec<Option<Vec<u8>>> = self.results.command(&ask).await?;
        let is_final = |document: &Option<Vec<u8>>| {
            let document: Option<serde_json::Value> = document
                .as_ref()
                .and_then(|document| serde_json::from_slice(document).ok());
            let state = document.as_ref().and_then(|document| document["status"].as_str());
            matches!(
                state,
                Some("SUCCESS" | "FAILURE" | "REVOKED" | "REJECTED" | "IGNORED")
            )
        };
        Ok(documents.iter().map(is_final).collect())
    }

    /// Names of the entries that are paused.
    pub(crate) async fn paused(&self) -> Result<Vec<String>, RedisTrouble> {
        self.connection
            .command(cmd("SMEMBERS").arg(self.keys.beat_paused()))
            .await
    }

    /// Pauses or resumes entries; returns how many changed.
    pub(crate) async fn set_paused(&self, entries: &[String], paused: bool) -> Result<u64, RedisTrouble> {
        let mut set = cmd(if paused { "SADD" } else { "SREM" });
        self.connection
            .command(set.arg(self.keys.beat_paused()).arg(entries))
            .await
    }
}

/// A number as the scripts accept it: of at most 17 characters, which is the year 5138 in microseconds.
fn number(text: &str) -> Option<Micros> {
    text.parse().ok().filter(|_| text.len() <= 17)
}

/// Reads a record. A malformed one counts as none.
fn record(text: &str) -> Option<SlotRecord> {
    let mut numbers = text.split(' ').map(number);
    let mut next = || numbers.next()?;
    let (last, anchor, sent, runs) = (next()?, next()?, next()?, next()?);
    Some(SlotRecord {
        last,
        anchor,
        sent: (sent >= 0).then_some(sent),
        runs: u64::try_from(runs).ok()?,
    })
}

fn claim_result(text: &str) -> ClaimResult {
    match text.split_once(' ').unwrap_or((text, "")) {
        ("sent", _) => ClaimResult::Sent,
        ("passed", _) => ClaimResult::Passed,
        ("paused", _) => ClaimResult::Paused,
        ("taken", text) => ClaimResult::Taken(record(text)),
        ("refused", reason) => ClaimResult::Refused(reason.to_owned()),
        _ => ClaimResult::Refused(format!("the claim script answered `{text}`")),
    }
}

#[cfg(test)]
mod tests;
