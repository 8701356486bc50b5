//! The number of tasks run at a time, which remote control may change.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedSemaphorePermit;

use super::Engine;

/// The most tasks that may be run at a time.
const MAX_CONCURRENCY: usize = 10_000;

impl Engine {
    /// Tasks run at a time, at most.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.concurrency.load(Ordering::Relaxed)
    }

    /// Allows `more` tasks at a time; returns how many now.
    pub fn grow(&self, more: usize) -> usize {
        let now = self.concurrency();
        let wanted = now.saturating_add(more).min(MAX_CONCURRENCY);
        self.concurrency.store(wanted, Ordering::Relaxed);
        for _ in now..wanted {
            // A slot that is to be given up is kept instead.
            if !self.give_up_one() {
                self.slots.add_permits(1);
            }
        }
        self.pool_changed.notify_waiters();
        wanted
    }

    /// Allows `fewer` tasks at a time, but always one; returns how many now. Tasks that run are not ended for it:
    /// what cannot be taken away now is when they end.
    pub fn shrink(&self, fewer: usize) -> usize {
        let now = self.concurrency();
        let wanted = now.saturating_sub(fewer).max(1);
        self.concurrency.store(wanted, Ordering::Relaxed);
        let taken = self.slots.forget_permits(now - wanted);
        self.too_many.fetch_add(now - wanted - taken, Ordering::Relaxed);
        self.pool_changed.notify_waiters();
        wanted
    }

    /// Waits until nothing else runs, and takes all slots there are.
    pub(super) async fn all_slots(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            // Registered before the number is read, so that no change of it is missed.
            let changed = self.pool_changed.notified();
            let all = self.concurrency() + self.too_many.load(Ordering::Relaxed);
            let all = u32::try_from(all).unwrap_or(u32::MAX);
            tokio::select! {
                slots = Arc::clone(&self.slots).acquire_many_owned(all) => return slots.ok(),
                () = changed => {}
            }
        }
    }

    /// Waits for a slot; `None` never, as nobody closes them.
    pub(super) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
            if !self.give_up_one() {
                return Some(slot);
            }
            slot.forget();
        }
    }

    /// Takes a slot that is free now.
    pub(super) fn slot_now(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
            if !self.give_up_one() {
                return Some(slot);
            }
            slot.forget();
        }
    }

    /// Whether one slot of those that exist is too many; it is not from then on.
    fn give_up_one(&self) -> bool {
        if self.too_many.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let one_less = |too_many: usize| too_many.checked_sub(1);
        self.too_many
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }
}
