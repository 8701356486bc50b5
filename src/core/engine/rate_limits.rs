//! Rate limits on the starts of a task: a token bucket of one token, as in Celery.
//!
//! A message that has to wait for its token holds no slot, so other tasks run meanwhile. When as many wait as can
//! pass in a few seconds, the rest stays in the queue, for other workers too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::Notify;

/// For how long messages are taken ahead of their turn.
const AHEAD_SECONDS: f64 = 4.0;
/// The most messages of one task that wait for their turn.
const MAX_AHEAD: usize = 10_000;

/// Why a rate limit cannot be used, in the words of the exception that Python raises.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateError {
    /// A `ValueError` with this text.
    Value(String),
    /// A `KeyError` with this key.
    Key(String),
}

/// A rate limit, `100/m`, `2/h`, `0.5/s` or a number per second.
#[derive(Debug, Clone, PartialEq)]
pub struct RateLimit {
    /// As it was given.
    pub given: Value,
    /// Starts per second; zero if there is no limit.
    per_second: f64,
}

impl RateLimit {
    /// Reads a limit; nothing, an empty text and zero mean that there is none.
    ///
    /// # Errors
    /// [`RateError`].
    pub fn parse(given: &Value) -> Result<Self, RateError> {
        let per_second = match given {
            Value::Null | Value::Bool(false) => 0.0,
            Value::Bool(true) => 1.0,
            Value::Number(number) => number.as_f64().unwrap_or_default(),
            Value::String(text) if text.is_empty() => 0.0,
            Value::String(text) => parse_text(text)?,
            other => return Err(RateError::Value(format!("not a rate: {other}"))),
        };
        if !per_second.is_finite() || per_second < 0.0 {
            return Err(RateError::Value(format!("not a rate: {given}")));
        }
        Ok(Self {
            given: given.clone(),
            per_second,
        })
    }
}

fn parse_text(text: &str) -> Result<f64, RateError> {
    let (number, modifier) = text.split_once('/').unwrap_or((text, ""));
    let seconds = match modifier {
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        other => return Err(RateError::Key(other.to_owned())),
    };
    let number: f64 = number
        .trim()
        .parse()
        .map_err(|_| RateError::Value(format!("could not convert string to float: '{number}'")))?;
    Ok(number / seconds)
}

/// Where messages of one task pass one by one.
#[derive(Debug)]
pub struct RateGate {
    // Locked for a few numbers, never across an await.
    bucket: Mutex<Bucket>,
    /// Held by the message whose turn is next; tokio's mutex is fair.
    turn: tokio::sync::Mutex<()>,
    changed: Notify,
    waiting: AtomicUsize,
}

#[derive(Debug)]
struct Bucket {
    limit: RateLimit,
    tokens: f64,
    filled: Instant,
}

impl Default for RateGate {
    fn default() -> Self {
        Self {
            bucket: Mutex::new(Bucket {
                limit: RateLimit {
                    given: Value::Null,
                    per_second: 0.0,
                },
                tokens: 1.0,
                filled: Instant::now(),
            }),
            turn: tokio::sync::Mutex::default(),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl RateGate {
    /// Whether there is a limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.bucket().limit.per_second > 0.0
    }

    /// The limit as it was given last; null if it never was.
    #[must_use]
    pub fn given(&self) -> Value {
        self.bucket().limit.given.clone()
    }

    /// Replaces the limit, with a full bucket; those who wait go by the new one.
    pub fn set(&self, limit: RateLimit) {
        *self.bucket() = Bucket {
            limit,
            tokens: 1.0,
            filled: Instant::now(),
        };
        self.changed.notify_one();
    }

    /// Whether enough messages wait, so that the rest stays in the queue.
    #[must_use]
    pub(super) fn is_full(&self, concurrency: usize) -> bool {
        let rate = self.bucket().limit.per_second;
        if rate <= 0.0 {
            return false;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to a small range"
        )]
        let ahead = (rate * AHEAD_SECONDS).clamp(0.0, MAX_AHEAD as f64) as usize;
        self.waiting.load(Ordering::Relaxed) >= ahead.max(4 * concurrency)
    }

    /// Waits for this message's turn; cancel-safe, the next message then has its turn.
    pub(super) async fn pass(&self) {
        if !self.is_limited() {
            return;
        }
        let _waiting = Waiting::new(&self.waiting);
        let _turn = self.turn.lock().await;
        while let Some(wait) = self.take() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => {}
            }
        }
    }

    /// Takes a token, or returns the time until there is one.
    fn take(&self) -> Option<Duration> {
        let mut bucket = self.bucket();
        let rate = bucket.limit.per_second;
        if rate <= 0.0 {
            return None;
        }
        let now = Instant::now();
        let gained = now.duration_since(bucket.filled).as_secs_f64() * rate;
        bucket.tokens = (bucket.tokens + gained).min(1.0);
        bucket.filled = now;
        // The rest of a rounding error is no reason for another wait.
        if bucket.tokens >= 1.0 - 1e-9 {
            bucket.tokens -= 1.0;
            return None;
        }
        let wait = (1.0 - bucket.tokens) / rate;
        Some(Duration::try_from_secs_f64(wait).unwrap_or(Duration::MAX))
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Waiting<'g>(&'g AtomicUsize);

impl<'g> Waiting<'g> {
    fn new(count: &'g AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rate(given: Value) -> Result<f64, RateError> {
        RateLimit::parse(&given).map(|limit| limit.per_second)
    }

    #[test]
    fn limits_are_read_as_celery_reads_them() {
        for (given, per_second) in [
            (json!("100/m"), 100.0 / 60.0),
            (json!("2/h"), 2.0 / 3600.0),
            (json!("0.5/s"), 0.5),
            (json!("7"), 7.0),
            (json!(3), 3.0),
            (json!(0), 0.0),
            (json!("0"), 0.0),
            (json!(""), 0.0),
            (Value::Null, 0.0),
        ] {
            assert_eq!(rate(given.clone()), Ok(per_second), "{given}");
        }
        assert_eq!(rate(json!("10/x")), Err(RateError::Key("x".into())));
        assert_eq!(
            rate(json!("abc")),
            Err(RateError::Value(
                "could not convert string to float: 'abc'".into()
            ))
        );
        assert!(matches!(rate(json!("-1/s")), Err(RateError::Value(_))));
    }

    #[test]
    fn as_many_messages_wait_as_pass_in_four_seconds_or_fill_the_slots_four_times() {
        let gate = RateGate::default();
        let is_full = |rate: Value, waiting: usize| {
            gate.set(RateLimit::parse(&rate).unwrap());
            gate.waiting.store(waiting, Ordering::Relaxed);
            gate.is_full(2)
        };
        for (rate, enough) in [
            (json!("10/s"), 40),
            (json!("1/h"), 8),
            (json!("1000000/s"), 10_000),
        ] {
            assert!(!is_full(rate.clone(), enough - 1), "{rate}");
            assert!(is_full(rate.clone(), enough), "{rate}");
        }
    }

    #[tokio::test]
    async fn messages_pass_at_the_rate_and_at_once_when_it_is_lifted() {
        let gate = RateGate::default();
        gate.pass().await;
        gate.set(RateLimit::parse(&json!("20/s")).unwrap());
        let began = Instant::now();
        for _ in 0..4 {
            gate.pass().await;
        }
        assert!(
            began.elapsed() >= Duration::from_millis(149),
            "{:?}",
            began.elapsed()
        );

        gate.set(RateLimit::parse(&json!("1/h")).unwrap());
        gate.pass().await;
        let lift = async {
            tokio::task::yield_now().await;
            assert!(!gate.is_full(1));
            gate.set(RateLimit::parse(&json!(0)).unwrap());
        };
        let both = async { tokio::join!(gate.pass(), gate.pass(), lift) };
        tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    }
}
