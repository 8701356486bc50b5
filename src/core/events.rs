//! The events that a worker sends to its watchers (`celery events`, Flower, the gossip of other workers).
//!
//! Worker events (online, heartbeat, offline) are always sent, task events while the [`Switch`] is on. Each event is
//! written as JSON into a bounded buffer at once; a publisher sends many in one `PUBLISH`. So no task waits for an event,
//! and while the broker is unreachable, events beyond the bound are dropped.
//!
//! Fields, their order and the channels are Celery's (`celery.events.dispatcher`, `celery.worker.request`).
//! As in Celery, an outcome is stored before its event is sent, so receivers of the event find the result.

mod buffer;
mod event;
mod lamport;
mod message;
mod publisher;
mod switch;

pub use lamport::LamportClock;
pub(crate) use publisher::Publisher;
pub use switch::Switch;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Local, Utc};
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;

use self::buffer::Buffer;
use self::event::{Event, Seconds};
use tradebot_base::clock::SharedClock;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::TaskState;
use tradebot_wire::{python_json, python_repr, timestamp};

/// Seconds between two heartbeats, which is Celery's default. Receivers take a worker for lost after twice that.
const HEARTBEAT_SECONDS: f64 = 2.0;
/// The `freq` of a heartbeat requested by remote control.
const REQUESTED_SECONDS: f64 = 5.0;
const SOFTWARE: &str = "tradebot-symbols";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Which events a worker sends.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventSettings {
    /// `worker_send_task_events`: task events are sent from the start.
    pub task_events: bool,
    /// `task_send_sent_event`: tasks that this worker publishes have events too.
    pub sent_events: bool,
}

/// The events of one worker.
#[derive(Debug)]
pub struct Events {
    switch: Switch,
    sent_events: bool,
    lamport: Arc<LamportClock>,
    clock: SharedClock,
    /// Node name, and the name under which this worker publishes tasks.
    hostname: String,
    origin: String,
    /// Locked while one event is written, and while the publisher takes what there is.
    buffer: Mutex<Buffer>,
    /// Notified when there is something to publish.
    filled: Notify,
    active: AtomicUsize,
    processed: AtomicU64,
}

/// One task that runs; counted as active while this exists.
#[derive(Debug)]
pub struct Running<'a>(&'a Events);

impl Events {
    /// The events of the worker `hostname`, which publishes tasks under the name `origin`.
    #[must_use]
    pub fn new(settings: EventSettings, hostname: &str, origin: &str, clock: SharedClock) -> Self {
        Self {
            switch: Switch::new(settings.task_events),
            sent_events: settings.sent_events,
            lamport: Arc::default(),
            clock,
            hostname: hostname.to_owned(),
            origin: origin.to_owned(),
            buffer: Mutex::default(),
            filled: Notify::new(),
            active: AtomicUsize::new(0),
            processed: AtomicU64::new(0),
        }
    }

    /// The switch of task events.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The clock that every event and every answer to remote control carries.
    #[must_use]
    pub fn lamport(&self) -> &Arc<LamportClock> {
        &self.lamport
    }

    /// Counts a task that begins to run.
    #[must_use]
    pub fn running(&self) -> Running<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.processed.fetch_add(1, Ordering::Relaxed);
        Running(self)
    }

    /// Tasks that run now.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Tasks started since the worker was.
    #[must_use]
    pub fn processed(&self) -> u64 {
        self.processed.load(Ordering::Relaxed)
    }

    /// `task-received`: the message was accepted, to run now or at its `eta`.
    pub fn received(&self, message: &Envelope) {
        if !self.switch.is_on() {
            return;
        }
        let time = |time: Option<DateTime<Utc>>| time.map(timestamp::isoformat);
        let name = message.text("shadow").filter(|name| !name.is_empty());
        let fields = json!({
            "name": name.unwrap_or_else(|| message.task()),
            "args": message.text("argsrepr").unwrap_or_default(),
            "kwargs": message.text("kwargsrepr").unwrap_or_default(),
            "root_id": message.text("root_id"),
            "parent_id": message.text("parent_id"),
            "retries": message.retries(),
            "eta": time(message.eta().ok().flatten()),
            "expires": time(message.expires().ok().flatten()),
        });
        self.task("task-received", message.id(), fields);
    }

    /// `task-started`: the task begins to run.
    pub fn started(&self, message: &Envelope) {
        self.task("task-started", message.id(), json!({}));
    }

    /// `task-succeeded`, `task-failed` or `task-retried`: how a task ended, and its runtime. A final outcome must be stored
    /// before.
    pub fn ended(&self, message: &Envelope, state: &TaskState, runtime: Duration) {
        if !self.switch.is_on() {
            return;
        }
        let id = message.id();
        match state {
            TaskState::Success(value) => {
                let result = python_repr::value(value);
                let runtime = Seconds::of(runtime);
                self.task("task-succeeded", id, Succeeded { result, runtime });
            }
            TaskState::Retry(exception, traceback) => {
                let fields = json!({"exception": exception.repr(), "traceback": traceback});
                self.task("task-retried", id, fields);
            }
            TaskState::Failure(exception, traceback) => {
                let fields = json!({"exception": exception.repr(), "traceback": traceback});
                self.task("task-failed", id, fields);
            }
            TaskState::Started { .. } | TaskState::Revoked(_) => {}
        }
    }

    /// `task-revoked`: the task will not run, because it `expired` or was revoked, or it was `terminated` with
    /// the signal `signum`.
    pub fn revoked(&self, id: &str, terminated: bool, signum: Option<i32>, expired: bool) {
        let fields = json!({"terminated": terminated, "signum": signum, "expired": expired});
        self.task("task-revoked", id, fields);
    }

    /// `task-rejected`: the message was set aside, or put back with `requeue`.
    pub fn rejected(&self, id: &str, requeue: bool) {
        self.task("task-rejected", id, json!({"requeue": requeue}));
    }

    /// `task-cancelled`: a stop ended the task, whose message was put back.
    pub fn cancelled(&self, id: &str) {
        self.task("task-cancelled", id, json!({}));
    }

    /// `task-sent`, if enabled: this worker has published a task to `queue`.
    pub fn sent(&self, queue: &str, message: &Envelope) {
        if !self.sent_events {
            return;
        }
        let fields = json!({
            "root_id": message.text("root_id"),
            "parent_id": message.text("parent_id"),
            "name": message.task(),
            "args": message.text("argsrepr").unwrap_or_default(),
            "kwargs": message.text("kwargsrepr").unwrap_or_default(),
            "retries": message.retries(),
            "eta": message.text("eta"),
            "expires": message.text("expires"),
            "queue": queue,
            "exchange": "",
            "routing_key": queue,
        });
        let body = self.event("task-sent", &self.origin, Some(message.id()), fields);
        self.buffer().push_single("task-sent", &self.origin, body);
        self.filled.notify_one();
    }

    /// Sends the heartbeat that the command `heartbeat` asks for: without counters, and with its own frequency.
    pub fn heartbeat_on_request(&self) {
        let fields = json!({
            "freq": REQUESTED_SECONDS,
            "sw_ident": SOFTWARE, "sw_ver": VERSION, "sw_sys": "Linux",
        });
        let body = self.event("worker-heartbeat", &self.hostname, None, fields);
        self.buffer()
            .push_single("worker-heartbeat", &self.hostname, body);
        self.filled.notify_one();
    }

    /// A heartbeat with its counters: `worker-online`, `worker-heartbeat` or `worker-offline`.
    fn beat(&self, kind: &'static str, load: [f64; 3]) -> buffer::Chunk {
        let fields = json!({
            "freq": HEARTBEAT_SECONDS,
            "active": self.active(),
            "processed": self.processed(),
            "loadavg": load,
            "sw_ident": SOFTWARE, "sw_ver": VERSION, "sw_sys": "Linux",
        });
        let body = self.event(kind, &self.hostname, None, fields);
        buffer::Chunk::single(kind, &self.hostname, body)
    }

    /// Adds a task event, if they are enabled, to the array that leaves next.
    fn task(&self, kind: &'static str, id: &str, fields: impl Serialize) {
        if !self.switch.is_on() {
            return;
        }
        let mut buffer = self.buffer();
        // Written under the lock, so that the array is in the order of the clock.
        let first = buffer.push_task(&self.event(kind, &self.hostname, Some(id), fields));
        drop(buffer);
        if first {
            self.filled.notify_one();
        }
    }

    /// One event as JSON.
    fn event(&self, kind: &str, hostname: &str, uuid: Option<&str>, fields: impl Serialize) -> String {
        let now = self.clock.now();
        let event = Event {
            hostname,
            utcoffset: event::utcoffset(-now.with_timezone(&Local).offset().local_minus_utc()),
            pid: std::process::id(),
            clock: self.lamport.forward(),
            uuid,
            fields,
            timestamp: Seconds::since_epoch(now),
            kind,
        };
        python_json::to_string(&event).expect("an event is JSON")
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The fields of `task-succeeded`.
#[derive(Serialize)]
struct Succeeded {
    result: String,
    runtime: Seconds,
}

#[cfg(test)]
#[path = "events/tests.rs"]
mod tests;
