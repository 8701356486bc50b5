//! Single-flight: one refresh per market at a time, shared by all that want it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::pause::{FIRST_PAUSE, pause_after};
use super::{HeldList, MarketStatus, SharedReads};
use crate::product::symbols::cache::{
    FetchedBy, LEASE, LONGEST_PAUSE, LeaseReply, LeaseRequest, RefreshLease, WriteOutcome,
};
use tradebot_base::market::Market;
use tradebot_base::{error_chain, trace};

/// How long to wait for other processes: a little more than two leases.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(2 * LEASE.as_secs() + 2);
/// How often to check whether another process has finished its refresh.
const POLL: Duration = Duration::from_millis(100);
/// How long after a warm-up's list has expired to refresh it here. By then the warm-ups must have stopped.
const WARMUP_GRACE: Duration = Duration::from_secs(2);

/// How many refreshes a refused list of another program causes at most.
const TRIES_AFTER_REFUSAL: usize = 3;

type RefreshOutcome = Result<Arc<HeldList>, Arc<RefreshFailure>>;

/// The running refresh of one market, and how the last ones went.
#[derive(Debug, Default)]
pub(super) struct SingleFlight {
    state: Mutex<FlightState>,
    refreshes: AtomicU64,
    failures: AtomicU64,
}

#[derive(Debug, Default)]
struct FlightState {
    running: Option<watch::Receiver<Option<RefreshOutcome>>>,
    failure: Option<Arc<RefreshFailure>>,
    failed_in_a_row: u32,
    took: Option<Duration>,
}

/// Why a refresh failed, and when to try again.
#[derive(Debug)]
pub(super) struct RefreshFailure {
    pub(super) reason: String,
    /// Whether a pause of the exchange is the reason.
    pub(super) paused: bool,
    /// When another try may succeed, as far as is known.
    retry_at: Instant,
    /// When the next refresh may start. A longer pause of the exchange is enforced by its client.
    begin_at: Instant,
}

impl RefreshFailure {
    fn new(reason: String, retry_after: Duration) -> Self {
        let now = Instant::now();
        Self {
            reason,
            paused: false,
            retry_at: now + retry_after,
            begin_at: now + retry_after.min(LONGEST_PAUSE),
        }
    }

    pub(super) fn slow(waited: Duration) -> Self {
        let reason = format!("no refresh finished within {} s", waited.as_secs());
        Self::new(reason, FIRST_PAUSE)
    }

    /// How long until the next refresh may start.
    fn rest(&self) -> Duration {
        self.begin_at.saturating_duration_since(Instant::now())
    }

    pub(super) fn retry_in(&self) -> Duration {
        self.retry_at.saturating_duration_since(Instant::now())
    }
}

impl SingleFlight {
    fn state(&self) -> MutexGuard<'_, FlightState> {
        // Locked for assignments and copies, never across an await.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last failure, while its pause lasts.
    fn failing(&self) -> Option<Arc<RefreshFailure>> {
        let state = self.state();
        state.failure.clone().filter(|failure| !failure.rest().is_zero())
    }

    pub(super) fn status(&self) -> MarketStatus {
        let state = self.state();
        MarketStatus {
            refreshes: self.refreshes.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            last_refresh_took: state.took,
            failing: state
                .failure
                .as_ref()
                .map(|failure| (failure.reason.clone(), failure.retry_in())),
            ..MarketStatus::default()
        }
    }
}

impl SharedReads {
    /// Joins the running refresh, or starts one. It continues even if all waiters leave.
    pub(super) async fn join_refresh(self: &Arc<Self>, market: Market) -> RefreshOutcome {
        let flight = &self.markets.get(market).flight;
        if let Some(failure) = flight.failing() {
            return Err(failure);
        }
        let mut outcome = {
            let mut state = flight.state();
            match state.running.clone() {
                Some(outcome) => outcome,
                None => {
                    let (sender, receiver) = watch::channel(None);
                    state.running = Some(receiver.clone());
                    let flown = Arc::clone(self).lead_refresh(market, sender);
                    self.tracker.spawn(trace::follow(flown));
                    receiver
                }
            }
        };
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome
                .clone()
                .unwrap_or_else(|| Err(Arc::new(RefreshFailure::slow(Duration::ZERO)))),
            // The process is stopping.
            Err(_) => Err(Arc::new(RefreshFailure::slow(Duration::ZERO))),
        }
    }

    async fn lead_refresh(self: Arc<Self>, market: Market, sender: watch::Sender<Option<RefreshOutcome>>) {
        let flight = &self.markets.get(market).flight;
        let began = Instant::now();
        let outcome = self.refresh(market).await;
        let mut state = flight.state();
        state.running = None;
        state.took = Some(began.elapsed());
        match &outcome {
            Some(Ok(_)) => {
                state.failure = None;
                state.failed_in_a_row = 0;
                flight.refreshes.fetch_add(1, Ordering::Relaxed);
            }
            Some(Err(failure)) => {
                state.failure = Some(Arc::clone(failure));
                state.failed_in_a_row = state.failed_in_a_row.saturating_add(1);
                flight.failures.fetch_add(1, Ordering::Relaxed);
            }
            None => {}
        }
        drop(state);
        // Fails only if no one waits any more.
        let _ = sender.send(outcome);
    }

    /// Refreshes a market's list, unless another process is doing so or has just done so. Returns `None` if this process
    /// stops before the end; another one may then refresh at once.
    async fn refresh(&self, market: Market) -> Option<RefreshOutcome> {
        let lease = match self.lease(market).await? {
            Ok(lease) => lease,
            Err(outcome) => return Some(outcome),
        };
        let refreshing = Box::pin(self.refresh_under(market, lease.as_ref()));
        let outcome = self.stop.run_until_cancelled(refreshing).await;
        if let (None, Some(lease)) = (&outcome, &lease) {
            self.refresher.release_lease(market, lease, None).await;
        }
        outcome
    }

    /// Waits for the right to refresh: a lease, or none while Redis is away. `Err` if there is nothing to do any more, and
    /// `None` if this process stops.
    async fn lease(&self, market: Market) -> Option<Result<Option<RefreshLease>, RefreshOutcome>> {
        let memory = &self.markets.get(market).memory;
        let give_up_at = Instant::now() + PATIENCE_WITH_OTHERS;
        loop {
            // Without Redis, processes cannot coordinate.
            if !self.link.is_up() {
                return Some(Ok(None));
            }
            let known = memory.seen_refresh();
            let kept = memory.get().is_some_and(|held| held.kept);
            let request = if kept {
                LeaseRequest::Kept
            } else {
                LeaseRequest::Reader(&known)
            };
            let request = self.refresher.cache().acquire_lease(market, request);
            let wait = match trace::redis_call("begin a refresh", request).await {
                Ok(LeaseReply::Granted(lease)) => return Some(Ok(Some(lease))),
                Ok(LeaseReply::Failing(left, reason)) => {
                    // The failure is forgotten early, so that a pause that has been ended is noticed.
                    let failure = self.failure(market, reason, left).await;
                    return Some(Err(Err(Arc::new(failure))));
                }
                Ok(LeaseReply::Newer) => {
                    self.changed.notify_one();
                    super::REDIS_PATIENCE
                }
                Ok(LeaseReply::Busy(left)) => left.clamp(Duration::from_millis(1), POLL),
                Err(error) => {
                    debug!(%market, error = %error_chain(&error), "refreshing without a lease, Redis did not grant one");
                    return Some(Ok(None));
                }
            };
            let look = self.link.next_look(Instant::now() + wait);
            self.stop.run_until_cancelled(look).await?;
            if let Some(held) = memory
                .get()
                .filter(|held| held.is_fresh(memory.now_ms()) && !held.kept)
                .filter(|_| memory.seen_refresh() != known)
            {
                return Some(Err(Ok(held)));
            }
            if Instant::now() > give_up_at {
                return Some(Err(Err(Arc::new(RefreshFailure::slow(PATIENCE_WITH_OTHERS)))));
            }
        }
    }

    /// Refreshes a market's list.
    async fn refresh_under(&self, market: Market, lease: Option<&RefreshLease>) -> RefreshOutcome {
        let memory = &self.markets.get(market).memory;
        let held = memory.get();
        let known = held.as_ref().map(|held| &*held.list);
        match self.refresher.refresh_for_readers(market, lease, known).await {
            Ok(refreshed) => {
                let unsaved = refreshed.written.is_none();
                let held = memory.put(refreshed.list, self.ttl(market), unsaved);
                if refreshed.written != Some(WriteOutcome::Yes) {
                    // Redis may have a newer list, reported before this one was stored: read it again.
                    self.changed.notify_one();
                }
                if unsaved {
                    self.markets.get(market).unsaved.notify_one();
                }
                Ok(held)
            }
            Err(error) => {
                let reason = error_chain(&error);
                warn!(%market, error = reason, "cannot refresh the list");
                let retry_after = error.retry_after().unwrap_or_else(|| self.pause(market));
                let failure = self.failure(market, reason, retry_after).await;
                if let Some(lease) = lease {
                    let pause = retry_after.min(LONGEST_PAUSE);
                    self.refresher
                        .release_lease(market, lease, Some((pause, &failure.reason)))
                        .await;
                }
                Err(Arc::new(failure))
            }
        }
    }

    /// A failure that lasts at least as long as the exchange's pause.
    async fn failure(&self, market: Market, reason: String, retry_after: Duration) -> RefreshFailure {
        let pause = self.refresher.client().pause(market).await;
        let left = pause.map_or(Duration::ZERO, |pause| pause.left);
        RefreshFailure {
            paused: pause.is_some(),
            ..RefreshFailure::new(reason, retry_after.max(left))
        }
    }

    fn pause(&self, market: Market) -> Duration {
        let failed = self.markets.get(market).flight.state().failed_in_a_row;
        pause_after(failed, self.random.fraction())
    }

    /// Refreshes a market's list before it expires, or when a reader got a stale one. Cancelling this does not cancel a
    /// running refresh, which is a separate task.
    pub(super) async fn keep_fresh(self: Arc<Self>, market: Market) {
        let state = self.markets.get(market);
        if *self.config.warmup_on_startup.get(market) {
            self.link.first_look(Instant::now() + super::REDIS_PATIENCE).await;
            let now_ms = state.memory.now_ms();
            if !state.memory.get().is_some_and(|held| held.is_fresh(now_ms)) {
                self.refresh_and_rest(market).await;
            }
        }
        loop {
            let ahead = self.refresh_ahead_at(market);
            tokio::select! {
                () = state.wanted.notified() => {
                    // Readers also ask during a refresh, which has answered them.
                    let now_ms = state.memory.now_ms();
                    if state.memory.get().is_some_and(|held| held.is_fresh(now_ms)) {
                        continue;
                    }
                }
                () = state.foreign.wants_refresh() => {
                    // A doubtful answer of the exchange needs a second one that confirms it.
                    for _ in 0..TRIES_AFTER_REFUSAL {
                        self.refresh_and_rest(market).await;
                        if !state.memory.get().is_some_and(|held| held.kept) {
                            break;
                        }
                    }
                    continue;
                }
                () = sleep_until(ahead.unwrap_or_else(Instant::now)), if ahead.is_some() => {}
                () = self.link.next_look(Instant::now() + Duration::from_secs(60)) => continue,
            }
            self.refresh_and_rest(market).await;
        }
    }

    /// Refreshes, and after a failure waits for its pause.
    async fn refresh_and_rest(self: &Arc<Self>, market: Market) {
        if let Err(failure) = self.join_refresh(market).await {
            sleep(failure.rest()).await;
        }
    }

    /// When to refresh the list before it expires (refresh-ahead).
    fn refresh_ahead_at(&self, market: Market) -> Option<Instant> {
        let percent = self.config.refresh_ahead_percent?;
        let ttl = self.ttl(market)?;
        let memory = &self.markets.get(market).memory;
        let held = memory.get()?;
        let left = u64::try_from(held.expires_ms? - memory.now_ms()).unwrap_or(0);
        let left = Duration::from_millis(left);
        let warmed = held
            .list
            .source()
            .is_some_and(|source| source.by == Some(FetchedBy::Warmup));
        Some(Instant::now() + refresh_in(left, ttl, (!warmed).then_some(percent), self.random.fraction()))
    }
}

/// How long until a list is refreshed that expires after `left`: when `percent` of its lifetime have passed, or, without
/// `percent`, some time after its end, because warm-ups refresh it before.
fn refresh_in(left: Duration, ttl: Duration, percent: Option<u32>, fraction: f64) -> Duration {
    // Spread, so that not all processes refresh at once.
    let spread = ttl.min(Duration::from_secs(100)).mul_f64(0.03 * fraction);
    spread
        + match percent {
            Some(percent) => left.saturating_sub(ttl.mul_f64(f64::from(100 - percent) / 100.0)),
            None => left + WARMUP_GRACE,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_a_warm_up_is_refreshed_here_two_seconds_after_its_end_and_others_before() {
        let in_seconds = |left, ttl, percent, fraction| {
            let [left, ttl] = [left, ttl].map(Duration::from_secs);
            refresh_in(left, ttl, percent, fraction).as_secs_f64()
        };
        assert_eq!(in_seconds(10, 300, None, 0.0), 12.0);
        assert_eq!(
            in_seconds(10, 300, None, 1.0),
            15.0,
            "with a spread of at most 3 s"
        );
        assert_eq!(in_seconds(290, 300, Some(80), 0.0), 230.0);
        assert_eq!(in_seconds(290, 20, Some(80), 1.0), 286.6);
        assert_eq!(in_seconds(10, 300, Some(80), 0.0), 0.0);
    }

    /// The exchange's client obeys a longer pause, from any source.
    #[tokio::test(start_paused = true)]
    async fn after_a_failure_refreshes_begin_again_within_fifteen_seconds() {
        let failure = RefreshFailure::new("banned".into(), Duration::from_secs(600));
        assert_eq!(failure.rest().as_secs(), 15);
        assert_eq!(failure.retry_in().as_secs(), 600);
        let slow = RefreshFailure::slow(Duration::ZERO);
        assert_eq!(slow.retry_in().as_secs(), 1);
    }
}
