//! The doctor's pictures and findings as text.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::product::doctor::{Beat, Entry, Finding, Fleet, MarketLists, Picture, Severity, Worker, span};

/// Exit code when there are warnings and nothing worse.
pub(super) const EXIT_WARNINGS: u8 = 2;
/// Exit code when something is critical.
pub(super) const EXIT_CRITICAL: u8 = 3;

/// The exit code for these findings.
pub(super) fn exit_code(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.severity).max() {
        None => 0,
        Some(Severity::Warning) => EXIT_WARNINGS,
        Some(Severity::Critical) => EXIT_CRITICAL,
    }
}

/// Findings with what was seen, as JSON.
pub(super) fn as_json(picture: &Picture, findings: &[Finding]) -> Value {
    json!({"healthy": findings.is_empty(), "findings": findings, "picture": picture})
}

/// Findings as paragraphs.
pub(super) fn findings(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "healthy: nothing is wrong\n".into();
    }
    let mut text = String::new();
    for finding in findings {
        let severity = finding.severity.name().to_uppercase();
        let _ = writeln!(text, "{severity} {} ({})", finding.code, finding.subject);
        let _ = writeln!(text, "  what  {}", finding.what);
        let _ = writeln!(text, "  why   {}", finding.why);
        let _ = writeln!(text, "  do    {}", finding.remedy);
    }
    let critical = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Critical)
        .count();
    let _ = writeln!(
        text,
        "{critical} critical, {} warnings",
        findings.len() - critical
    );
    text
}

/// The short picture: lists, queues, workers, beats.
pub(super) fn picture(picture: &Picture) -> String {
    let mut text = String::new();
    for server in &picture.servers {
        let state = server
            .trouble
            .as_ref()
            .map_or("up", |trouble| trouble.text.as_str());
        let _ = writeln!(
            text,
            "redis    {:<20} {}  {state}",
            server.roles.join("+"),
            server.place
        );
    }
    for lists in &picture.lists {
        let _ = writeln!(text, "list     {}", list(lists));
    }
    if let Some(broker) = &picture.broker {
        for queue in &broker.queues {
            let next = queue.oldest.as_ref().map_or(String::new(), |oldest| {
                format!(
                    ", next {}, for {} at least",
                    oldest.task,
                    span(oldest.waiting_seconds)
                )
            });
            let _ = writeln!(
                text,
                "queue    {:<20} {} waiting{next}",
                queue.name, queue.messages
            );
        }
        let _ = writeln!(
            text,
            "unacked  {:<20} {} taken, {} parked",
            "", broker.unacked, broker.parked
        );
        for (task, messages) in &broker.waiting_for_others {
            let _ = writeln!(text, "waiting  {task} ({messages}) for other workers");
        }
    }
    if let Some(fleet) = &picture.fleet {
        text.push_str(&people(fleet));
    }
    for (what, trouble) in &picture.unseen {
        let _ = writeln!(text, "unseen   {what}: {}", trouble.text);
    }
    text
}

fn list(lists: &MarketLists) -> String {
    let entry = |entry: &Entry| match entry {
        Entry::Missing => "missing".to_owned(),
        Entry::WrongType { found } => format!("a {found}"),
        Entry::Unreadable { .. } => "unreadable".to_owned(),
        Entry::List { count, .. } => format!("{count} symbols"),
    };
    let mut text = format!(
        "{:<20} {}, last good {}",
        lists.market,
        entry(&lists.primary),
        entry(&lists.last_good)
    );
    if let Some(age) = lists.age_seconds {
        let _ = write!(text, ", {} old", span(age));
    }
    match (&lists.primary, lists.ttl_seconds) {
        (Entry::Missing, _) => {}
        (_, Some(left)) => drop(write!(text, ", {} left", span(left))),
        (_, None) => text.push_str(", no expiry"),
    }
    let writer = lists
        .source
        .as_ref()
        .map_or("another program".to_owned(), |source| {
            format!("{:?} {}", source.network, source.host).to_lowercase()
        });
    let _ = write!(text, ", from {writer}");
    let percent = |ratio: f64| 100.0 - ratio * 100.0;
    if let Some(ratio) = lists.counts.miss_ratio() {
        let _ = write!(text, ", {:.1} % hits", percent(ratio));
    }
    if let Some(recent) = &lists.recent
        && let Some(ratio) = recent.counts.miss_ratio()
    {
        let _ = write!(
            text,
            " ({:.1} % in the last {})",
            percent(ratio),
            span(recent.seconds)
        );
    }
    text
}

fn people(fleet: &Fleet) -> String {
    let mut text = String::new();
    for worker in &fleet.workers {
        let Worker {
            node,
            ours,
            answers,
            queues,
            ..
        } = worker;
        let kind = if *ours { "ours" } else { "python" };
        let state = if *answers { "answers" } else { "silent" };
        let queues = queues.iter().cloned().collect::<Vec<_>>().join(",");
        let _ = writeln!(text, "worker   {node:<20} {kind}, {state}, queues {queues}");
    }
    if fleet.workers.is_empty() {
        text.push_str("worker   none\n");
    }
    for Beat { instance, heartbeat } in &fleet.beats {
        let leader = if heartbeat["leader"] == true {
            ", leads"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "beat     {instance} on {}{leader}",
            heartbeat["host"].as_str().unwrap_or("?")
        );
    }
    if fleet.beats.is_empty() {
        text.push_str("beat     none of this system; a Celery beat cannot be seen\n");
    }
    text
}
