//! The consumer: claims messages while slots are free and sorts them.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tracing::{debug, error, info, warn};

use super::foreign::FRESH;
use super::{Engine, Job, Slot, TaskType};
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

/// Where the consumer is in its passes through the lists.
#[derive(Default)]
struct Consuming {
    /// The queues are bound and nothing of an earlier connection is left over.
    bound: bool,
    /// When claims were last looked for whose answer never came.
    late_claims: Option<Instant>,
    /// Where the next search for them goes on.
    late_claims_place: u64,
    /// Elements already looked at in this pass.
    offset: usize,
    /// Foreign messages among them, and messages left for their `eta`.
    foreign: usize,
    later: usize,
    /// No change of the queues was notified since they were last looked at.
    quiet: bool,
}

impl Consuming {
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
    /// A change of the queues; so many foreign messages are in them, and so many that are left for their `eta`.
    Wait { foreign: usize, later: usize },
}

impl Engine {
    /// Consumes until a stop is asked for, sending every message that is due to `jobs`.
    pub async fn consume(self: Arc<Self>, jobs: mpsc::Sender<Job>) {
        let mut waits = Reconnect::default();
        let mut state = Consuming::default();
        while let Some(slots) = self.free_slots().await {
            let round = self.round(slots, &jobs, &mut state).await;
            if round.is_ok() {
                self.note_round();
            }
            match round {
                Ok(Next::Claim) => waits.reset(),
                Ok(Next::Wait { foreign, later }) => {
                    waits.reset();
                    state.quiet = !self.idle(foreign, later).await;
                }
                Err(trouble) => self.back_off(&trouble, &mut waits, &mut state).await,
            }
        }
        info!(queues = %self.transport.queue_names().join(","), "consumer stopped");
    }

    /// One claim with the slots at hand.
    async fn round(
        self: &Arc<Self>,
        mut slots: Vec<OwnedSemaphorePermit>,
        jobs: &mpsc::Sender<Job>,
        state: &mut Consuming,
    ) -> Result<Next, RedisTrouble> {
        if !state.bound {
            self.begin().await?;
            state.bound = true;
        }
        if state
            .late_claims
            .is_none_or(|last| last.elapsed() >= RESTORE_INTERVAL)
        {
            self.transport
                .restore_late_claims(&mut state.late_claims_place)
                .await?;
            state.late_claims = Some(Instant::now());
        }
        if state.quiet && !self.transport.has_messages().await? {
            self.foreign.note(Vec::new(), true);
            self.publish_foreign().await?;
            return Ok(Next::Wait { foreign: 0, later: 0 });
        }
        let claim = self
            .transport
            .claim(
                slots.len(),
                state.offset,
                &self.wanted(),
                &self.left_out(),
                self.holds_enough(slots.len()),
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
        // First of all, what was claimed is sent on its way: whatever fails below must not drop it.
        for one in claimed {
            self.sort_into_slot(one, &mut slots, jobs).await;
        }
        for (source, raw) in unclear {
            if slots.is_empty() {
                break;
            }
            if let Some(one) = self.look_closer(&source, raw).await? {
                busy = true;
                self.sort_into_slot(one, &mut slots, jobs).await;
            }
        }
        state.foreign += foreign.iter().map(|(_, messages)| messages).sum::<usize>();
        state.later += later;
        if !busy {
            let others = foreign
                .into_iter()
                .filter(|(task, _)| !self.types.contains_key(task));
            self.foreign.note(others.collect(), !more);
            self.publish_foreign().await?;
        }
        if busy {
            state.restart();
            return Ok(Next::Claim);
        }
        if more {
            // Nothing of ours within the window: look behind it. Each step is short for the server.
            state.offset += SCAN_WINDOW;
            return Ok(Next::Claim);
        }
        let (foreign, later) = (state.foreign, state.later);
        state.restart();
        Ok(Next::Wait { foreign, later })
    }

    /// Tells how many messages of which other tasks wait, for whoever watches the deployment.
    async fn publish_foreign(&self) -> Result<(), RedisTrouble> {
        match self.foreign.news() {
            Some(waiting) => self.transport.publish_waiting(&waiting, 2 * FRESH).await,
            None => Ok(()),
        }
    }

    /// Tasks whose messages are taken: all but those of which enough wait for their rate limit.
    fn wanted(&self) -> Cow<'_, [String]> {
        let concurrency = self.concurrency();
        let full = |task: &Arc<TaskType>| task.rate().is_full(concurrency);
        if !self.types.values().any(full) {
            return Cow::Borrowed(&self.settings.tasks);
        }
        let wanted = self.types.values().filter(|task| !full(task));
        wanted.map(|task| task.name().to_owned()).collect()
    }

    async fn sort_into_slot(
        self: &Arc<Self>,
        claimed: Claimed,
        slots: &mut Vec<OwnedSemaphorePermit>,
        jobs: &mpsc::Sender<Job>,
    ) {
        let slot = slots.pop().expect("no more is claimed than there are slots");
        self.sort(claimed, Slot(slot), jobs).await;
    }

    /// What precedes the first claim on a connection.
    async fn begin(&self) -> Result<(), RedisTrouble> {
        // A worker that dies before its first heartbeat must be known too. The dead are the heartbeat's matter.
        self.transport.take_lease(&self.settings.hostname).await?;
        self.transport.bind_queues().await?;
        self.transport.restore_unanswered().await?;
        info!(
            broker = self.transport.connection().place(),
            queues = %self.transport.queue_names().join(","),
            concurrency = self.settings.concurrency,
            "connected"
        );
        Ok(())
    }

    /// Waits for at least one free slot and takes up to a batch of them; `None` once stopping.
    async fn free_slots(&self) -> Option<Vec<OwnedSemaphorePermit>> {
        let first = tokio::select! {
            biased;
            () = self.stop.warm() => return None,
            slot = self.slot() => slot?,
        };
        let mut slots = vec![first];
        let enough = self.concurrency().div_ceil(MAX_SHARE).min(MAX_BATCH);
        while slots.len() < enough {
            match self.slot_now() {
                Some(slot) => slots.push(slot),
                None => break,
            }
        }
        Some(slots)
    }

    /// Waits for a change. A backlog of messages that are not taken makes every pass cost the server something, so
    /// the longer it is, the longer the pause between two passes.
    ///
    /// Returns whether there was one; if not, one command tells whether a claim is worth while.
    async fn idle(&self, foreign: usize, later: usize) -> bool {
        let passed_over = u32::try_from(foreign + later).unwrap_or(u32::MAX);
        let pause = PASS_COST.saturating_mul(passed_over).min(LONGEST_PAUSE);
        if !pause.is_zero() {
            sleep_unless_stopping(&self.stop, pause).await;
        }
        let poll = match self.transport.connection().is_tracking() {
            false => PLAIN_POLL,
            true if later > 0 => LATER_POLL,
            true => SAFETY_POLL,
        };
        // All three are cancel-safe: a notification that is not consumed stays stored.
        tokio::select! {
            () = self.transport.changed() => true,
            () = tokio::time::sleep(poll) => false,
            () = self.stop.warm() => true,
        }
    }

    async fn back_off(&self, trouble: &RedisTrouble, waits: &mut Reconnect, state: &mut Consuming) {
        *state = Consuming::default();
        let delay = waits.next_delay();
        if waits.attempt() == 1 {
            warn!(error = %error_chain(trouble), "broker in trouble, trying again until it is back");
        } else {
            debug!(error = %error_chain(trouble), attempt = waits.attempt(), "broker still in trouble");
        }
        sleep_unless_stopping(&self.stop, delay).await;
    }

    /// Reads a message that the server could not assign, and claims it if it is ours after all.
    async fn look_closer(&self, source: &Source, raw: Vec<u8>) -> Result<Option<Claimed>, RedisTrouble> {
        match Envelope::parse(&raw) {
            Ok(message) if self.settings.tasks.iter().any(|name| name == message.task()) => {
                self.transport.claim_exact(source, raw).await
            }
            Ok(message) => {
                self.leave_out(&message);
                Ok(None)
            }
            // Readable for workers that accept more than this one does.
            Err(EnvelopeError::Foreign { publisher_tag, .. }) => {
                self.leave_out_by("delivery_tag", &publisher_tag);
                Ok(None)
            }
            Err(reason) => {
                let parked = self
                    .transport
                    .park_unclaimed(source, &raw, &reason.to_string())
                    .await?;
                if parked {
                    error!(
                        outcome = "parked",
                        queue = source.queue,
                        %reason,
                        "parked a message that nobody can read"
                    );
                }
                Ok(None)
            }
        }
    }
}
