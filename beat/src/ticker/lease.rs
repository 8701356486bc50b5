//! The lease: which beat leads, by which clock, and the heartbeat each beat writes.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};
use tradebot_base::connection::RedisTrouble;

use super::Ticker;
use crate::running::{HEARTBEAT_INTERVAL, Status};
use crate::slots::Micros;

/// How long the lease outlives its last renewal, by the server's clock.
const LEASE: Duration = Duration::from_secs(5);
/// How often a beat renews the lease or asks for it, and checks its clock.
const RENEWAL: Duration = Duration::from_millis(1500);
/// How long a follower leaves a due slot to the leader, in microseconds. Each beat draws its own, so that not all
/// followers step in at once.
const PATIENCE: std::ops::Range<Micros> = 300_000..600_000;

/// What a beat knows of the lease.
pub(super) struct LeaderLease {
    /// This beat holds it.
    pub(super) leads: bool,
    patience: Micros,
    renewed_at: Option<Instant>,
    heartbeat_at: Option<Instant>,
    /// This beat leads, or knows the leader's clock.
    pub(super) clock_known: bool,
}

impl LeaderLease {
    pub(super) fn new(rng: &mut fastrand::Rng) -> Self {
        Self {
            leads: false,
            patience: rng.i64(PATIENCE),
            renewed_at: None,
            heartbeat_at: None,
            clock_known: false,
        }
    }

    /// How long this beat leaves a due slot to the leader.
    pub(super) fn patience(&self) -> Micros {
        if self.leads { 0 } else { self.patience }
    }

    pub(super) fn until_renewal(&self) -> Duration {
        self.renewed_at
            .map_or(Duration::ZERO, |at| RENEWAL.saturating_sub(at.elapsed()))
    }

    /// Makes the next turn renew the lease.
    pub(super) fn renew_soon(&mut self) {
        self.renewed_at = None;
    }
}

impl Ticker {
    /// Asks for the lease or renews it, follows the leader's clock, and writes the heartbeat when it is time.
    pub(super) async fn renew_lease(&mut self) -> Result<(), RedisTrouble> {
        if self.instance.dry_run {
            self.lease.leads = true;
            self.lease.renewed_at = Some(Instant::now());
            return Ok(());
        }
        let heartbeat = self.heartbeat_if_due();
        let (asked_at, ahead) = (self.clock.wall(), self.clock.ahead());
        let mut holder = self
            .store
            .renew_lease(&self.instance.id, ahead, LEASE, heartbeat.as_deref())
            .await?;
        self.broker_answered();
        self.lease.renewed_at = Some(Instant::now());
        if heartbeat.is_some() {
            self.lease.heartbeat_at = self.lease.renewed_at;
        }
        self.clock.compare(asked_at, holder.server_time);
        let leads = holder.instance == self.instance.id;
        if leads && ahead.is_none() && self.clock.ahead().is_some() {
            // Followers send nothing until they know the leader's clock: publish it at once.
            holder = self
                .store
                .renew_lease(&self.instance.id, self.clock.ahead(), LEASE, None)
                .await?;
        }
        self.lease.clock_known = leads || holder.ahead.is_some();
        self.note_leader(leads, &holder.instance);
        let leader_ahead = if leads { None } else { holder.ahead };
        if let Some(by) = self.clock.follow(leader_ahead) {
            self.clock_changed(by, "this machine's clock differs from the leader's, which counts");
            self.lease.renewed_at = Some(Instant::now());
        }
        Ok(())
    }

    fn heartbeat_if_due(&self) -> Option<String> {
        let heartbeat_at = self.lease.heartbeat_at;
        let due = heartbeat_at.is_none_or(|at| at.elapsed() >= HEARTBEAT_INTERVAL);
        due.then(|| {
            self.instance.heartbeat(&Status {
                entries: self.entries.len(),
                last_slot: self.last_slot,
                next_due: self.agenda.next(),
                leader: self.lease.leads,
            })
        })
    }

    fn note_leader(&mut self, leads: bool, leader: &str) {
        if leads == self.lease.leads {
            return;
        }
        self.lease.leads = leads;
        self.metrics.leader.set(leads.into());
        let what = if leads {
            "this beat leads"
        } else {
            "another beat leads"
        };
        info!(leader, "{what}");
        // The heartbeat says who leads: write it with the next renewal.
        self.lease.heartbeat_at = None;
    }

    /// Starts over with a clock that has changed by `by`.
    pub(super) fn clock_changed(&mut self, by: Micros, what: &str) {
        let seconds = Duration::from_micros(by.unsigned_abs()).as_secs_f64();
        let direction = if by < 0 { "back" } else { "forward" };
        warn!(seconds, direction, "{what}");
        self.metrics.clock_jumps.inc();
        self.clock_jumped = true;
        self.lease.renew_soon();
        self.reschedule = true;
    }

    pub(super) fn broker_answered(&self) {
        self.metrics.broker_answered_at(self.clock.wall());
    }
}
