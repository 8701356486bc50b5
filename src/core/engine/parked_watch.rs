//! Says that many messages are parked. They are never dropped by themselves: somebody has to look at them.

use std::time::{Duration, Instant};

use tracing::error;

/// How many parked messages are many.
const MANY: usize = 1_000;
/// How long after it was said it is said again, if their number has not doubled before.
const AGAIN: Duration = Duration::from_secs(3_600);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ParkedWatch {
    said: Option<(usize, Instant)>,
}

impl ParkedWatch {
    /// Takes note of how many there are.
    pub(super) fn note(&mut self, messages: usize) {
        if messages < MANY {
            self.said = None;
            return;
        }
        let known = |(before, at): (usize, Instant)| messages < 2 * before && at.elapsed() < AGAIN;
        if !self.said.is_some_and(known) {
            self.said = Some((messages, Instant::now()));
            error!(
                messages,
                "many messages are parked and wait for somebody to look at them: `tradebot-symbols parked list`"
            );
        }
    }
}
