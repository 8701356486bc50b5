//! The heartbeat: lease, scores, restores and events, on a separate thread.
//!
//! A task that never yields can block the threads that run tasks. It must not block the heartbeat, or other workers
//! would consider this one dead and run its messages again. So the heartbeat has its own thread, runtime and connection.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::parked_watch::ParkedWatch;
use crate::events::Publisher;
use crate::transport::{HEARTBEAT, Overdue, RESTORE_INTERVAL, SCORE_RENEWAL, Transport};
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::lifecycle::Stop;

/// For how long the last events and the end of the lease may hold up a stop, together.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// A running heartbeat.
pub(super) struct Heartbeat {
    end: CancellationToken,
    ended: CancellationToken,
    drained: Arc<std::sync::atomic::AtomicBool>,
}

impl Heartbeat {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(publisher: Publisher, stop: Stop, pulse: Pulse) -> std::io::Result<Self> {
        let end = CancellationToken::new();
        let drained = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let ended = CancellationToken::new();
        // Trips when the thread ends, by a panic too.
        let at_end = ended.clone().drop_guard();
        let (token, flag) = (end.clone(), Arc::clone(&drained));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("heartbeat".into())
            .spawn(move || {
                let _at_end = at_end;
                runtime.block_on(async {
                    let until = token.clone();
                    // A separate task, so that the lease survives its panic.
                    let events = tokio::spawn(async move { publisher.run(&stop, &until).await });
                    pulse.run(&token, &flag).await;
                    if let Err(panic) = events.await {
                        warn!(error = %panic, "the publisher of events panicked");
                    }
                });
            })?;
        Ok(Self { end, ended, drained })
    }

    /// Releases the lease and ends the thread, within two seconds.
    pub(super) async fn stop(self, drained: bool) {
        self.drained.store(drained, std::sync::atomic::Ordering::Relaxed);
        self.end.cancel();
        // A timeout does no harm: the lease then expires.
        let _ = tokio::time::timeout(END_PATIENCE, self.ended.cancelled()).await;
    }

    /// Trips when the heartbeat is over, whatever ended it.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }
}

pub(super) struct Pulse {
    transport: Transport,
    hostname: String,
    visibility_timeout: Duration,
    last_scores: Option<Instant>,
    last_restore: Option<Instant>,
    overdue: Overdue,
    parked: ParkedWatch,
    /// A dead worker held more than one tick restores; or more deliveries are overdue.
    restoring: bool,
    restoring_overdue: bool,
    /// Some worker may be dead: check again soon.
    suspicious: bool,
    last_roll_call: Option<Instant>,
    /// The lease may have run out.
    lapsed: bool,
    rng: fastrand::Rng,
}

/// How often to look for dead workers, and how often while one is suspected.
const ROLL_CALL: Duration = HEARTBEAT.saturating_mul(2);
const SUSPICIOUS: Duration = Duration::from_secs(1);

impl Pulse {
    /// The periodic work of the worker `hostname`, over `transport`.
    pub(super) fn new(
        transport: Transport,
        hostname: String,
        visibility_timeout: Duration,
        rng: fastrand::Rng,
    ) -> Self {
        Self {
            transport,
            hostname,
            visibility_timeout,
            last_scores: None,
            last_restore: None,
            overdue: Overdue::default(),
            parked: ParkedWatch::default(),
            restoring: false,
            restoring_overdue: false,
            suspicious: false,
            last_roll_call: None,
            lapsed: true,
            rng,
        }
    }

    async fn run(mut self, end: &CancellationToken, drained: &std::sync::atomic::AtomicBool) {
        let mut troubled = false;
        while !end.is_cancelled() {
            let ticked = self.tick().await;
            let refused = ticked.as_ref().is_err_and(RedisTrouble::needs_an_operator);
            match ticked {
                Ok(()) => troubled = false,
                Err(trouble) if troubled => {
                    debug!(error = %error_chain(&trouble), "the heartbeat still fails");
                }
                Err(trouble) => {
                    if refused {
                        error!(error = %error_chain(&trouble), "the broker refuses the heartbeat");
                    } else {
                        warn!(error = %error_chain(&trouble), "the heartbeat does not reach the broker");
                    }
                    troubled = true;
                }
            }
            // While in trouble the lease is about to run out: be back as soon as the server is.
            let pause = if troubled && !refused {
                HEARTBEAT / 7
            } else if self.restoring || self.restoring_overdue {
                Duration::ZERO
            } else if self.suspicious {
                SUSPICIOUS
            } else {
                HEARTBEAT.mul_f64(0.9 + 0.2 * self.rng.f64())
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = end.cancelled() => {}
            }
        }
        let drained = drained.load(std::sync::atomic::Ordering::Relaxed);
        if let Err(trouble) = self.transport.end_lease(drained).await {
            debug!(error = %error_chain(&trouble), "cannot release the lease; it expires by itself");
        }
    }

    async fn tick(&mut self) -> Result<(), RedisTrouble> {
        let due = |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every);
        if std::mem::replace(&mut self.lapsed, true) {
            self.transport.take_lease(&self.hostname).await?;
        } else {
            self.transport.renew_lease(&self.hostname).await?;
        }
        // A little early rather than a whole beat late.
        if self.restoring || self.suspicious || due(self.last_roll_call, ROLL_CALL.mul_f64(0.8)) {
            let call = self.transport.call_the_roll(&self.hostname).await?;
            self.last_roll_call = Some(Instant::now());
            self.suspicious = call.suspected > 0;
            self.restoring = false;
            for worker in call.given_up {
                self.restoring |= !self.transport.restore_worker(&worker).await?;
            }
        }
        if due(self.last_scores, SCORE_RENEWAL) {
            self.transport.renew_scores().await?;
            self.last_scores = Some(Instant::now());
        }
        if self.restoring_overdue || due(self.last_restore, RESTORE_INTERVAL) {
            let restored = self
                .transport
                .restore_timed_out(self.visibility_timeout, &mut self.overdue);
            self.restoring_overdue = !restored.await?;
            self.parked.note(self.transport.parked_count().await?);
            self.last_restore = Some(Instant::now());
        }
        self.lapsed = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_that_hangs_holds_up_the_stop_for_two_seconds() {
        let heartbeat = Heartbeat {
            end: CancellationToken::new(),
            ended: CancellationToken::new(),
            drained: Arc::default(),
        };
        let began = tokio::time::Instant::now();
        heartbeat.stop(true).await;
        assert_eq!(began.elapsed().as_secs(), 2);
    }
}
