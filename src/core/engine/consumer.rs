//! The consumer: claims messages while slots are free and sorts them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::foreign::FRESH;
use super::pool::Slot;
use super::starting::Starter;
use super::{Engine, Job, TaskType};
use crate::transport::{Claim, Claimed, RESTORE_INTERVAL, SCAN_WINDOW, Source};
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
/// The pause that one foreign message in the queue adds between two passes, and the longest in all.
const PASS_COST: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The most messages one claim takes, and the largest part of the slots that it fills: while some messages are
/// fetched, others run, and the results of others again are stored.
const MAX_BATCH: usize = 64;
const MAX_SHARE: usize = 4;

/// Claims messages for one engine until it stops.
pub(super) struct Consumer {
    starter: Starter,
    progress: ScanProgress,
}

/// Where the consumer is in its passes through the lists.
#[derive(Default)]
struct ScanProgress {
    /// The queues are bound and nothing of an earlier connection is left over.
    bound: bool,
    /// When this worker last searched for claims that were never answered.
    late_claims: Option<Instant>,
    /// Where the next search continues.
    late_claims_place: u64,
    /// Elements already read in this pass.
    offset: usize,
    /// Foreign messages among them, and messages left for their `eta`.
    foreign: usize,
    later: usize,
    /// The queues have not changed since the last pass.
    quiet: bool,
}

impl ScanProgress {
    fn restart(&mut self) {
        self.offset = 0;
        self.foreign = 0;
        self.later = 0;
    }
}

/// What follows a claim.
enum Next {
    /// Another one.
    Claim,
    /// A change of the queues. They hold this many foreign messages, and this many left until their `eta`.
    Wait { foreign: usize, later: usize },
}

impl Consumer {
    /// A consumer that sends every message that is due to `jobs`.
    pub(super) fn new(engine: Arc<Engine>, jobs: mpsc::Sender<Job>) -> Self {
        Self {
            starter: Starter { engine, jobs },
            progress: ScanProgress::default(),
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
                Ok(Next::Wait { foreign, later }) => {
                    self.progress.quiet = !self.idle(foreign, later).await;
                }
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
            engine.foreign.note(Vec::new(), true);
            self.publish_foreign().await?;
            return Ok(Next::Wait { foreign: 0, later: 0 });
        }
        let claim = engine
            .transport
            .claim(
                slots.len(),
                self.progress.offset,
                &self.wanted(),
                &engine.left_out.texts(),
                engine.etas.is_full(slots.len()),
            )
            .await?;
        failpoint::pass("claimed");
        let Claim {
            claimed,
            unclear,
            foreign,
            more,
            later,
        } = claim;
        let mut busy = !claimed.is_empty();
        // Start what was claimed before anything below can fail.
        for one in claimed {
            self.sort_into_slot(one, &mut slots).await;
        }
        for (source, raw) in unclear {
            if slots.is_empty() {
                break;
            }
            if let Some(one) = self.look_closer(&source, raw).await? {
                busy = true;
                self.sort_into_slot(one, &mut slots).await;
            }
        }
        self.progress.foreign += foreign.iter().map(|(_, messages)| messages).sum::<usize>();
        self.progress.later += later;
        if busy {
            self.progress.restart();
            return Ok(Next::Claim);
        }
        let others = foreign
            .into_iter()
            .filter(|(task, _)| !engine.types.contains_key(task));
        engine.foreign.note(others.collect(), !more);
        self.publish_foreign().await?;
        if more {
            // The window holds no message of ours: continue behind it. Each step is short for the server.
            self.progress.offset += SCAN_WINDOW;
            return Ok(Next::Claim);
        }
        let (foreign, later) = (self.progress.foreign, self.progress.later);
        self.progress.restart();
        Ok(Next::Wait { foreign, later })
    }

    /// Binds the queues on a new connection, and restores claims whose answer never came.
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

    /// The tasks to claim: all but those with enough messages waiting for their rate limit.
    fn wanted(&self) -> Cow<'_, [String]> {
        let engine = self.engine();
        let concurrency = engine.pool.concurrency();
        let full = |task: &Arc<TaskType>| task.rate().is_full(concurrency);
        if !engine.types.values().any(full) {
            return Cow::Borrowed(&engine.settings.tasks);
        }
        let wanted = engine.types.values().filter(|task| !full(task));
        wanted.map(|task| task.name().to_owned()).collect()
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

    /// Waits for a change and returns whether there was one. Every pass over a backlog of foreign messages costs the
    /// server time, so a longer backlog means a longer pause between two passes.
    async fn idle(&self, foreign: usize, later: usize) -> bool {
        let engine = self.engine();
        let passed_over = u32::try_from(foreign + later).unwrap_or(u32::MAX);
        let pause = PASS_COST.saturating_mul(passed_over).min(LONGEST_PAUSE);
        if !pause.is_zero() {
            sleep_unless_stopping(&engine.stop, pause).await;
        }
        let poll = match engine.transport.connection().is_tracking() {
            false => PLAIN_POLL,
            true if later > 0 => LATER_POLL,
            true => SAFETY_POLL,
        };
        // All three are cancel-safe: a notification that is not consumed stays stored.
        tokio::select! {
            () = engine.transport.changed() => true,
            () = tokio::time::sleep(poll) => false,
            () = engine.stop.warm() => true,
        }
    }

    async fn back_off(&mut self, trouble: &RedisTrouble, waits: &mut Reconnect) {
        self.progress = ScanProgress::default();
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
    async fn look_closer(&self, source: &Source, raw: Vec<u8>) -> Result<Option<Claimed>, RedisTrouble> {
        let engine = self.engine();
        let is_ours = |task: &str| engine.settings.tasks.iter().any(|name| name == task);
        match Envelope::parse(&raw) {
            Ok(message) if is_ours(message.task()) => engine.transport.claim_exact(source, raw).await,
            Ok(message) => {
                engine.left_out.add(&message);
                Ok(None)
            }
            Err(reason @ EnvelopeError::NoId { .. }) if is_ours(reason.task()) => {
                let parked = engine
                    .transport
                    .park_unclaimed(source, &raw, &reason.to_string())
                    .await?;
                if parked {
                    error!(
                        outcome = "parked",
                        queue = source.queue,
                        %reason,
                        "parked a message for which no result can be stored"
                    );
                }
                Ok(None)
            }
            // Perhaps others read it.
            Err(_) => {
                let message = Envelope::of_any_message(&raw).ok();
                match message.as_ref().and_then(Envelope::publisher_tag) {
                    Some(tag) => engine.left_out.add_by("delivery_tag", tag),
                    None => engine.foreign.note(vec![("?".to_owned(), 1)], false),
                }
                Ok(None)
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
