//! The loop: wait for the next due entries, take their slots, wait again.
//!
//! Every beat runs it. The one that holds the lease takes slots as they become due; the others come
//! [a moment later](Ticker::stagger), read the records, and take what was left: a beat that was killed, stopped or cut
//! off costs its slots that moment. While the broker is away due entries stay due; what is sent once it is back is each
//! entry's catch-up policy.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};
use tradebot_symbols::core::backoff::Reconnect;
use tradebot_symbols::core::error_chain;
use tradebot_symbols::core::lifecycle::{Stop, sleep_unless_stopping};
use tradebot_symbols::core::transport::RedisTrouble;

use crate::due::{Act, Decision, Guard, Record, State, decide};
use crate::entry::Entry;
use crate::metrics::Metrics;
use crate::slots::Micros;
use crate::store::{Answer, BATCH, Claim, Store};
use crate::timing::BeatClock;

/// How long the lease outlives its last renewal, by the server's clock.
const LEASE: Duration = Duration::from_secs(5);
/// How often it is renewed, and the clock looked at.
const KEEP: Duration = Duration::from_millis(1500);
/// How often the heartbeat is written, and how many seconds it is kept.
const HEARTBEAT: Duration = Duration::from_secs(5);
const HEARTBEAT_SECONDS: u64 = 15;
/// The longest sleep: a clock that was set is noticed after it.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// How long a follower leaves a due slot to the beat that sends, in microseconds; drawn anew by each beat.
const STAGGER: std::ops::Range<Micros> = 300_000..600_000;
/// Entries that are worked off at a time.
const ROUND: usize = 2000;
/// When an entry is tried again whose queue takes no message.
const REFUSED: Micros = 1_000_000;

/// Who this beat is.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// A name that no other beat has.
    pub(crate) id: String,
    pub(crate) machine: String,
    /// What messages name as their publisher.
    pub(crate) origin: String,
    /// Nothing is written: what would be sent is only said.
    pub(crate) dry_run: bool,
}

/// A running schedule.
pub(crate) struct Ticker {
    entries: Vec<Entry>,
    states: Vec<State>,
    /// When each entry is to be looked at, the earliest first.
    queue: BinaryHeap<Reverse<(Micros, usize)>>,
    store: Store,
    clock: BeatClock,
    instance: Instance,
    metrics: Metrics,
    started_at: Micros,
    leader: bool,
    stagger: Micros,
    kept: Option<Instant>,
    beaten: Option<Instant>,
    /// The clock was set, and what that means is not worked off yet.
    jumped: bool,
    /// The clock of the beat that sends is known, or this is that beat.
    clock_known: bool,
    last_slot: Option<Micros>,
    /// Every entry is to be put on the queue anew.
    reschedule: bool,
    /// Entries whose queue took no message, as was said already.
    refused: HashSet<usize>,
}

/// One slot that is to be taken.
struct Taking {
    entry: usize,
    guard: Guard,
    anchor: Micros,
    slot: Micros,
    /// Empty if the slot is passed over.
    id: String,
    missed: u64,
    caught_up: u64,
    pending: bool,
}

impl Ticker {
    /// A ticker of the entries that are enabled.
    pub(crate) fn new(
        entries: Vec<Entry>,
        store: Store,
        clock: BeatClock,
        instance: Instance,
        metrics: Metrics,
    ) -> Self {
        let entries: Vec<Entry> = entries.into_iter().filter(|entry| entry.enabled).collect();
        metrics
            .entries
            .set(i64::try_from(entries.len()).unwrap_or(i64::MAX));
        Self {
            states: vec![State::default(); entries.len()],
            queue: BinaryHeap::with_capacity(entries.len()),
            entries,
            store,
            started_at: clock.wall(),
            clock,
            instance,
            metrics,
            leader: false,
            stagger: fastrand::i64(STAGGER),
            kept: None,
            beaten: None,
            jumped: false,
            clock_known: false,
            last_slot: None,
            reschedule: true,
            refused: HashSet::new(),
        }
    }

    /// Ticks until a stop is asked for. A cold stop does not wait for the broker's answer: a slot may or may not have
    /// been taken then, which the next beat finds out.
    pub(crate) async fn run(mut self, stop: &Stop) {
        let mut waits = Reconnect::default();
        let mut loaded = false;
        while !stop.is_stopping() {
            let ticked = tokio::select! {
                biased;
                ticked = self.turn(&mut loaded) => ticked,
                () = stop.cold() => return,
            };
            let pause = match ticked {
                Ok(until_next) => {
                    if waits.attempt() > 0 {
                        info!("the broker is back");
                        waits.reset();
                    }
                    until_next
                }
                Err(trouble) => {
                    self.metrics.broker_errors.inc();
                    // Whether it is back, only an answer tells.
                    self.kept = None;
                    let delay = waits.next_delay();
                    if waits.attempt() == 1 {
                        warn!(error = %error_chain(&trouble), "broker in trouble, due entries stay due");
                    }
                    delay
                }
            };
            sleep_unless_stopping(stop, pause).await;
        }
        if !self.instance.dry_run {
            // The lease and the heartbeat end by themselves if this fails.
            let leaving = self.store.leave(&self.instance.id);
            if !matches!(timeout(Duration::from_millis(500), leaving).await, Ok(Ok(()))) {
                debug!("the lease was not given back");
            }
        }
    }

    async fn turn(&mut self, loaded: &mut bool) -> Result<Duration, RedisTrouble> {
        if !*loaded {
            self.load().await?;
            *loaded = true;
        }
        self.tick().await
    }

    /// Reads what was sent of each entry.
    async fn load(&mut self) -> Result<(), RedisTrouble> {
        let all: Vec<usize> = (0..self.entries.len()).collect();
        self.refresh(&all).await
    }

    async fn refresh(&mut self, entries: &[usize]) -> Result<(), RedisTrouble> {
        let names: Vec<&str> = entries
            .iter()
            .map(|entry| self.entries[*entry].name.as_str())
            .collect();
        let records = self.store.records(&names).await?;
        for (entry, record) in entries.iter().zip(records) {
            self.states[*entry].adopt(record);
        }
        Ok(())
    }

    /// Puts every entry on the queue anew, by the clock as it is now.
    fn schedule_all(&mut self) {
        self.queue.clear();
        let now = self.clock.now();
        for entry in 0..self.entries.len() {
            self.schedule(entry, now);
        }
    }

    fn schedule(&mut self, entry: usize, now: Micros) {
        match decide(&self.entries[entry], &mut self.states[entry], now, self.jumped) {
            Decision::Wait(until) => self.queue.push(Reverse((until, entry))),
            Decision::Act(_) => self.queue.push(Reverse((now, entry))),
            Decision::Never => {}
        }
    }

    /// Takes what is due; returns how long nothing is to be done.
    async fn tick(&mut self) -> Result<Duration, RedisTrouble> {
        if let Some(by) = self.clock.jump() {
            self.set_clock(by, "the clock was set, or this machine slept");
        }
        if self.kept.is_none_or(|kept| kept.elapsed() >= KEEP) {
            self.keep().await?;
        }
        loop {
            if std::mem::take(&mut self.reschedule) {
                self.schedule_all();
            }
            let due = self.pop_due();
            if due.is_empty() {
                break;
            }
            if let Err(trouble) = self.fire(&due).await {
                let now = self.clock.now();
                let waiting: HashSet<usize> = self.queue.iter().map(|Reverse((_, entry))| *entry).collect();
                let left = due.into_iter().filter(|entry| !waiting.contains(entry));
                self.queue.extend(left.map(|entry| Reverse((now, entry))));
                return Err(trouble);
            }
        }
        self.jumped = false;
        let since_kept = self.kept.map_or(KEEP, |kept| kept.elapsed());
        let next = self.queue.peek().map(|Reverse((due, _))| due + self.patience());
        let next = next.map_or(LONGEST_SLEEP, |due| {
            Duration::from_micros(u64::try_from(due - self.clock.now()).unwrap_or(0))
        });
        Ok(next.min(LONGEST_SLEEP).min(KEEP.saturating_sub(since_kept)))
    }

    fn set_clock(&mut self, by: Micros, what: &str) {
        let seconds = Duration::from_micros(by.unsigned_abs()).as_secs_f64();
        let direction = if by < 0 { "back" } else { "forward" };
        warn!(seconds, direction, "{what}");
        self.metrics.clock_jumps.inc();
        self.jumped = true;
        self.kept = None;
        self.reschedule = true;
    }

    /// How long a due slot is left to others.
    fn patience(&self) -> Micros {
        if self.leader { 0 } else { self.stagger }
    }

    fn pop_due(&mut self) -> Vec<usize> {
        let until = self.clock.now() - self.patience();
        let mut due = Vec::new();
        while let Some(Reverse((at, _))) = self.queue.peek()
            && *at <= until
            && due.len() < ROUND
        {
            due.extend(self.queue.pop().map(|Reverse((_, entry))| entry));
        }
        due
    }

    /// Asks for the lease, follows the clock of whoever has it, and writes the heartbeat.
    async fn keep(&mut self) -> Result<(), RedisTrouble> {
        if self.instance.dry_run {
            self.leader = true;
            self.kept = Some(Instant::now());
            return Ok(());
        }
        let beats = self.beaten.is_none_or(|beaten| beaten.elapsed() >= HEARTBEAT);
        let text = beats.then(|| self.heartbeat());
        let heartbeat = text.as_deref().map(|text| (text, HEARTBEAT_SECONDS));
        let (asked, ahead) = (self.clock.wall(), self.clock.ahead());
        let mut holder = self
            .store
            .keep(&self.instance.id, ahead, LEASE, heartbeat)
            .await?;
        self.heard();
        self.kept = Some(Instant::now());
        if beats {
            self.beaten = self.kept;
        }
        self.clock.compare(asked, holder.server);
        let leads = holder.instance == self.instance.id;
        if leads && ahead.is_none() && self.clock.ahead().is_some() {
            // Nobody else sends before it is known by which clock.
            holder = self
                .store
                .keep(&self.instance.id, self.clock.ahead(), LEASE, None)
                .await?;
        }
        self.clock_known = leads || holder.ahead.is_some();
        if leads != self.leader {
            self.leader = leads;
            self.metrics.leader.set(leads.into());
            info!(
                leader = holder.instance,
                "{}",
                if leads {
                    "this beat sends"
                } else {
                    "another beat sends"
                }
            );
            // Whoever looks at the heartbeat learns of it soon.
            self.beaten = None;
        }
        let leader_ahead = if leads { None } else { holder.ahead };
        if let Some(by) = self.clock.follow(leader_ahead) {
            self.set_clock(
                by,
                "this machine's clock is not that of the beat that sends, which counts",
            );
            self.kept = Some(Instant::now());
        }
        Ok(())
    }

    fn heartbeat(&self) -> String {
        let seconds = |micros: Micros| Duration::from_micros(micros.unsigned_abs()).as_secs_f64();
        json!({
            "host": self.instance.machine,
            "pid": std::process::id(),
            "version": env!("CARGO_PKG_VERSION"),
            "started_at": seconds(self.started_at),
            "entries": self.entries.len(),
            "last_slot": self.last_slot.map(seconds),
            "next_due": self.queue.peek().map(|Reverse((due, _))| seconds(*due)),
            "leader": self.leader,
        })
        .to_string()
    }

    fn heard(&self) {
        self.metrics.heard.set(self.clock.wall() / 1_000_000);
    }

    /// Takes the slots of entries that are due, and puts the entries back on the queue.
    async fn fire(&mut self, entries: &[usize]) -> Result<(), RedisTrouble> {
        if !self.leader {
            self.keep().await?;
            self.refresh(entries).await?;
            if !self.clock_known {
                let later = self.clock.now();
                self.queue
                    .extend(entries.iter().map(|entry| Reverse((later, *entry))));
                return Ok(());
            }
            if self.reschedule {
                // The clock is another one now; these entries are put on the queue with all others.
                return Ok(());
            }
        }
        let now = self.clock.now();
        let mut takings = Vec::with_capacity(entries.len());
        for &entry in entries {
            match decide(&self.entries[entry], &mut self.states[entry], now, self.jumped) {
                Decision::Wait(until) => self.queue.push(Reverse((until, entry))),
                Decision::Never => {}
                Decision::Act(act) => takings.extend(self.takings(entry, &act)),
            }
        }
        self.pass_over_pending(&mut takings, now).await?;
        self.take(&takings).await?;
        let now = self.clock.now();
        let mut last = None;
        for taking in &takings {
            // The slots of an entry stand together.
            if last.replace(taking.entry) != Some(taking.entry) {
                if self.refused.contains(&taking.entry) {
                    self.queue.push(Reverse((now + REFUSED, taking.entry)));
                } else {
                    self.schedule(taking.entry, now);
                }
            }
        }
        Ok(())
    }

    /// Takes slots, and notes what became of each as far as that is known.
    async fn take(&mut self, takings: &[Taking]) -> Result<(), RedisTrouble> {
        let one_each = takings.windows(2).all(|pair| pair[0].entry != pair[1].entry);
        // Several slots of one entry must be taken in their order, whatever becomes of a batch.
        let at_a_time = if one_each { ROUND } else { BATCH };
        for part in takings.chunks(at_a_time) {
            let batches = part.chunks(BATCH);
            let answers = join_all(batches.clone().map(|batch| self.claim(batch))).await;
            let mut outcome = Ok(());
            for (batch, answers) in batches.zip(answers) {
                match answers {
                    Ok(answers) => {
                        for (taking, answer) in batch.iter().zip(answers) {
                            self.settle(taking, answer);
                        }
                    }
                    Err(trouble) => outcome = Err(trouble),
                }
            }
            outcome?;
            self.heard();
        }
        Ok(())
    }

    fn takings(&self, entry: usize, act: &Act) -> Vec<Taking> {
        let mut guard = act.guard;
        let mut counts = (act.missed, act.caught_up);
        let mut one = |slot: Micros, sends: bool| {
            let (missed, caught_up) = std::mem::take(&mut counts);
            Taking {
                entry,
                guard: std::mem::replace(&mut guard, Guard::After),
                anchor: act.anchor,
                slot,
                id: if sends {
                    self.entries[entry].task_id(slot)
                } else {
                    String::new()
                },
                missed,
                caught_up,
                pending: false,
            }
        };
        let slots = act.slots.iter().map(|slot| (*slot, true));
        let slots = slots.chain(act.pass.map(|slot| (slot, false)));
        slots.map(|(slot, sends)| one(slot, sends)).collect()
    }

    /// Has the slots passed over whose entry does not send while its last message is pending.
    async fn pass_over_pending(&self, takings: &mut [Taking], now: Micros) -> Result<(), RedisTrouble> {
        let mut asked = Vec::new();
        let mut ids = Vec::new();
        for (number, taking) in takings.iter().enumerate() {
            let entry = &self.entries[taking.entry];
            let sent = self.states[taking.entry].record().and_then(|record| record.sent);
            if let Some((limit, sent)) = entry.unless_pending.zip(sent)
                && !taking.id.is_empty()
                && u128::from((now - sent).unsigned_abs()) < limit.as_micros()
            {
                asked.push(number);
                ids.push(entry.task_id(sent));
            }
        }
        if ids.is_empty() {
            return Ok(());
        }
        let finished = self.store.finished(&ids).await?;
        for (number, finished) in asked.into_iter().zip(finished) {
            if !finished {
                takings[number].id.clear();
                takings[number].pending = true;
            }
        }
        Ok(())
    }

    async fn claim(&self, takings: &[Taking]) -> Result<Vec<Answer>, RedisTrouble> {
        let now = self.clock.wall();
        let claim = |taking: &Taking| -> Claim<'_> {
            let entry = &self.entries[taking.entry];
            let message = (!taking.id.is_empty()).then(|| {
                entry.message(
                    taking.id.clone(),
                    taking.slot,
                    taking.anchor,
                    now,
                    &self.instance.origin,
                )
            });
            Claim {
                entry: &entry.name,
                guard: taking.guard,
                slot: taking.slot,
                anchor: taking.anchor,
                message,
                queue: &entry.queue,
                priority: entry.priority,
            }
        };
        if self.instance.dry_run {
            let sends = |taking: &Taking| {
                if taking.id.is_empty() {
                    Answer::Passed
                } else {
                    Answer::Sent
                }
            };
            return Ok(takings.iter().map(sends).collect());
        }
        let claims: Vec<Claim<'_>> = takings.iter().map(claim).collect();
        self.store.claim(&claims).await
    }

    /// Takes note of what became of a slot.
    fn settle(&mut self, taking: &Taking, answer: Answer) {
        let entry = &self.entries[taking.entry];
        let state = &mut self.states[taking.entry];
        let was_refused = self.refused.remove(&taking.entry);
        let sent = answer == Answer::Sent;
        match answer {
            Answer::Taken(record) => {
                state.adopt(record);
                return;
            }
            Answer::Refused(reason) => {
                self.metrics.refused.inc();
                if !was_refused {
                    warn!(
                        beat.entry = entry.name,
                        queue = entry.queue,
                        reason,
                        "the queue takes no message, trying on"
                    );
                }
                self.refused.insert(taking.entry);
                return;
            }
            Answer::Sent => {
                let late = Duration::from_micros(
                    u64::try_from(self.clock.now() - entry.due(taking.slot)).unwrap_or(0),
                );
                self.metrics.sent.inc();
                self.metrics.lateness.observe(late.as_secs_f64());
                self.metrics
                    .last_sent
                    .set(Duration::from_micros(self.clock.wall().unsigned_abs()).as_secs_f64());
                let said = if self.instance.dry_run {
                    "would be sent"
                } else {
                    "sent"
                };
                info!(
                    beat.entry = entry.name,
                    task.name = entry.task,
                    task.id = taking.id,
                    "{said}"
                );
                debug!(
                    beat.entry = entry.name,
                    late_ms = late.as_secs_f64() * 1000.0,
                    "lateness"
                );
                self.last_slot = Some(taking.slot);
            }
            Answer::Paused => {
                self.metrics.paused.inc();
            }
            Answer::Passed if taking.pending => {
                self.metrics.pending.inc();
                info!(beat.entry = entry.name, "not sent, the previous one is pending");
            }
            Answer::Passed => {}
        }
        if taking.missed > 0 {
            self.metrics.missed.inc_by(taking.missed);
            info!(
                beat.entry = entry.name,
                missed = taking.missed,
                "slots passed while nothing could be sent"
            );
        }
        self.metrics.caught_up.inc_by(taking.caught_up);
        let before = state.record().copied();
        state.adopt(Some(Record {
            last: taking.slot,
            anchor: taking.anchor,
            sent: if sent {
                Some(taking.slot)
            } else {
                before.and_then(|record| record.sent)
            },
            runs: before.map_or(0, |record| record.runs) + u64::from(sent),
        }));
    }
}
