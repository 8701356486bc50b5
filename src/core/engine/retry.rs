//! Retry: whether a failed task is tried again, when, and with which message.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use tradebot_base::backoff;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::Exception;
use tradebot_wire::timestamp;

/// The longest wait before a retry that a failure may ask for.
const LONGEST_WISH: Duration = Duration::from_secs(3600);

/// A retry that a task asks for, under the names of Celery's `Task.retry`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RetryRequest {
    /// When the next try is due.
    pub eta: Option<DateTime<Utc>>,
    /// How long from now it is due, unless `eta` says when. Without both the task's backoff decides.
    pub countdown: Option<Duration>,
    /// The limit of retries, if not the task's.
    pub max_retries: Option<u32>,
    /// Arguments of the next try, if not those of this one.
    pub arguments: Option<(Vec<Value>, Map<String, Value>)>,
    /// Queue of the next try, if not that of this one.
    pub queue: Option<String>,
    /// Time after which the next try must not start.
    pub expires: Option<DateTime<Utc>>,
    /// What the task fails with once no retry is left; Celery's `MaxRetriesExceededError` if absent.
    pub exception: Option<Exception>,
}

impl RetryRequest {
    /// Writes what the task asked for into the message of its next try.
    pub(super) fn apply(self, next: &mut Envelope) {
        if let Some((args, kwargs)) = self.arguments {
            next.set_arguments(args, kwargs);
        }
        if let Some(queue) = self.queue {
            let delivery_info = json!({"exchange": "", "routing_key": queue});
            next.set_property("delivery_info", delivery_info);
        }
        if let Some(expires) = self.expires {
            next.set_header("expires", json!(timestamp::isoformat(expires)));
        }
    }
}

/// A task's retry options, under Celery's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Whether failures are retried without the task asking (`autoretry_for = (Exception,)`).
    pub autoretry: bool,
    /// Retries after the first try.
    pub max_retries: u32,
    /// `retry_backoff_max`, in seconds.
    pub backoff_max_seconds: u32,
    /// `retry_jitter`.
    pub jitter: bool,
}

impl RetryPolicy {
    /// Celery's defaults: no automatic retry, three when the task asks.
    pub const NONE: Self = Self {
        autoretry: false,
        max_retries: 3,
        backoff_max_seconds: 600,
        jitter: true,
    };

    /// When a task that has failed after `retries` retries is tried again; `None` once they are used up.
    ///
    /// `wish` is what the failure asked for, such as an upstream's `Retry-After`: the wait is no shorter.
    #[must_use]
    pub fn countdown(
        &self,
        retries: u32,
        wish: Option<Duration>,
        rng: &mut fastrand::Rng,
    ) -> Option<Duration> {
        if retries >= self.max_retries {
            return None;
        }
        let own = backoff::celery_countdown(1, retries, self.backoff_max_seconds, self.jitter, rng);
        Some(own.max(wish.unwrap_or_default().min(LONGEST_WISH)))
    }
}

/// The message of the next try, as Celery republishes it: the same id, one retry more, everything that the
/// message carried still in place.
#[must_use]
pub fn successor(message: &Envelope, countdown: Duration, origin: &str, now: DateTime<Utc>) -> Envelope {
    let mut next = message.clone();
    let eta = TimeDelta::from_std(countdown)
        .ok()
        .filter(|wait| !wait.is_zero())
        .map(|wait| now + wait);
    next.set_header("eta", json!(eta.map(timestamp::isoformat)));
    next.set_header("retries", json!(message.retries() + 1));
    if message.header("parent_id").is_none() {
        // Celery's quirk, visible in results and in Flower.
        next.set_header("parent_id", json!(message.id()));
    }
    next.clear_redelivered();
    next.set_property("delivery_tag", json!(Uuid::new_v4().to_string()));
    next.set_property("origin", json!(origin));
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_end_and_wishes_are_honoured_within_bounds() {
        let mut rng = fastrand::Rng::with_seed(5);
        let policy = RetryPolicy {
            autoretry: true,
            max_retries: 5,
            backoff_max_seconds: 600,
            jitter: true,
        };
        for retries in 0..5 {
            let wait = policy.countdown(retries, None, &mut rng).unwrap();
            assert!(wait <= Duration::from_secs(1 << retries));
        }
        assert_eq!(policy.countdown(5, None, &mut rng), None);
        let wish = Some(Duration::from_secs(90));
        assert_eq!(policy.countdown(0, wish, &mut rng), wish);
        let absurd = Some(Duration::from_secs(1 << 40));
        assert_eq!(
            policy.countdown(0, absurd, &mut rng),
            Some(Duration::from_secs(3_600))
        );
    }

    #[test]
    fn the_next_try_keeps_all_but_the_counter_and_the_time() {
        let raw = r#"{"body": "b", "headers": {"task": "t", "id": "i", "retries": 2, "parent_id": null, "x": {"y": [1]},
            "stamps": {"m": 1}, "expires": "2026-11-23T11:00:00Z"}, "properties": {"delivery_tag": "old", "priority": 3}}"#;
        let message = Envelope::parse(raw.as_bytes()).unwrap();
        let now = timestamp::parse("2026-11-23T10:00:00Z").unwrap();
        let next = successor(&message, Duration::from_millis(1500), "gen1@h", now);
        assert_eq!(next.retries(), 3);
        assert_eq!(next.text("eta"), Some("2026-11-23T10:00:01.500000+00:00"));
        assert_eq!(next.text("parent_id"), Some("i"));
        assert_eq!(next.header("x"), message.header("x"));
        assert_eq!(next.header("expires"), message.header("expires"));
        assert_eq!(next.priority(), message.priority());
        assert_ne!(next.publisher_tag(), message.publisher_tag());
        assert_eq!(successor(&message, Duration::ZERO, "o", now).header("eta"), None);
    }
}
