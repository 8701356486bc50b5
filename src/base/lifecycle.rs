//! Stopping a process: a warm and a cold token, the signals that cancel them, and what systemd is told of a service.
//!
//! A warm stop starts nothing new and finishes running tasks. A cold stop cancels them and returns their messages. SIGHUP
//! and the first SIGTERM or SIGINT are warm; SIGQUIT, a second SIGTERM or SIGINT, and a warm stop that exceeds its deadline
//! are cold. After a SIGHUP the supervisor starts the program again, with its new settings. SIGUSR1 ends nothing.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A signal this soon after a stop counts as the one that caused it.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// The shortest interval of the watchdog's messages.
const SHORTEST_FEEDING: Duration = Duration::from_millis(10);

/// The two tokens; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    warm: CancellationToken,
    cold: CancellationToken,
}

impl Stop {
    /// Two tokens that are not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a warm stop.
    pub fn stop_warm(&self) {
        self.warm.cancel();
    }

    /// Requests a cold stop, which includes a warm one.
    pub fn stop_cold(&self) {
        self.warm.cancel();
        self.cold.cancel();
    }

    /// Whether a stop was requested.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.warm.is_cancelled()
    }

    /// Completes when a stop is requested.
    pub async fn warm(&self) {
        self.warm.cancelled().await;
    }

    /// Completes when a cold stop is requested.
    pub async fn cold(&self) {
        self.cold.cancelled().await;
    }

    /// The warm token, for parts that expect a token.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.warm.clone()
    }

    /// Handles SIGTERM, SIGINT, SIGHUP and SIGQUIT until the process ends, and ignores SIGUSR1. A warm stop may take
    /// `deadline`.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals(&self, deadline: Duration) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut quit = signal(SignalKind::quit())?;
        // Handled once, it does not end the process any more.
        let _ignored = signal(SignalKind::user_defined1())?;
        let stop = self.clone();
        tokio::spawn(async move {
            // Receiving from a signal stream is cancel-safe.
            tokio::select! {
                biased;
                _ = terminate.recv() => info!(signal = "SIGTERM", "warm stop"),
                _ = interrupt.recv() => info!(signal = "SIGINT", "warm stop"),
                _ = hangup.recv() => info!(signal = "SIGHUP", "warm stop"),
                _ = quit.recv() => {
                    warn!(signal = "SIGQUIT", "cold stop");
                    stop.stop_cold();
                    return;
                }
                () = stop.warm() => {
                    info!("warm stop");
                    // rusty-celery's loop receives the same signal and may stop us before it arrives here. It must
                    // not count as a second one.
                    let same = async {
                        tokio::select! {
                            _ = terminate.recv() => {}
                            _ = interrupt.recv() => {}
                        }
                    };
                    let _ = tokio::time::timeout(SAME_SIGNAL, same).await;
                }
            }
            stop.stop_warm();
            tokio::select! {
                _ = terminate.recv() => warn!(signal = "SIGTERM", "cold stop"),
                _ = interrupt.recv() => warn!(signal = "SIGINT", "cold stop"),
                _ = quit.recv() => warn!(signal = "SIGQUIT", "cold stop"),
                () = tokio::time::sleep(deadline) => {
                    warn!(deadline_seconds = deadline.as_secs_f64(), "warm stop took too long, cold stop");
                }
            }
            stop.stop_cold();
        });
        Ok(())
    }
}

/// Tells systemd that this service is ready, feeds its watchdog from the current runtime until that ends, and announces
/// the stop. Does nothing if systemd did not start this process with `Type=notify`.
pub fn serve_under_systemd(stop: &Stop) {
    tell_systemd(&NotifyState::Ready);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(async move {
            loop {
                tell_systemd(&NotifyState::Watchdog);
                tokio::time::sleep((limit / 3).max(SHORTEST_FEEDING)).await;
            }
        });
    }
    let stop = stop.clone();
    tokio::spawn(async move {
        stop.warm().await;
        tell_systemd(&NotifyState::Stopping);
    });
}

/// A datagram to a socket that PID 1 drains.
fn tell_systemd(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        warn!(%error, %state, "cannot tell systemd, see NOTIFY_SOCKET");
    }
}

/// Sleeps for `wait`. Returns `false` if a stop ends the sleep early.
pub async fn sleep_unless_stopping(stop: &Stop, wait: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => true,
        () = stop.warm() => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn cold_includes_warm_and_a_sleep_ends_early() {
        let stop = Stop::new();
        assert!(sleep_unless_stopping(&stop, Duration::ZERO).await);
        stop.stop_cold();
        assert!(stop.is_stopping());
        assert!(!sleep_unless_stopping(&stop, Duration::from_secs(3600)).await);
        stop.cold().await;
    }
}
