//! Findings about the queues.

use super::finding::{self, Finding};
use super::settings::DoctorSettings;
use crate::product::fleet::backlog::{Backlog, OldestMessage, QueueFacts};
use tradebot_base::market::Market;

/// A queue with more messages than this is long.
const LONG: u64 = 1_000;
/// How long a message may be the oldest, in seconds.
const STUCK_SECONDS: i64 = 300;
/// How far a warm-up may be past its expiry, in seconds.
const EXPIRED_SECONDS: i64 = 60;

/// Whether anyone takes the messages that wait for other workers is judged with the members.
pub(super) fn judge(backlog: &Backlog, settings: &DoctorSettings) -> Vec<Finding> {
    let mut found: Vec<Finding> = backlog.queues.iter().flat_map(judge_queue).collect();
    let hard = settings.worker.time_limit.as_secs();
    // A message that was taken ahead may wait as long behind one that runs for as long as it may.
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
    if !queue.bound {
        let what = "the exchange of the same name does not lead to it";
        found.push(finding::BINDING_MISSING.found(name, what));
    }
    found
}

/// Why the oldest message should have been taken, if it should have been.
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
