//! Findings about queues, workers and beats.

use super::finding::{self, Finding};
use super::settings::DoctorSettings;
use crate::product::fleet::backlog::{Backlog, OldestMessage, QueueFacts};
use crate::product::fleet::liveness::BeatFacts;
use crate::product::fleet::members::{FleetMembers, PATIENCE, WorkerFacts};
use tradebot_base::market::Market;

/// The number of messages above which a queue is long.
const LONG: u64 = 1_000;
/// How long a message may stay at the head of a queue, in seconds.
const STUCK_SECONDS: i64 = 300;
/// How long ago a warm-up at the head may have expired, in seconds.
const EXPIRED_SECONDS: i64 = 60;
/// How late a beat may be, in seconds.
const BEAT_LATE_SECONDS: i64 = 60;

/// `judge_members` judges the messages that wait for other workers.
pub(super) fn judge_backlog(backlog: &Backlog, settings: &DoctorSettings) -> Vec<Finding> {
    let mut found: Vec<Finding> = backlog.queues.iter().flat_map(judge_queue).collect();
    let hard = settings.worker.time_limit.as_secs();
    // A prefetched message may wait behind one that runs up to its limit.
    let patience = i64::try_from(if hard == 0 { 3600 } else { 2 * hard + 60 }).unwrap_or(i64::MAX);
    if let Some(age) = backlog.oldest_delivery_seconds.filter(|age| *age > patience) {
        let what = format!("the oldest delivery was neither acknowledged nor renewed for {age} s");
        found.push(finding::UNACKED_OLD.found("unacked", what));
    }
    let totals = &backlog.totals;
    if totals.unacked > totals.unacked_index {
        let what = format!(
            "{} records, {} of them indexed",
            totals.unacked, totals.unacked_index
        );
        found.push(finding::UNACKED_LOST.found("unacked", what));
    }
    if totals.parked > 0 {
        let what = format!("{} messages were set aside", totals.parked);
        found.push(finding::PARKED.found("parked", what));
    }
    found
}

/// `now` is the broker's time.
pub(super) fn judge_members(
    members: &FleetMembers,
    backlog: Option<&Backlog>,
    settings: &DoctorSettings,
    now: i64,
) -> Vec<Finding> {
    let queues = settings.queues.iter();
    let mut found: Vec<Finding> = queues
        .flat_map(|queue| judge_service(queue, &members.workers))
        .collect();
    for worker in &members.workers {
        if worker.ours && !worker.answers {
            let what = format!("it did not answer within {} s", PATIENCE.as_secs());
            found.push(finding::WORKER_SILENT.found(&worker.node, what));
        }
        if worker.twins() > 1 {
            let what = format!("{} workers have this name", worker.twins());
            found.push(finding::DUPLICATE_NODE.found(&worker.node, what));
        }
    }
    found.extend(backlog.and_then(|backlog| judge_unserved(backlog, &members.workers)));
    found.extend(judge_beats(&members.beats, settings, now));
    found
}

fn judge_queue(queue: &QueueFacts) -> Vec<Finding> {
    let name = &queue.name;
    if let Some(held) = &queue.wrong_type {
        return vec![finding::QUEUE_WRONG_TYPE.found(name, format!("its key holds a {held}"))];
    }
    let mut found = Vec::new();
    if queue.messages > LONG {
        found.push(finding::QUEUE_LONG.found(name, format!("{} messages wait", queue.messages)));
    }
    let stuck = queue.oldest.as_ref().and_then(stuck);
    found.extend(stuck.map(|what| finding::QUEUE_STUCK.found(name, what)));
    if !queue.unread.is_empty() {
        let lists = queue.unread.iter();
        let lists: Vec<String> = lists
            .map(|(list, messages)| format!("{list} ({messages})"))
            .collect();
        found.push(finding::LISTS_UNREAD.found(name, format!("messages wait in {}", lists.join(", "))));
    }
    if let Some(binding) = &queue.unreadable_binding {
        let what = format!("a binding of its exchange is {binding}");
        found.push(finding::BINDINGS_UNREADABLE.found(name, what));
    } else if !queue.bound {
        let what = "the exchange of the same name does not lead to it";
        found.push(finding::BINDING_MISSING.found(name, what));
    }
    found
}

/// Why a worker should already have taken the oldest message, if so.
fn stuck(oldest: &OldestMessage) -> Option<String> {
    let (task, waiting) = (&oldest.task, oldest.waiting_seconds);
    if waiting >= STUCK_SECONDS {
        return Some(format!("{task} has been next for {waiting} s"));
    }
    let is_warmup = Market::ALL.iter().any(|market| market.warmup_task() == task);
    oldest
        .expired_seconds
        .filter(|seconds| is_warmup && *seconds > EXPIRED_SECONDS)
        .map(|seconds| format!("{task} is next and expired {seconds} s ago"))
}

/// Whether the workers of a queue run the warm-ups.
fn judge_service(queue: &str, workers: &[WorkerFacts]) -> Vec<Finding> {
    let knows = |worker: &WorkerFacts| {
        Market::ALL
            .iter()
            .all(|market| worker.tasks.contains(market.warmup_task()))
    };
    // A silent worker of this system may serve the queue.
    let serves = |worker: &&WorkerFacts| worker.queues.contains(queue) || (worker.ours && !worker.answers);
    let serving: Vec<&WorkerFacts> = workers.iter().filter(serves).collect();
    let discards = |worker: &&&WorkerFacts| !worker.ours && !knows(worker) && !worker.tasks.is_empty();
    let discarding = serving.iter().filter(discards);
    let mut found: Vec<Finding> = discarding
        .map(|worker| {
            let what = format!("it serves the queue {queue} and does not have the warm-ups");
            finding::WORKER_DISCARDS.found(&worker.node, what)
        })
        .collect();
    let unguarded = serving.iter().filter(|worker| !worker.ours && knows(worker));
    found.extend(unguarded.map(|worker| {
        let what = format!("it serves the queue {queue} and runs warm-ups without a guard");
        finding::WARMUPS_UNGUARDED.found(&worker.node, what)
    }));
    if !serving.iter().any(|worker| knows(worker) || !worker.answers) {
        let what = format!(
            "of the {} workers that serve the queue none has the warm-ups",
            serving.len()
        );
        found.push(finding::NO_WORKER.found(queue, what));
    }
    found
}

fn judge_unserved(backlog: &Backlog, workers: &[WorkerFacts]) -> Option<Finding> {
    let waiting = backlog.totals.waiting_for_others.iter();
    let unknown: Vec<String> = waiting
        .filter(|(task, _)| workers.iter().all(|worker| !worker.tasks.contains(*task)))
        .map(|(task, messages)| format!("{task} ({messages})"))
        .collect();
    (!unknown.is_empty()).then(|| {
        let what = format!("no worker that answers knows {}", unknown.join(", "));
        finding::UNSERVED.found("queues", what)
    })
}

fn judge_beats(beats: &[BeatFacts], settings: &DoctorSettings, now: i64) -> Vec<Finding> {
    let scheduled = Market::ALL
        .iter()
        .any(|market| settings.schedule.warmup_interval.get(*market).is_some());
    if beats.is_empty() && scheduled && !settings.foreign_beat {
        return vec![finding::NO_BEAT.found("beat", "no beat of this system has a heartbeat")];
    }
    let late = |beat: &&BeatFacts| beat.next_due().is_some_and(|due| now - due > BEAT_LATE_SECONDS);
    let what = "its next slot is more than a minute overdue";
    let late = beats.iter().filter(late);
    late.map(|beat| finding::BEAT_STALLED.found(&beat.instance, what))
        .collect()
}
