//! The consumer: claims messages while slots are free and sorts them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::foreign::FRESH;
use super::left_out::LookedAt;
use super::pool::Slot;
use super::starting::Starter;
use super::{Engine, Job, TaskType};
use crate::transport::{Claim, Claimed, Passes, RESTORE_INTERVAL, Source, Wish};
use tradebot_base::backoff::Reconnect;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::failpoint;
use tradebot_base::lifecycle::sleep_unless_stopping;
use tradebot_wire::envelope::{Envelope, EnvelopeError};

/// How long the consumer trusts the change notification alone. A lost notification costs this much.
const SAFETY_POLL: Duration = Duration::from_secs(5);
/// The same for a server that cannot notify (before Redis 6).
const PLAIN_POLL: Duration = Duration::from_millis(500);
/// The same while messages are left in the queue that fall due there.
const LATER_POLL: Duration = Duration::from_secs(1);
/// The most messages one claim takes, and the largest part of the slots that it fills: while some messages are
/// fetched, others run, and the results of others again are stored.
const MAX_BATCH: usize = 64;
const MAX_SHARE: usize = 4;

/// Claims messages for one engine until it stops.
pub(super) struct Consumer {
    starter: Starter,
    progress: Progress,
    looked_at: LookedAt,
}

/// Where the consumer is on its connection.
#[derive(Default)]
struct Progress {
    /// The queues are bound and nothing of an earlier connection is left over.
    bound: bool,
    /// When this worker last searched for claims that were never answered.
    late_claims: Option<Instant>,
    /// Where the next search continues.
    late_claims_place: u64,
    /// What it has seen of the lists.
    passes: Passes,
    /// The queues have not changed since the last look.
    quiet: bool,
}

/// What follows a claim.
enum Next {
    /// Another one.
    Claim,
    /// A change of the queues.
    Wait,
}

/// What became of a message that the server could not assign.
enum Closer {
    Ours(Claimed),
    /// It stays in its list, and counts as one of this task.
    Foreign(String),
    Gone,
}

impl Consumer {
    /// A consumer that sends every message that is due to `jobs`.
    pub(super) fn new(engine: Arc<Engine>, jobs: mpsc::Sender<Job>) -> Self {
        Self {
            starter: Starter { engine, jobs },
            progress: Progress::default(),
            looked_at: LookedAt::default(),
        }
    }

    /// Claims until the worker stops.
    pub(super) async fn run(mut self) {
        let mut waits = Reconnect::new(self.engine().random.fork());
        while let Some(slots) = self.free_slots().await {
            let round = self.round(slots).await;
            if round.is_ok() {
                waits.reset();
                self.engine().liveness.note_answer();
            }
            match round {
                Ok(Next::Claim) => {}
                Ok(Next::Wait) => self.progress.quiet = !self.idle().await,
                Err(trouble) if trouble.needs_an_operator() && self.leave_refused_queues().await => {}
                Err(trouble) => self.back_off(&trouble, &mut waits).await,
            }
        }
        info!(queues = %self.engine().transport.queue_names().join(","), "consumer stopped");
    }

    fn engine(&self) -> &Engine {
        &self.starter.engine
    }

    /// One claim with the slots at hand.
    async fn round(&mut self, mut slots: Vec<Slot>) -> Result<Next, RedisTrouble> {
        let engine = Arc::clone(&self.starter.engine);
        self.prepare().await?;
        if self.progress.quiet && !engine.transport.has_messages().await? {
            self.progress.passes = Passes::default();
            engine.foreign.forget();
            self.publish_foreign().await?;
            return Ok(Next::Wait);
        }
        let (tasks, not_now) = self.wanted();
        let wish = Wish {
            messages: slots.len(),
            tasks: &tasks,
            not_now: &not_now,
            left_out: &engine.left_out.all(),
            leave_etas: engine.etas.is_full(slots.len()),
        };
        let started = Instant::now();
        let claim = engine.transport.claim(&wish, &self.progress.passes).await?;
        failpoint::pass("claimed");
        let Claim {
            claimed,
            unclear,
            looks,
        } = claim;
        let cost = started.elapsed();
        let mut busy = !claimed.is_empty();
        // Start what was claimed before anything below can fail.
        for one in claimed {
            self.sort_into_slot(one, &mut slots).await;
        }
        let mut counted = Vec::new();
        for one in unclear {
            if let Some(task) = self.looked_at.task(&one.raw) {
                counted.push((one.source.list, one.region, task.to_owned()));
                continue;
            }
            if slots.is_empty() {
                // The rest is reported again, because nothing of this claim is adopted.
                return Ok(Next::Claim);
            }
            match self.look_closer(&one.source, &one.raw).await? {
                Closer::Ours(claimed) => {
                    busy = true;
                    self.sort_into_slot(claimed, &mut slots).await;
                }
                Closer::Foreign(task) => {
                    self.looked_at.add(&one.raw, &task);
                    counted.push((one.source.list, one.region, task));
                }
                Closer::Gone => {}
            }
        }
        let progress = &mut self.progress;
        progress.passes.adopt(&looks, cost);
        engine.foreign.note(looks, counted);
        if busy || self.progress.passes.go_on() {
            return Ok(Next::Claim);
        }
        self.publish_foreign().await?;
        Ok(Next::Wait)
    }

    /// Goes on without the queues that the server refuses, if others are left.
    async fn leave_refused_queues(&self) -> bool {
        // On the heap: it is rare, and every round's future would be larger.
        Box::pin(self.engine().transport.leave_refused_queues()).await
    }

    /// Binds the queues on a new connection, restores claims whose answer never came, and tries refused queues again.
    async fn prepare(&mut self) -> Result<(), RedisTrouble> {
        let progress = &mut self.progress;
        if !progress.bound {
            begin(&self.starter.engine).await?;
            progress.bound = true;
        }
        if progress
            .late_claims
            .is_none_or(|last| last.elapsed() >= RESTORE_INTERVAL)
        {
            let transport = &self.starter.engine.transport;
            transport
                .restore_late_claims(&mut progress.late_claims_place)
                .await?;
            transport.try_refused_queues().await?;
            progress.late_claims = Some(Instant::now());
        }
        Ok(())
    }

    /// Publishes the number of waiting foreign messages per task, for `doctor` and metrics.
    async fn publish_foreign(&self) -> Result<(), RedisTrouble> {
        match self.engine().foreign.news() {
            Some(waiting) => self.engine().transport.publish_waiting(&waiting, 2 * FRESH).await,
            None => Ok(()),
        }
    }

    /// The tasks to claim, and those to leave for now because enough messages wait for their rate limit.
    fn wanted(&self) -> (Cow<'_, [String]>, Vec<String>) {
        let engine = self.engine();
        let concurrency = engine.pool.concurrency();
        let full = |task: &Arc<TaskType>| task.rate().is_full(concurrency);
        if !engine.types.values().any(full) {
            return (Cow::Borrowed(&engine.settings.tasks), Vec::new());
        }
        let names = |full_ones: bool| {
            let types = engine.types.values().filter(move |task| full(task) == full_ones);
            types.map(|task| task.name().to_owned()).collect::<Vec<_>>()
        };
        (Cow::Owned(names(false)), names(true))
    }

    async fn sort_into_slot(&self, claimed: Claimed, slots: &mut Vec<Slot>) {
        let slot = slots.pop().expect("no more is claimed than there are slots");
        self.starter.sort(claimed, slot).await;
    }

    /// Waits for at least one free slot and takes up to a batch of them; `None` once stopping.
    async fn free_slots(&self) -> Option<Vec<Slot>> {
        let engine = self.engine();
        let first = tokio::select! {
            biased;
            () = engine.stop.warm() => return None,
            slot = engine.pool.slot() => slot?,
        };
        let mut slots = vec![first];
        let enough = engine.pool.concurrency().div_ceil(MAX_SHARE).min(MAX_BATCH);
        while slots.len() < enough {
            match engine.pool.slot_now() {
                Some(slot) => slots.push(slot),
                None => break,
            }
        }
        Some(slots)
    }

    /// Waits for a change and returns whether there was one, after a pause if the queues hold messages of others.
    async fn idle(&mut self) -> bool {
        let pause = self.progress.passes.pause();
        let engine = self.engine();
        if !pause.is_zero() {
            sleep_unless_stopping(&engine.stop, pause).await;
        }
        let mut poll = match engine.transport.connection().is_tracking() {
            false => PLAIN_POLL,
            true if self.progress.passes.ours_wait() => LATER_POLL,
            true => SAFETY_POLL,
        };
        if let Some(due) = self.progress.passes.next_window() {
            poll = poll.min(due.saturating_duration_since(Instant::now()));
        }
        // All three are cancel-safe: a notification that is not consumed stays stored.
        tokio::select! {
            () = engine.transport.changed() => true,
            () = tokio::time::sleep(poll) => false,
            () = engine.stop.warm() => true,
        }
    }

    async fn back_off(&mut self, trouble: &RedisTrouble, waits: &mut Reconnect) {
        self.progress = Progress::default();
        let delay = waits.next_delay();
        if waits.attempt() == 1 && trouble.needs_an_operator() {
            error!(error = %error_chain(trouble), "the broker refuses, this worker claims nothing until that is mended");
        } else if waits.attempt() == 1 {
            warn!(error = %error_chain(trouble), "broker in trouble, trying again until it is back");
        } else {
            debug!(error = %error_chain(trouble), attempt = waits.attempt(), "broker still in trouble");
        }
        sleep_unless_stopping(&self.engine().stop, delay).await;
    }

    /// Reads a message that the server could not assign, and claims it if it is ours after all. What is not proven to be
    /// ours stays as it is, whether it can be read here or not.
    async fn look_closer(&self, source: &Source, raw: &[u8]) -> Result<Closer, RedisTrouble> {
        let engine = self.engine();
        let is_ours = |task: &str| engine.settings.tasks.iter().any(|name| name == task);
        match Envelope::parse(raw) {
            Ok(message) if is_ours(message.task()) => {
                let claimed = engine.transport.claim_exact(source, raw.to_owned()).await?;
                Ok(claimed.map_or(Closer::Gone, Closer::Ours))
            }
            Ok(message) => Ok(Closer::Foreign(message.task().to_owned())),
            Err(reason @ EnvelopeError::NoId { .. }) if is_ours(reason.task()) => {
                let parked = engine
                    .transport
                    .park_unclaimed(source, raw, &reason.to_string())
                    .await?;
                if parked {
                    error!(
                        outcome = "parked",
                        queue = source.queue,
                        %reason,
                        "parked a message for which no result can be stored"
                    );
                }
                Ok(Closer::Gone)
            }
            // Perhaps others read it.
            Err(reason) => {
                let task = Some(reason.task()).filter(|task| !task.is_empty());
                Ok(Closer::Foreign(task.unwrap_or("?").to_owned()))
            }
        }
    }
}

/// Takes the lease, binds the queues and restores lost claims, before the first claim on a connection.
async fn begin(engine: &Engine) -> Result<(), RedisTrouble> {
    // Other workers must know of this one even if it dies before its first heartbeat.
    engine.transport.take_lease(&engine.settings.hostname).await?;
    engine.transport.bind_queues().await?;
    engine.transport.restore_unanswered().await?;
    info!(
        broker = engine.transport.connection().place(),
        queues = %engine.transport.queue_names().join(","),
        concurrency = engine.settings.concurrency,
        "connected"
    );
    Ok(())
}
