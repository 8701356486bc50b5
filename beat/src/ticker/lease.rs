//! Who sends, by which clock, and what a beat tells of itself.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use tradebot_base::connection::RedisTrouble;

use super::Ticker;
use crate::running::{HEARTBEAT, HEARTBEAT_SECONDS, Standing};
use crate::slots::Micros;

/// How long the lease outlives its last renewal, by the server's clock.
const LEASE: Duration = Duration::from_secs(5);
/// How often it is renewed, and the clock looked at.
pub(super) const KEEP: Duration = Duration::from_millis(1500);
/// How long a follower leaves a due slot to the beat that sends, in microseconds; drawn anew by each beat.
const STAGGER: std::ops::Range<Micros> = 300_000..600_000;

/// What a beat knows of the lease.
pub(super) struct Lease {
    /// This beat has it.
    pub(super) leads: bool,
    stagger: Micros,
    /// When it was last asked for.
    kept: Option<Instant>,
    /// When the heartbeat was last written.
    beaten: Option<Instant>,
    /// The clock of the beat that sends is known, or this is that beat.
    pub(super) clock_known: bool,
}

impl Lease {
    pub(super) fn new() -> Self {
        Self {
            leads: false,
            stagger: fastrand::i64(STAGGER),
            kept: None,
            beaten: None,
            clock_known: false,
        }
    }

    /// How long a due slot is left to others.
    pub(super) fn patience(&self) -> Micros {
        if self.leads { 0 } else { self.stagger }
    }

    /// How long it may be until the lease is asked for again.
    pub(super) fn until_kept(&self) -> Duration {
        self.kept
            .map_or(Duration::ZERO, |kept| KEEP.saturating_sub(kept.elapsed()))
    }

    /// Has it be asked for with the next turn.
    pub(super) fn forget(&mut self) {
        self.kept = None;
    }
}

impl Ticker {
    /// Asks for the lease, follows the clock of whoever has it, and writes the heartbeat.
    pub(super) async fn keep(&mut self) -> Result<(), RedisTrouble> {
        if self.instance.dry_run {
            self.lease.leads = true;
            self.lease.kept = Some(Instant::now());
            return Ok(());
        }
        let beats = self
            .lease
            .beaten
            .is_none_or(|beaten| beaten.elapsed() >= HEARTBEAT);
        let text = beats.then(|| {
            self.instance.heartbeat(&Standing {
                entries: self.entries.len(),
                last_slot: self.last_slot,
                next_due: self.agenda.next(),
                leader: self.lease.leads,
            })
        });
        let heartbeat = text.as_deref().map(|text| (text, HEARTBEAT_SECONDS));
        let (asked, ahead) = (self.clock.wall(), self.clock.ahead());
        let mut holder = self
            .store
            .keep(&self.instance.id, ahead, LEASE, heartbeat)
            .await?;
        self.heard();
        self.lease.kept = Some(Instant::now());
        if beats {
            self.lease.beaten = self.lease.kept;
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
        self.lease.clock_known = leads || holder.ahead.is_some();
        if leads != self.lease.leads {
            self.lease.leads = leads;
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
            self.lease.beaten = None;
        }
        let leader_ahead = if leads { None } else { holder.ahead };
        if let Some(by) = self.clock.follow(leader_ahead) {
            self.set_clock(
                by,
                "this machine's clock is not that of the beat that sends, which counts",
            );
            self.lease.kept = Some(Instant::now());
        }
        Ok(())
    }

    /// The clock is another one now.
    pub(super) fn set_clock(&mut self, by: Micros, what: &str) {
        let seconds = Duration::from_micros(by.unsigned_abs()).as_secs_f64();
        let direction = if by < 0 { "back" } else { "forward" };
        warn!(seconds, direction, "{what}");
        self.metrics.clock_jumps.inc();
        self.jumped = true;
        self.lease.forget();
        self.reschedule = true;
    }

    pub(super) fn heard(&self) {
        self.metrics.heard.set(self.clock.wall() / 1_000_000);
    }
}
