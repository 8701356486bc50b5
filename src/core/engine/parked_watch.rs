//! Logs an error when many messages are parked. Only an operator removes them.

use std::time::{Duration, Instant};

use tracing::error;

/// How many parked messages are many.
const MANY: usize = 1_000;
/// How long until the error is repeated, unless their number doubles before.
const AGAIN: Duration = Duration::from_secs(3_600);

/// When the error was last logged, and for how many messages.
#[derive(Debug, Default)]
pub(super) struct ParkedWatch {
    logged: Option<(usize, Instant)>,
}

impl ParkedWatch {
    /// Logs the error if there are many and it was not logged lately.
    pub(super) fn note(&mut self, messages: usize) {
        if messages < MANY {
            self.logged = None;
            return;
        }
        let known = |(before, at): (usize, Instant)| messages < 2 * before && at.elapsed() < AGAIN;
        if !self.logged.is_some_and(known) {
            self.logged = Some((messages, Instant::now()));
            error!(
                messages,
                "many messages are parked; list them with `tradebot-symbols parked list`"
            );
        }
    }
}
