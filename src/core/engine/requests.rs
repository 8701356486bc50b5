//! The requests that this worker holds, for `inspect`, revocations and metrics.
//!
//! Celery keeps sets of its requests by their state (`celery.worker.state`). Here a request is entered once,
//! when its message was read, and leaves with the [`Ticket`] that its holder drops; its state is a number in it.
//! Nothing is formatted in advance: `inspect` formats the message as it was received.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use slab::Slab;
use tokio::sync::Notify;

use super::task_types::TaskType;

/// Where a request is on its way through the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waits for its `eta`.
    Scheduled = 0,
    /// Waits for its turn: for its task's rate limit, or to be started.
    Reserved = 1,
    /// Runs.
    Active = 2,
}

impl Phase {
    /// Its name in Celery.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Reserved => "reserved",
            Self::Active => "active",
        }
    }
}

/// One request.
#[derive(Debug)]
pub struct Request {
    id: String,
    task: Arc<TaskType>,
    raw: Vec<u8>,
    eta: Option<DateTime<Utc>>,
    phase: AtomicU8,
    /// Unix time of the start in microseconds.
    started: AtomicU64,
    /// Signal number to end it with; 0 for none.
    terminate: AtomicI32,
    woken: Notify,
}

impl Request {
    /// Id of the task.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its task.
    #[must_use]
    pub fn task(&self) -> &Arc<TaskType> {
        &self.task
    }

    /// The message as it came.
    #[must_use]
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// When it is due, if it was sent with an `eta`.
    #[must_use]
    pub fn eta(&self) -> Option<DateTime<Utc>> {
        self.eta
    }

    /// Where it is.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Scheduled,
            1 => Phase::Reserved,
            _ => Phase::Active,
        }
    }

    /// Unix time of its start, in seconds.
    #[must_use]
    pub fn time_start(&self) -> Option<f64> {
        let micros = self.started.load(Ordering::Relaxed);
        #[expect(
            clippy::cast_precision_loss,
            reason = "microseconds since 1970 fit in 53 bits until 2255"
        )]
        let seconds = micros as f64 / 1e6;
        (micros > 0).then_some(seconds)
    }

    /// Ends it as `terminated` by this signal; at its next await if it runs.
    pub fn terminate(&self, signal: i32) {
        self.terminate.store(signal, Ordering::Release);
        self.woken.notify_one();
    }

    /// Makes it check again whether it was revoked, if it waits.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Ends when [`wake`](Self::wake) or [`terminate`](Self::terminate) was called; cancel-safe.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    /// Waits for [`terminate`](Self::terminate) and returns the signal; cancel-safe.
    pub(super) async fn terminated(&self) -> i32 {
        loop {
            let signal = self.terminate.load(Ordering::Acquire);
            if signal != 0 {
                return signal;
            }
            self.woken.notified().await;
        }
    }
}

/// The requests of one worker.
#[derive(Debug, Default)]
pub struct Requests {
    // Locked to enter, to take out and to copy pointers; never across an await.
    entries: Mutex<Slab<Arc<Request>>>,
}

/// A place in [`Requests`], given up when dropped.
#[derive(Debug)]
pub struct Ticket {
    requests: Arc<Requests>,
    request: Arc<Request>,
    key: usize,
}

impl Requests {
    /// Enters a request.
    pub(super) fn enter(
        self: &Arc<Self>,
        task: Arc<TaskType>,
        id: &str,
        raw: Vec<u8>,
        eta: Option<DateTime<Utc>>,
        phase: Phase,
    ) -> Ticket {
        let request = Arc::new(Request {
            id: id.to_owned(),
            task,
            raw,
            eta,
            phase: AtomicU8::new(phase as u8),
            started: AtomicU64::new(0),
            terminate: AtomicI32::new(0),
            woken: Notify::new(),
        });
        let key = self.lock().insert(Arc::clone(&request));
        Ticket {
            requests: Arc::clone(self),
            request,
            key,
        }
    }

    /// All requests, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Request>> {
        self.lock()
            .iter()
            .map(|(_, request)| Arc::clone(request))
            .collect()
    }

    /// The requests in one phase, in the order of their start or `eta`.
    #[must_use]
    pub fn in_phase(&self, phase: Phase) -> Vec<Arc<Request>> {
        let mut found = self.all();
        found.retain(|request| request.phase() == phase);
        found.sort_by_key(|request| (request.started.load(Ordering::Relaxed), request.eta));
        found
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Request>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// The request it stands for.
    pub(super) fn request(&self) -> &Arc<Request> {
        &self.request
    }

    /// Moves the request on before it runs.
    pub(super) fn set_waiting(&self, phase: Phase) {
        self.request.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Counts the request as started.
    pub(super) fn start(&self, now: DateTime<Utc>) {
        let micros = u64::try_from(now.timestamp_micros()).unwrap_or_default();
        self.request.started.store(micros, Ordering::Relaxed);
        self.request.phase.store(Phase::Active as u8, Ordering::Relaxed);
        self.request.task.count();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.requests.lock().remove(self.key);
    }
}

/// How often each task was started; tasks that never were are left out, as in Celery's counter.
#[must_use]
pub(super) fn totals(types: &BTreeMap<String, Arc<TaskType>>) -> BTreeMap<String, u64> {
    let counted = types.iter().map(|(name, task)| (name.clone(), task.runs()));
    counted.filter(|(_, runs)| *runs > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradebot_base::clock::{Clock, SystemClock};

    #[tokio::test]
    async fn a_request_is_listed_from_its_entry_to_its_drop() {
        let requests = Arc::new(Requests::default());
        let task = Arc::new(TaskType::new("t", None));
        let first = requests.enter(Arc::clone(&task), "a", b"{}".to_vec(), None, Phase::Reserved);
        let second = requests.enter(Arc::clone(&task), "b", Vec::new(), None, Phase::Scheduled);
        first.start(SystemClock.now());
        assert_eq!(task.runs(), 1);
        assert_eq!(requests.in_phase(Phase::Active).len(), 1);
        assert_eq!(requests.in_phase(Phase::Active)[0].id(), "a");
        assert_eq!(requests.in_phase(Phase::Scheduled)[0].id(), "b");
        assert!(first.request().time_start().is_some() && second.request().time_start().is_none());
        drop(first);
        assert_eq!(
            (requests.in_phase(Phase::Active).len(), requests.all().len()),
            (0, 1)
        );

        second.request().terminate(15);
        assert_eq!(second.request().terminated().await, 15);
    }
}
