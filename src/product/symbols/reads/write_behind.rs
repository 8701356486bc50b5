//! Write-behind: writes lists that were fetched while Redis was down, once it is back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::SharedReads;
use super::pause::pause_after;
use crate::product::symbols::cache::LONGEST_PAUSE;
use tradebot_base::market::Market;

/// Maximum random delay, so that not all processes write at once.
const SPREAD: Duration = Duration::from_millis(500);

impl SharedReads {
    /// Writes each list of a market that Redis did not take, once Redis is back.
    pub(super) async fn write_behind(self: Arc<Self>, market: Market) {
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
                0 => SPREAD.mul_f64(self.random.fraction()),
                _ => pause_after(failed - 1, self.random.fraction()),
            };
            sleep(pause).await;
            let known = state.memory.seen_refresh();
            if !self.refresher.write_behind(market, &known).await {
                failed = failed.saturating_add(1);
            }
        }
    }
}
