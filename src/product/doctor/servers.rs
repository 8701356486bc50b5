//! Findings about the Redis servers.

use super::finding::{self, Finding, FindingKind, Problem};
use crate::product::fleet::servers::{PINGS, ProbeFailure, ServerFacts};

/// The tolerated difference of two clocks; the probe itself takes time.
const SKEW_SECONDS: f64 = 5.0;
const SLOW_MS: f64 = 150.0;
/// The shares of memory and clients above which a server runs short.
const MEMORY_SHARE: f64 = 0.9;
const MACHINE_MEMORY_SHARE: f64 = 0.8;
const CLIENTS_SHARE: f64 = 0.8;

pub(super) fn judge(server: &ServerFacts) -> Vec<Finding> {
    let subject = format!("{} {}", server.roles.join("+"), server.place);
    if let Some(trouble) = &server.trouble {
        return vec![kind_of(trouble, &finding::REDIS_UNREACHABLE).found(subject, &trouble.text)];
    }
    let found = [
        judge_writes(server),
        judge_info(server),
        judge_speed(server),
        judge_clock(server),
        judge_access(server),
        judge_eviction(server),
        judge_memory(server),
        judge_clients(server),
        judge_persistence(server),
    ];
    found
        .into_iter()
        .flatten()
        .map(|(kind, what)| kind.found(&subject, what))
        .collect()
}

fn judge_writes(server: &ServerFacts) -> Option<Problem> {
    if let Some(trouble) = &server.write_trouble {
        return Some((kind_of(trouble, &finding::REDIS_REFUSES), trouble.text.clone()));
    }
    let saves = [
        "aof_last_write_status",
        "aof_last_bgrewrite_status",
        "rdb_last_bgsave_status",
    ];
    let failed = saves.iter().any(|name| has(server, name, "err"));
    failed.then(|| (&finding::REDIS_PERSISTENCE_FAILING, "the last save failed".into()))
}

fn judge_info(server: &ServerFacts) -> Option<Problem> {
    let trouble = server.info_trouble.as_ref()?;
    Some((&finding::REDIS_UNCHECKED, trouble.text.clone()))
}

fn judge_speed(server: &ServerFacts) -> Option<Problem> {
    let what = || format!("the fastest of {PINGS} round trips took {:.0} ms", server.ping_ms);
    (server.ping_ms > SLOW_MS).then(|| (&finding::REDIS_SLOW, what()))
}

fn judge_clock(server: &ServerFacts) -> Option<Problem> {
    let ahead = server.clock_ahead_seconds;
    let way = if ahead > 0.0 { "ahead of" } else { "behind" };
    let what = || format!("its clock is {:.0} s {way} this machine's", ahead.abs());
    (ahead.abs() > SKEW_SECONDS).then(|| (&finding::CLOCK_SKEW, what()))
}

fn judge_access(server: &ServerFacts) -> Option<Problem> {
    let what = "other machines can reach it without a password";
    server
        .open
        .then(|| (&finding::REDIS_WITHOUT_PASSWORD, what.into()))
}

fn judge_eviction(server: &ServerFacts) -> Option<Problem> {
    let policy = server.info.get("maxmemory_policy").map_or("", String::as_str);
    let evicts = number(server, "maxmemory") > 0.0 && !policy.is_empty() && policy != "noeviction";
    evicts.then(|| (&finding::REDIS_MAY_EVICT, format!("maxmemory-policy is {policy}")))
}

fn judge_memory(server: &ServerFacts) -> Option<Problem> {
    let used = number(server, "used_memory");
    let limit = number(server, "maxmemory");
    let (bound, share, of) = if limit > 0.0 {
        (limit, MEMORY_SHARE, "maxmemory")
    } else {
        let machine = number(server, "total_system_memory");
        (machine, MACHINE_MEMORY_SHARE, "the machine's memory")
    };
    // A full server already has a finding.
    let high = server.write_trouble.is_none() && bound > 0.0 && used > bound * share;
    let what = || format!("{:.0} % of {of} is used", used / bound * 100.0);
    high.then(|| (&finding::REDIS_MEMORY, what()))
}

fn judge_clients(server: &ServerFacts) -> Option<Problem> {
    let (clients, most) = (number(server, "connected_clients"), number(server, "maxclients"));
    let what = || format!("{clients:.0} of at most {most:.0} clients are connected");
    (most > 0.0 && clients > most * CLIENTS_SHARE).then(|| (&finding::REDIS_CLIENTS, what()))
}

/// Only the broker's data must survive a restart.
fn judge_persistence(server: &ServerFacts) -> Option<Problem> {
    let volatile = has(server, "aof_enabled", "0") && server.save.as_deref().is_some_and(str::is_empty);
    let what = "it keeps its data in memory only: neither appendonly nor save points are set";
    (volatile && server.roles.contains(&"broker")).then(|| (&finding::REDIS_NOT_PERSISTENT, what.into()))
}

/// A number from `INFO`; zero if missing.
fn number(server: &ServerFacts, name: &str) -> f64 {
    let number = server.info.get(name).and_then(|text| text.parse().ok());
    number.unwrap_or_default()
}

fn has(server: &ServerFacts, name: &str, value: &str) -> bool {
    server.info.get(name).is_some_and(|found| found == value)
}

/// The kind of finding for a server's error code; `other` without a code.
fn kind_of(trouble: &ProbeFailure, other: &'static FindingKind) -> &'static FindingKind {
    match trouble.code.as_deref() {
        Some("NOAUTH" | "WRONGPASS") => &finding::REDIS_AUTH,
        Some("READONLY") => &finding::REDIS_READ_ONLY,
        Some("OOM") => &finding::REDIS_FULL,
        Some("MISCONF") => &finding::REDIS_DISK,
        Some(_) => &finding::REDIS_REFUSES,
        None => other,
    }
}
