//! Signs of life: the leases of workers and the heartbeats of beats.

use std::collections::{BTreeMap, BTreeSet};

use redis::cmd;
use serde::Serialize;
use serde_json::Value;

use super::FleetReader;
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::timestamp;

/// Keys per step of the search for beats.
const SCAN_KEYS: usize = 2_000;

/// A worker of this system, as it registered itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RegisteredWorker {
    pub(crate) node: String,
    /// Whether it still renews its lease.
    pub(crate) leased: bool,
}

/// One beat of this system.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct BeatFacts {
    /// Its id.
    pub instance: String,
    /// Its heartbeat, as it wrote it.
    pub heartbeat: Value,
}

impl RegisteredWorker {
    /// Reads the workers of this system, by name.
    pub(crate) async fn read_all(reader: &FleetReader) -> Result<Vec<Self>, RedisTrouble> {
        let mut all = cmd("HGETALL");
        let nodes: BTreeMap<String, String> = reader.broker.command(all.arg(reader.keys.workers())).await?;
        let nodes: Vec<_> = nodes.into_iter().take(reader.limits.members).collect();
        let mut leases = redis::pipe();
        for (id, _) in &nodes {
            leases.exists(reader.keys.lease(id));
        }
        let leases: Vec<bool> = reader.broker_pipeline(&leases).await?;
        let workers = nodes.into_iter().zip(leases);
        let mut workers: Vec<_> = workers.map(|((_, node), leased)| Self { node, leased }).collect();
        workers.sort();
        Ok(workers)
    }
}

impl BeatFacts {
    /// Finds the heartbeats of the beats, by their ids.
    pub(crate) async fn read_all(reader: &FleetReader) -> Result<Vec<Self>, RedisTrouble> {
        let start = reader.keys.beat("");
        let mut keys = BTreeSet::new();
        let mut cursor = 0_u64;
        for _ in 0..reader.limits.scan_steps {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(glob(&start) + "*");
            let (next, found): (u64, Vec<String>) =
                reader.broker.command(scan.arg("COUNT").arg(SCAN_KEYS)).await?;
            keys.extend(found);
            cursor = next;
            if cursor == 0 || keys.len() >= reader.limits.members {
                break;
            }
        }
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let texts: Vec<Option<String>> = reader.broker.command(cmd("MGET").arg(&keys)).await?;
        let beats = keys.iter().zip(texts).filter_map(|(key, text)| {
            let heartbeat: Value = serde_json::from_str(&text?).ok()?;
            // Only a heartbeat has a process; a beat may keep other keys beside it.
            heartbeat.get("pid")?;
            Some(Self {
                instance: key.strip_prefix(&start)?.to_owned(),
                heartbeat,
            })
        });
        Ok(beats.collect())
    }

    /// The machine that it runs on.
    #[must_use]
    pub(crate) fn host(&self) -> &str {
        self.heartbeat["host"].as_str().unwrap_or("?")
    }

    /// Its version.
    #[must_use]
    pub(crate) fn version(&self) -> &str {
        self.heartbeat["version"].as_str().unwrap_or("?")
    }

    /// Whether it is the one that sends.
    #[must_use]
    pub(crate) fn leads(&self) -> bool {
        self.heartbeat["leader"] == true
    }

    /// When its next entry is due, in Unix seconds.
    #[must_use]
    pub(crate) fn next_due(&self) -> Option<i64> {
        match &self.heartbeat["next_due"] {
            Value::String(text) => timestamp::parse(text).map(|time| time.timestamp()),
            #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
            other => other.as_f64().map(|seconds| seconds as i64),
        }
    }
}

/// A pattern that matches exactly this text.
fn glob(text: &str) -> String {
    text.chars()
        .flat_map(|c| "*?[]^\\".contains(c).then_some('\\').into_iter().chain([c]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_with_wildcards_matches_only_itself() {
        assert_eq!(glob("a*b?[c]^\\:"), r"a\*b\?\[c\]\^\\:");
    }
}
