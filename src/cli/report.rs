//! The doctor's picture and findings as text.

use serde_json::{Value, json};

use crate::product::doctor::{Finding, Picture, Severity};
use crate::product::fleet::backlog::Backlog;
use crate::product::fleet::lists::{ListValue, MarketLists};
use crate::product::fleet::members::FleetMembers;
use crate::product::fleet::span;
use tradebot_base::text::printable;

/// Exit code when there are warnings and nothing worse.
pub(super) const EXIT_WARNINGS: u8 = 2;
/// Exit code when something is critical.
pub(super) const EXIT_CRITICAL: u8 = 3;

/// The exit code for these findings.
pub(super) fn exit_code(findings: &[Finding]) -> u8 {
    match findings.iter().map(|finding| finding.kind.severity).max() {
        None | Some(Severity::Note) => 0,
        Some(Severity::Warning) => EXIT_WARNINGS,
        Some(Severity::Critical) => EXIT_CRITICAL,
    }
}

/// Whether there are notes at most.
fn is_healthy(findings: &[Finding]) -> bool {
    exit_code(findings) == 0
}

/// Findings with the picture, as JSON.
pub(super) fn as_json(picture: &Picture, findings: &[Finding]) -> Value {
    json!({"healthy": is_healthy(findings), "findings": findings, "picture": picture})
}

/// Findings as paragraphs.
pub(super) fn findings(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "healthy: nothing is wrong\n".into();
    }
    let paragraphs = findings.iter().map(|Finding { kind, subject, what }| {
        let severity = kind.severity.name().to_uppercase();
        let (subject, what) = (printable(subject), printable(what));
        format!(
            "{severity} {} ({subject})\n  what  {what}\n  why   {}\n  do    {}\n",
            kind.code, kind.why, kind.remedy
        )
    });
    let count = |severity| {
        let of_severity = |finding: &&Finding| finding.kind.severity == severity;
        findings.iter().filter(of_severity).count()
    };
    let [critical, warnings, notes] = [Severity::Critical, Severity::Warning, Severity::Note].map(count);
    let sum = if is_healthy(findings) {
        format!("healthy: nothing is wrong, {notes} notes\n")
    } else {
        format!("{critical} critical, {warnings} warnings, {notes} notes\n")
    };
    paragraphs.collect::<String>() + &sum
}

/// Whether every Redis server answers.
pub(super) fn is_reachable(picture: &Picture) -> bool {
    picture.servers.iter().all(|server| server.trouble.is_none())
}

/// A summary of the picture: servers, lists, queues, workers, beats.
pub(super) fn picture(picture: &Picture) -> String {
    let mut lines = Vec::new();
    for server in &picture.servers {
        let state = server.trouble.as_ref().map_or("up", |trouble| &trouble.text);
        let roles = server.roles.join("+");
        lines.push(format!("redis    {roles:<20} {}  {state}", server.place));
    }
    lines.extend(picture.lists.iter().map(list));
    lines.extend(picture.broker.iter().flat_map(backlog));
    lines.extend(picture.fleet.iter().flat_map(members));
    // A server that is away has said so above.
    let unseen = picture.unseen.iter().filter(|_| is_reachable(picture));
    lines.extend(unseen.map(|(part, failure)| format!("unseen   {part}: {}", failure.text)));
    let lines: Vec<_> = lines.iter().map(|line| printable(line)).collect();
    lines.join("\n") + "\n"
}

fn list(lists: &MarketLists) -> String {
    let contents = |list: &ListValue| match list {
        ListValue::Missing => "missing".to_owned(),
        ListValue::WrongType { found } => format!("a {found}"),
        ListValue::Unreadable { .. } => "unreadable".to_owned(),
        ListValue::List { count, .. } => format!("{count} symbols"),
    };
    let mut facts = vec![
        contents(&lists.primary),
        format!("last good {}", contents(&lists.last_good)),
    ];
    facts.extend(lists.age_seconds.map(|age| format!("{} old", span(age))));
    match (&lists.primary, lists.ttl_seconds) {
        (ListValue::Missing, _) => {}
        (_, Some(left)) => facts.push(format!("{} left", span(left))),
        (_, None) => facts.push("no expiry".to_owned()),
    }
    facts.push(match &lists.source {
        Some(source) => format!("from {:?} {}", source.network, source.host).to_lowercase(),
        None => "from another program".to_owned(),
    });
    let hits = |ratio: f64| format!("{:.1} %", 100.0 - ratio * 100.0);
    if let Some(ratio) = lists.counts.miss_ratio() {
        let recent = lists.recent.as_ref().and_then(|recent| {
            let ratio = recent.counts.miss_ratio()?;
            Some(format!(" ({} in the last {})", hits(ratio), span(recent.seconds)))
        });
        facts.push(format!("{} hits{}", hits(ratio), recent.unwrap_or_default()));
    }
    format!("list     {:<20} {}", lists.market, facts.join(", "))
}

fn backlog(backlog: &Backlog) -> Vec<String> {
    let queues = backlog.queues.iter().map(|queue| {
        let next = queue.oldest.as_ref().map(|oldest| {
            let waiting = match oldest.waiting_seconds {
                0 => String::new(),
                seconds => format!(", for at least {}", span(seconds)),
            };
            format!(", next {}{waiting}", oldest.task)
        });
        let (name, messages) = (&queue.name, queue.messages);
        format!(
            "queue    {name:<20} {messages} waiting{}",
            next.unwrap_or_default()
        )
    });
    let mut lines: Vec<String> = queues.collect();
    let totals = &backlog.totals;
    let (unacked, parked) = (totals.unacked, totals.parked);
    lines.push(format!("unacked  {:<20} {unacked} taken, {parked} parked", ""));
    for (task, messages) in &totals.waiting_for_others {
        lines.push(format!("waiting  {task} ({messages}) for other workers"));
    }
    lines
}

fn members(members: &FleetMembers) -> Vec<String> {
    let mut lines = Vec::new();
    for worker in &members.workers {
        let node = &worker.node;
        let kind = if worker.ours { "ours" } else { "python" };
        let state = if worker.answers { "answers" } else { "silent" };
        let queues: Vec<&str> = worker.queues.iter().map(String::as_str).collect();
        let queues = queues.join(",");
        // Each worker has its line, also those that share a name.
        for _ in 0..worker.twins() {
            lines.push(format!("worker   {node:<20} {kind}, {state}, queues {queues}"));
        }
    }
    if members.workers.is_empty() {
        lines.push("worker   none".to_owned());
    }
    for beat in &members.beats {
        let leads = if beat.leads() { ", leads" } else { "" };
        lines.push(format!("beat     {} on {}{leads}", beat.instance, beat.host()));
    }
    if members.beats.is_empty() {
        lines.push("beat     none of this system; a Celery beat cannot be seen".to_owned());
    }
    lines
}
