//! The events that a worker sends to its watchers (`celery events`, Flower, the gossip of other workers).
//!
//! Worker events (online, heartbeat, offline) are always sent, task events while the [`Switch`] is on. Each event is
//! written as JSON into a bounded buffer at once; a publisher sends many in one `PUBLISH`. So no task waits for an event,
//! and while the broker is unreachable, events beyond the bound are dropped.
//!
//! Fields, their order and the channels are Celery's (`celery.events.dispatcher`, `celery.worker.request`).
//! As in Celery, an outcome is stored before its event is sent, so receivers of the event find the result.

mod buffer;
mod lamport;
mod line;
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
use serde_json::Value;
use tokio::sync::Notify;

use self::buffer::Buffer;
use self::line::Line;
use tradebot_base::clock::SharedClock;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::{Exception, TaskState};
use tradebot_wire::{python_repr, timestamp};

/// Seconds between two heartbeats, which is Celery's default. Receivers take a worker for lost after twice that.
const HEARTBEAT_SECONDS: f64 = 2.0;
/// The `freq` of a heartbeat requested by remote control.
const REQUESTED_SECONDS: f64 = 5.0;

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
        self.task("task-received", message.id(), |line| {
            line.text("name", name.unwrap_or_else(|| message.task()));
            arguments(line, message);
            for field in ["root_id", "parent_id"] {
                line.optional(field, message.text(field));
            }
            line.number("retries", message.retries());
            for (field, value) in [("eta", message.eta()), ("expires", message.expires())] {
                line.optional(field, time(value.ok().flatten()).as_deref());
            }
        });
    }

    /// `task-started`: the task begins to run.
    pub fn started(&self, message: &Envelope) {
        if self.switch.is_on() {
            self.task("task-started", message.id(), |_| {});
        }
    }

    /// `task-succeeded`, `task-failed` or `task-retried`: how a task ended, and its runtime. A final outcome must be stored
    /// before.
    pub fn ended(&self, message: &Envelope, state: &TaskState, runtime: Duration) {
        if !self.switch.is_on() {
            return;
        }
        let id = message.id();
        let raised = |line: &mut Line<'_>, exception: &Exception, traceback: Option<&str>| {
            line.text("exception", &exception.repr());
            line.optional("traceback", traceback);
        };
        match state {
            TaskState::Success(value) => {
                let result = python_repr::value(value);
                self.task("task-succeeded", id, |line| {
                    line.text("result", &result);
                    line.seconds("runtime", runtime);
                });
            }
            TaskState::Retry(exception, traceback) => self.task("task-retried", id, |line| {
                raised(line, exception, Some(traceback));
            }),
            TaskState::Failure(exception, traceback) => self.task("task-failed", id, |line| {
                raised(line, exception, traceback.as_deref());
            }),
            TaskState::Started { .. } | TaskState::Revoked(_) | TaskState::Custom { .. } => {}
        }
    }

    /// `task-revoked`: the task will not run, because it `expired` or was revoked, or it was `terminated` with
    /// the signal `signum`.
    pub fn revoked(&self, id: &str, terminated: bool, signum: Option<i32>, expired: bool) {
        if self.switch.is_on() {
            self.task("task-revoked", id, |line| {
                line.flag("terminated", terminated);
                line.optional_number("signum", signum);
                line.flag("expired", expired);
            });
        }
    }

    /// `task-rejected`: the message was set aside, or put back with `requeue`.
    pub fn rejected(&self, id: &str, requeue: bool) {
        if self.switch.is_on() {
            self.task("task-rejected", id, |line| line.flag("requeue", requeue));
        }
    }

    /// `task-cancelled`: a stop ended the task, whose message was put back.
    pub fn cancelled(&self, id: &str) {
        if self.switch.is_on() {
            self.task("task-cancelled", id, |_| {});
        }
    }

    /// `task-sent`, if that is wanted: this worker has published a task to `queue`.
    pub fn sent(&self, queue: &str, message: &Envelope) {
        if !self.sent_events {
            return;
        }
        let (timestamp, clock) = (self.micros(), self.lamport.forward());
        let mut body = Vec::with_capacity(512);
        let mut line = Line::begin(&mut body, &self.common(&self.origin), clock);
        line.text("uuid", message.id());
        for field in ["root_id", "parent_id"] {
            line.optional(field, message.text(field));
        }
        line.text("name", message.task());
        arguments(&mut line, message);
        line.number("retries", message.retries());
        for field in ["eta", "expires"] {
            line.optional(field, message.text(field));
        }
        line.text("queue", queue);
        line.text("exchange", "");
        line.text("routing_key", queue);
        line.end(timestamp, "task-sent");
        self.buffer().push_single("task-sent", &self.origin, body);
        self.filled.notify_one();
    }

    /// The heartbeat that the command `heartbeat` asks for: without counters, at another frequency.
    pub fn heartbeat_on_request(&self) {
        let body = self.worker_line("worker-heartbeat", |line| {
            line.float("freq", REQUESTED_SECONDS);
            software(line);
        });
        self.buffer()
            .push_single("worker-heartbeat", &self.hostname, body);
        self.filled.notify_one();
    }

    /// A heartbeat with its counters: `worker-online`, `worker-heartbeat` or `worker-offline`.
    fn beat(&self, kind: &'static str, load: [f64; 3]) -> buffer::Chunk {
        let body = self.worker_line(kind, |line| {
            line.float("freq", HEARTBEAT_SECONDS);
            line.number("active", self.active());
            line.number("processed", self.processed());
            line.json("loadavg", &load.map(Value::from).to_vec().into());
            software(line);
        });
        buffer::Chunk::single(kind, &self.hostname, body)
    }

    fn worker_line(&self, kind: &str, write: impl FnOnce(&mut Line<'_>)) -> Vec<u8> {
        let (timestamp, clock) = (self.micros(), self.lamport.forward());
        let mut body = Vec::with_capacity(512);
        let mut line = Line::begin(&mut body, &self.common(&self.hostname), clock);
        write(&mut line);
        line.end(timestamp, kind);
        body
    }

    /// Writes one task event into the array that is being filled.
    fn task(&self, kind: &'static str, id: &str, write: impl FnOnce(&mut Line<'_>)) {
        let timestamp = self.micros();
        let mut buffer = self.buffer();
        if !buffer.has_common() {
            buffer.set_common(self.common(&self.hostname));
        }
        let first = buffer.push_task(|body, common| {
            // Within the lock, so that the array is in the order of the clock.
            let mut line = Line::begin(body, common, self.lamport.forward());
            line.text("uuid", id);
            write(&mut line);
            line.end(timestamp, kind);
        });
        drop(buffer);
        if first {
            self.filled.notify_one();
        }
    }

    /// Renews what depends on the time of year.
    fn renew_common(&self) {
        let common = self.common(&self.hostname);
        self.buffer().set_common(common);
    }

    fn common(&self, hostname: &str) -> Vec<u8> {
        let east = self.clock.now().with_timezone(&Local).offset().local_minus_utc();
        line::common(hostname, -east, std::process::id())
    }

    fn micros(&self) -> i64 {
        self.clock.now().timestamp_micros()
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        // A panic within the lock leaves at worst a cut event behind, which costs its array, not the process.
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The arguments as their sender shows them. That text may be one that only Python holds.
fn arguments(line: &mut Line<'_>, message: &Envelope) {
    for (field, header) in [("args", "argsrepr"), ("kwargs", "kwargsrepr")] {
        match message.text(header) {
            Some(text) => line.text(field, text),
            None => line.json(field, &message.header(header).unwrap_or_else(|| "".into())),
        }
    }
}

fn software(line: &mut Line<'_>) {
    line.text("sw_ident", "tradebot-symbols");
    line.text("sw_ver", env!("CARGO_PKG_VERSION"));
    line.text("sw_sys", "Linux");
}

#[cfg(test)]
#[path = "events/tests.rs"]
mod tests;
