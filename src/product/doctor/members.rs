//! Findings about workers and beats.

use super::finding::{self, Finding};
use super::settings::DoctorSettings;
use crate::product::fleet::backlog::Backlog;
use crate::product::fleet::liveness::BeatFacts;
use crate::product::fleet::members::{FleetMembers, PATIENCE, WorkerFacts};
use tradebot_base::market::Market;

/// How late a beat may be, in seconds.
const BEAT_LATE_SECONDS: i64 = 60;

/// `now` is the broker's time.
pub(super) fn judge(
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
        if worker.leases > 1 {
            let what = format!("{} workers have this name", worker.leases);
            found.push(finding::DUPLICATE_NODE.found(&worker.node, what));
        }
    }
    found.extend(backlog.and_then(|backlog| judge_unserved(backlog, &members.workers)));
    found.extend(judge_beats(&members.beats, settings, now));
    found
}

/// Whether workers that serve a queue run its warm-ups.
fn judge_service(queue: &str, workers: &[WorkerFacts]) -> Vec<Finding> {
    let knows = |worker: &WorkerFacts| {
        Market::ALL
            .iter()
            .all(|market| worker.tasks.contains(market.warmup_task()))
    };
    // One of ours that does not answer serves the queue for all we know.
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
