//! The heartbeat, and when the broker last answered the consumer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::heartbeat::Heartbeat;

/// The heartbeat's handle and the time of the broker's last answer.
pub(super) struct Liveness {
    heartbeat: Mutex<Option<Heartbeat>>,
    began: Instant,
    /// Milliseconds from `began` to the broker's last answer, plus one; zero before the first.
    last_answer: AtomicU64,
}

impl Liveness {
    /// Nothing has answered and no heartbeat runs.
    pub(super) fn new() -> Self {
        Self {
            heartbeat: Mutex::default(),
            began: Instant::now(),
            last_answer: AtomicU64::new(0),
        }
    }

    /// Notes that the broker answered the consumer.
    pub(super) fn note_answer(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.last_answer.store(now + 1, Ordering::Relaxed);
    }

    /// How long ago the broker last answered; `None` before its first answer.
    pub(super) fn since_answer(&self) -> Option<Duration> {
        let at = self.last_answer.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began.elapsed().saturating_sub(Duration::from_millis(at)))
    }

    /// Keeps the heartbeat that was started.
    pub(super) fn keep(&self, heartbeat: Heartbeat) {
        *self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner) = Some(heartbeat);
    }

    /// Waits until the heartbeat ends; for ever if none was started.
    pub(super) async fn heartbeat_ended(&self) {
        let ended = {
            let heartbeat = self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner);
            heartbeat.as_ref().map(Heartbeat::ended)
        };
        match ended {
            Some(ended) => ended.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Ends the heartbeat; `drained` if this worker holds no messages any more.
    pub(super) async fn end(&self, drained: bool) {
        let heartbeat = self
            .heartbeat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(heartbeat) = heartbeat {
            heartbeat.stop(drained).await;
        }
    }
}
