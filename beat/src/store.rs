//! What the beats keep in Redis, and the one way in which a slot is taken.
//!
//! A slot is sent by a script that checks the entry's record, pushes the message and moves the record on, all of it or
//! nothing. However many beats there are, and whatever becomes of them or their connections in between, a slot is so
//! sent once: a second attempt, our own after a lost answer included, finds the record moved on. No lease and no clock
//! is part of that.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use redis::{Script, cmd};
use tradebot_base::connection::{Connection, RedisTrouble, ScriptCall};
use tradebot_core::wire::envelope::Priority;
use tradebot_core::wire::keys::{self, Keys};

use crate::due::{Guard, Record};
use crate::slots::Micros;

/// How many slots one script takes at most: the server answers nobody else meanwhile, for about half a millisecond.
pub(crate) const BATCH: usize = 100;
/// How many records are read at a time.
const READ: usize = 1000;

/// A slot to be taken.
#[derive(Debug, Clone)]
pub(crate) struct Claim<'e> {
    pub(crate) entry: &'e str,
    pub(crate) guard: Guard,
    pub(crate) slot: Micros,
    pub(crate) anchor: Micros,
    /// What is pushed; without, the slot is only recorded.
    pub(crate) message: Option<Cow<'e, str>>,
    pub(crate) queue: &'e str,
    pub(crate) priority: Priority,
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Sent,
    Passed,
    Paused,
    /// The record is another one: somebody else was first, or we were, and never heard of it.
    Taken(Option<Record>),
    /// The queue's key takes no message.
    Refused(String),
}

/// Who sends, by the server's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) instance: String,
    /// How far the holder's clock is ahead of the server's.
    pub(crate) ahead: Option<Micros>,
    /// The server's time.
    pub(crate) server: Micros,
}

/// The beats' part of a broker's database.
pub(crate) struct Store {
    connection: Connection,
    /// Where results are, for entries that wait for them.
    results: Connection,
    keys: Keys,
    result_key_prefix: String,
    claim: Script,
    keep: Script,
    leave: Script,
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
            keep: Script::new(include_str!("scripts/keep.lua")),
            leave: Script::new(include_str!("scripts/leave.lua")),
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The records of entries, in their order.
    pub(crate) async fn records(&self, entries: &[&str]) -> Result<Vec<Option<Record>>, RedisTrouble> {
        let mut records = Vec::with_capacity(entries.len());
        for part in entries.chunks(READ) {
            let mut ask = cmd("HMGET");
            ask.arg(self.keys.beat_slots()).arg(part);
            let texts: Vec<Option<String>> = self.connection.command(&ask).await?;
            records.extend(texts.iter().map(|text| text.as_deref().and_then(record)));
        }
        Ok(records)
    }

    /// Takes slots; one answer for each claim. What was taken before an error is not known.
    pub(crate) async fn claim(&self, claims: &[Claim<'_>]) -> Result<Vec<Answer>, RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.keys.beat_slots()).key(self.keys.beat_paused());
        for claim in claims {
            call.key(self.keys.list_for(claim.queue, claim.priority));
            call.arg(claim.entry);
            match claim.guard {
                Guard::First => call.arg("first"),
                Guard::After => call.arg("after"),
                Guard::Instead(last) => call.number(last),
            };
            call.number(claim.slot).number(claim.anchor);
            call.arg(claim.message.as_deref().unwrap_or_default());
        }
        let answers: Vec<String> = self.connection.script(None, &self.claim, &call).await?;
        Ok(answers.iter().map(|text| answer(text)).collect())
    }

    /// Asks for the lease or renews it, and leaves a heartbeat if one is given.
    pub(crate) async fn keep(
        &self,
        instance: &str,
        ahead: Option<Micros>,
        lease: Duration,
        heartbeat: Option<(&str, u64)>,
    ) -> Result<Holder, RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.keys.beat_leader()).arg(instance);
        let mut shown = String::new();
        if let Some(ahead) = ahead {
            write!(shown, "{ahead}").expect("memory takes every text");
        }
        call.arg(&shown).number(lease.as_millis());
        let before = heartbeat.map(|(text, seconds)| {
            let mut set = cmd("SET");
            set.arg(self.keys.beat(instance)).arg(text).arg("EX").arg(seconds);
            set
        });
        let (holder, seconds, micros): (String, Micros, Micros) =
            self.connection.script(before.as_ref(), &self.keep, &call).await?;
        let (holder, ahead) = holder.split_once(' ').unwrap_or((&holder, ""));
        Ok(Holder {
            instance: holder.to_owned(),
            ahead: ahead.parse().ok(),
            server: seconds * 1_000_000 + micros,
        })
    }

    /// Gives the lease back and deletes the heartbeat.
    pub(crate) async fn leave(&self, instance: &str) -> Result<(), RedisTrouble> {
        let mut call = ScriptCall::default();
        call.key(self.keys.beat_leader())
            .key(self.keys.beat(instance))
            .arg(instance);
        self.connection
            .script::<i64>(None, &self.leave, &call)
            .await
            .map(|_| ())
    }

    /// Which of these tasks have a result that is final.
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

    /// Pauses entries or has them go on; says how many that changed.
    pub(crate) async fn set_paused(&self, entries: &[String], paused: bool) -> Result<u64, RedisTrouble> {
        let mut set = cmd(if paused { "SADD" } else { "SREM" });
        self.connection
            .command(set.arg(self.keys.beat_paused()).arg(entries))
            .await
    }
}

/// Reads a record; anything else is as good as none.
fn record(text: &str) -> Option<Record> {
    let mut numbers = text.split(' ').map(str::parse::<Micros>);
    let mut next = || numbers.next()?.ok();
    let (last, anchor, sent, runs) = (next()?, next()?, next()?, next()?);
    Some(Record {
        last,
        anchor,
        sent: (sent >= 0).then_some(sent),
        runs: u64::try_from(runs).ok()?,
    })
}

fn answer(text: &str) -> Answer {
    match text.split_once(' ').unwrap_or((text, "")) {
        ("sent", _) => Answer::Sent,
        ("passed", _) => Answer::Passed,
        ("paused", _) => Answer::Paused,
        ("taken", text) => Answer::Taken(record(text)),
        ("refused", reason) => Answer::Refused(reason.to_owned()),
        _ => Answer::Refused(format!("the claim was answered with `{text}`")),
    }
}

#[cfg(test)]
mod tests;
