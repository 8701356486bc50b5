//! Lists that were fetched while Redis was away, and what becomes of them when it is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::SharedReads;
use tradebot_base::market::Market;

/// All processes that have such a list are not at it at once.
const SPREAD: Duration = Duration::from_millis(500);
/// The pauses between attempts at a Redis that answers and does not take the list.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

impl SharedReads {
    /// Writes a market's list that Redis did not take once it takes it, until a stop.
    pub(super) async fn write_behind(self: Arc<Self>, market: Market) {
        let stop = self.stop.clone();
        // A write that is dropped has happened or not; both are what a list that is as old as this one may meet.
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = self.write_each_behind(market) => {}
        }
    }

    async fn write_each_behind(&self, market: Market) {
        let state = self.markets.get(market);
        let mut failed = 0_u32;
        loop {
            if !self.refresher.has_unsaved(market) {
                failed = 0;
                state.unsaved.notified().await;
                continue;
            }
            if !self.link.is_up() {
                failed = 0;
                self.link.next_look(Instant::now() + LONGEST_PAUSE).await;
                continue;
            }
            let pause = match failed {
                0 => SPREAD.mul_f64(fastrand::f64()),
                _ => {
                    let pause = FIRST_PAUSE.saturating_mul(1 << (failed - 1).min(8));
                    pause.min(LONGEST_PAUSE).mul_f64(0.8 + 0.4 * fastrand::f64())
                }
            };
            sleep(pause).await;
            let known = state.memory.seen_refresh();
            if !self.refresher.write_behind(market, &known).await {
                failed = failed.saturating_add(1);
            }
        }
    }
}
