//! The engine: claims messages from the queues, runs them, and settles their outcomes.
//!
//! It does not know how to run a task. Its consumer ([`Engine::consume`]) sends a [`Job`] for every message
//! that is due *now*. The receiver calls [`Engine::execute`] with the task's future, and the engine handles limits,
//! panics, retries, results, the workflow and the acknowledgement.
//!
//! ```text
//!   queue ──claim──▶ unacked ──▶ Job ──▶ execute(future) ──▶ Outcome ──▶ settle: result + successors + ack
//!                       ▲         │ expired, undecodable, not ours, eta in the future        │
//!                       └─────────┴── settled without running, parked, handed back, waits ◀──┘
//! ```
//!
//! A message holds a concurrency slot from before its claim until it is settled, so the engine never claims more than
//! it can run. Messages with an `eta` wait in `unacked` without a slot.

mod consumer;
mod errbacks;
mod etas;
mod execution;
mod foreign;
mod heartbeat;
mod hold_ups;
mod left_out;
mod liveness;
mod outcomes;
mod parked_watch;
mod pool;
mod rate_limits;
mod received;
mod requests;
pub mod retry;
mod revocations;
mod settlement;
mod sorting;
mod starting;
mod task_end;
mod task_run;
mod task_types;
mod workflow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use consumer::Consumer;
use errbacks::ErrbackCaller;
use etas::EtaCount;
use foreign::ForeignWatch;
use heartbeat::{Heartbeat, Pulse};
use hold_ups::HoldUps;
use left_out::LeftOut;
use liveness::Liveness;
use pool::Slot;
use settlement::Settlement;
use task_run::LeftBehind;

pub use errbacks::{ErrbackCall, Errbacks};
pub use execution::{Failure, FailureKind, Limits, TaskPolicy};
pub use outcomes::{OutcomeCounts, Outcomes};
pub use pool::Pool;
pub use rate_limits::{RateError, RateGate, RateLimit};
pub use requests::{Phase, Request, Requests, Ticket};
pub use retry::RetryRequest;
pub use revocations::{Revocation, Revocations, matching};
pub use task_run::{SentResult, TaskInfo, TaskRun};
pub use task_types::TaskType;

use crate::events::{EventSettings, Events, LamportClock, Publisher};
use crate::results::Results;
use crate::transport::{DeliveryTag, Source, Transport};
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::Connection;
use tradebot_base::lifecycle::Stop;
use tradebot_base::random::SharedRandom;
use tradebot_base::said::Said;
use tradebot_wire::body::Body;
use tradebot_wire::envelope::Envelope;

/// How long the return of messages that could not be settled may take.
const RETURN_TIMEOUT: Duration = Duration::from_secs(1);

/// Settings of an engine, under the names Celery users know.
#[derive(Debug, Clone)]
pub struct EngineSettings {
    /// Node name, `celery@host`.
    pub hostname: String,
    /// Name of the machine, for `origin`.
    pub machine: String,
    /// Names of the tasks that this worker runs.
    pub tasks: Vec<String>,
    /// The policies they were registered with, for `inspect`.
    pub policies: BTreeMap<String, TaskPolicy>,
    /// Where signatures without a queue are published.
    pub default_queue: String,
    /// Tasks run at a time.
    pub concurrency: usize,
    /// Limits for tasks and messages that set none.
    pub limits: Limits,
    /// Celery's `worker_eta_task_limit`: messages held until their `eta`.
    pub eta_task_limit: usize,
    /// kombu's `visibility_timeout`: the age at which any worker's delivery is restored.
    pub visibility_timeout: Duration,
    /// Which events are sent.
    pub events: EventSettings,
}

/// A message that is due to run.
#[derive(Debug)]
pub struct Job {
    /// The delivery to settle.
    pub tag: DeliveryTag,
    /// Where the message came from.
    pub source: Source,
    /// The message.
    pub message: Arc<Envelope>,
    /// Its body.
    pub body: Arc<Body>,
    left: Arc<LeftBehind>,
    ticket: Ticket,
    slot: Slot,
    /// Its start was marked, because it waited before.
    marked: bool,
    /// Keeps [`Engine::drained`] waiting while the job exists.
    #[expect(dead_code, reason = "held for its drop")]
    unfinished: TaskTrackerToken,
}

/// The worker: what its parts share.
pub struct Engine {
    settings: EngineSettings,
    transport: Arc<Transport>,
    settlement: Settlement,
    clock: SharedClock,
    random: SharedRandom,
    stop: Stop,
    pool: Pool,
    /// Everything that [`Engine::drained`] waits for.
    tracker: TaskTracker,
    types: BTreeMap<String, Arc<TaskType>>,
    requests: Arc<Requests>,
    revocations: Revocations,
    etas: EtaCount,
    left_out: LeftOut,
    foreign: ForeignWatch,
    liveness: Liveness,
    events: Arc<Events>,
}

impl Engine {
    /// An engine that consumes from `transport` and stores into `results`.
    #[must_use]
    pub fn new(
        settings: EngineSettings,
        transport: Transport,
        results: Results,
        (clock, random): (SharedClock, SharedRandom),
        stop: Stop,
    ) -> Arc<Self> {
        let origin = tradebot_wire::task_message::origin(&settings.machine);
        let events = Events::new(settings.events, &settings.hostname, &origin, Arc::clone(&clock));
        let events = Arc::new(events);
        let transport = Arc::new(transport);
        let settlement = Settlement {
            one_database: transport.connection().same_database(results.connection()),
            transport: Arc::clone(&transport),
            results,
            events: Arc::clone(&events),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
            stop: stop.clone(),
            hold_ups: HoldUps::default(),
            forbidden: Said::nothing(),
            hostname: settings.hostname.clone(),
            origin,
            default_queue: settings.default_queue.clone(),
            concurrency: settings.concurrency,
            errbacks: ErrbackCaller::new(),
        };
        Arc::new(Self {
            pool: Pool::new(settings.concurrency),
            etas: EtaCount::new(settings.eta_task_limit),
            types: task_types::by_name(&settings.tasks, &settings.policies),
            requests: Arc::default(),
            revocations: Revocations::default(),
            left_out: LeftOut::default(),
            foreign: ForeignWatch::default(),
            liveness: Liveness::new(),
            tracker: TaskTracker::new(),
            settings,
            transport,
            settlement,
            clock,
            random,
            stop,
            events,
        })
    }

    /// Claims messages until the worker stops, and sends each message that is due to `jobs`.
    pub async fn consume(self: Arc<Self>, jobs: mpsc::Sender<Job>) {
        Consumer::new(self, jobs).run().await;
    }

    /// The concurrency slots.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &EngineSettings {
        &self.settings
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The events that this worker sends.
    #[must_use]
    pub fn events(&self) -> &Arc<Events> {
        &self.events
    }

    /// The logical clock that this worker's events and answers carry.
    #[must_use]
    pub fn lamport(&self) -> &Arc<LamportClock> {
        self.events.lamport()
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &SharedClock {
        &self.clock
    }

    /// The random source.
    #[must_use]
    pub fn random(&self) -> &SharedRandom {
        &self.random
    }

    /// The stop tokens the engine obeys.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// The requests that this worker holds.
    #[must_use]
    pub fn requests(&self) -> &Arc<Requests> {
        &self.requests
    }

    /// How often each task was started; tasks that never were are left out.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<String, u64> {
        requests::totals(&self.types)
    }

    /// A task of this worker by its name.
    #[must_use]
    pub fn task_type(&self, name: &str) -> Option<&Arc<TaskType>> {
        self.types.get(name)
    }

    /// All tasks of this worker, by name.
    pub fn task_types(&self) -> impl Iterator<Item = &Arc<TaskType>> {
        self.types.values()
    }

    /// The revoked tasks.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Messages held until their `eta`.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.etas.count()
    }

    /// How long ago the broker last answered the consumer; `None` while it has not yet. An idle consumer checks every few
    /// seconds. One whose slots are all taken does not ask: see [`Pool::is_busy`].
    #[must_use]
    pub fn last_round(&self) -> Option<Duration> {
        self.liveness.since_answer()
    }

    /// Waits until everything claimed is settled or handed back. Call it once the worker is stopping and the consumer
    /// has ended. After a cold stop it waits for `patience` at most.
    pub async fn drained(&self, patience: Duration) -> bool {
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => true,
            () = async {
                self.stop.cold().await;
                tokio::time::sleep(patience).await;
            } => false,
        }
    }

    /// Keeps this worker's lease and sends its events over `connection`, until [`Engine::end_lease`].
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn keep_lease(&self, connection: Connection) -> std::io::Result<()> {
        let keys = self.transport.keys();
        let publisher = Publisher::new(
            Arc::clone(&self.events),
            connection.clone(),
            keys,
            self.random.fork(),
        );
        let heartbeat = Heartbeat::start(
            publisher,
            self.stop.clone(),
            Pulse::new(
                self.transport.sibling(connection),
                self.settings.hostname.clone(),
                self.settings.visibility_timeout,
                self.random.fork(),
            ),
        )?;
        self.liveness.keep(heartbeat);
        Ok(())
    }

    /// Ends when the heartbeat does. The process must then end too: without a heartbeat, other workers consider this one
    /// dead and run its messages again.
    pub async fn heartbeat_ended(&self) {
        self.liveness.heartbeat_ended().await;
    }

    /// Releases the lease; `drained` if this worker works on no message any more. Those that it could not settle go back to
    /// their queues first.
    pub async fn end_lease(&self, drained: bool) {
        let returned = Box::pin(async { self.transport.return_unsettled().await.is_ok() });
        // What is not returned in time is restored by other workers.
        let drained = drained && tokio::time::timeout(RETURN_TIMEOUT, returned).await == Ok(true);
        self.liveness.end(drained).await;
    }

    /// Runs `work` so that [`drained`](Self::drained) waits for it.
    fn track(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(work);
    }
}
