//! Start and stop of a process: a warm token, a cold token, and the signals that trip them.
//!
//! Warm means: take nothing new, finish what runs. Cold means: end what runs, give it back. The first
//! SIGTERM or SIGINT is warm, the second is cold, and so is a warm stop that outlasts its deadline.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long after a stop a signal is taken for the one that caused it.
const SAME_SIGNAL: Duration = Duration::from_millis(100);

/// The two tokens; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    warm: CancellationToken,
    cold: CancellationToken,
}

impl Stop {
    /// Tokens that nothing has tripped.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a warm stop.
    pub fn stop_warm(&self) {
        self.warm.cancel();
    }

    /// Asks for a cold stop, which is a warm one too.
    pub fn stop_cold(&self) {
        self.warm.cancel();
        self.cold.cancel();
    }

    /// Whether a stop was asked for.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.warm.is_cancelled()
    }

    /// Ends when a stop was asked for.
    pub async fn warm(&self) {
        self.warm.cancelled().await;
    }

    /// Ends when a cold stop was asked for.
    pub async fn cold(&self) {
        self.cold.cancelled().await;
    }

    /// The warm token, for parts that take one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.warm.clone()
    }

    /// Listens for SIGTERM and SIGINT until the process ends; `deadline` bounds the warm stop.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn on_signals(&self, deadline: Duration) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = self.clone();
        tokio::spawn(async move {
            // Receiving from a signal stream is cancel-safe.
            tokio::select! {
                biased;
                _ = terminate.recv() => info!(signal = "SIGTERM", "warm stop"),
                _ = interrupt.recv() => info!(signal = "SIGINT", "warm stop"),
                () = stop.warm() => {
                    info!("warm stop");
                    // The crate's loop hears the same signal, and may stop us for it before it arrives here. It must
                    // not then pass for a second one.
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
                () = tokio::time::sleep(deadline) => {
                    warn!(deadline_seconds = deadline.as_secs_f64(), "warm stop took too long, cold stop");
                }
            }
            stop.stop_cold();
        });
        Ok(())
    }
}

/// Waits for `wait` to pass; `false` when a stop came first.
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
