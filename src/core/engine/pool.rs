//! The number of tasks run at a time, which remote control may change.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// The most tasks that may be run at a time.
const MAX_CONCURRENCY: usize = 10_000;

/// The worker's concurrency slots.
#[derive(Debug)]
pub struct Pool {
    slots: Arc<Semaphore>,
    concurrency: AtomicUsize,
    /// Slots in use that disappear when they are freed, because the pool shrank.
    surplus: AtomicUsize,
    resized: Notify,
}

/// One or all of the worker's concurrency slots; freed when dropped.
#[derive(Debug)]
pub(super) struct Slot(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Pool {
    /// A pool of `concurrency` free slots.
    pub(super) fn new(concurrency: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(concurrency)),
            concurrency: AtomicUsize::new(concurrency),
            surplus: AtomicUsize::new(0),
            resized: Notify::new(),
        }
    }

    /// Whether every slot is in use.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.slots.available_permits() == 0
    }

    /// How many tasks may run at a time.
    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.concurrency.load(Ordering::Relaxed)
    }

    /// Adds `more` slots, up to a bound; returns how many there are now.
    pub fn grow(&self, more: usize) -> usize {
        let now = self.concurrency();
        let wanted = now.saturating_add(more).min(MAX_CONCURRENCY);
        self.concurrency.store(wanted, Ordering::Relaxed);
        for _ in now..wanted {
            // Keep a surplus slot instead of adding one.
            if !self.drop_surplus() {
                self.slots.add_permits(1);
            }
        }
        self.resized.notify_waiters();
        wanted
    }

    /// Removes `fewer` slots, but always leaves one; returns how many there are now. Running tasks finish first: a slot
    /// in use disappears when its task ends.
    pub fn shrink(&self, fewer: usize) -> usize {
        let now = self.concurrency();
        let wanted = now.saturating_sub(fewer).max(1);
        self.concurrency.store(wanted, Ordering::Relaxed);
        let taken = self.slots.forget_permits(now - wanted);
        self.surplus.fetch_add(now - wanted - taken, Ordering::Relaxed);
        self.resized.notify_waiters();
        wanted
    }

    /// Waits until nothing runs, and takes every slot.
    pub(super) async fn all_slots(&self) -> Option<Slot> {
        loop {
            // Register before reading the number, so that no resize is missed.
            let changed = self.resized.notified();
            let all = self.concurrency() + self.surplus.load(Ordering::Relaxed);
            let all = u32::try_from(all).unwrap_or(u32::MAX);
            tokio::select! {
                slots = Arc::clone(&self.slots).acquire_many_owned(all) => return slots.ok().map(Slot),
                () = changed => {}
            }
        }
    }

    /// Waits for a slot. `None` means that the pool was closed, which never happens.
    pub(super) async fn slot(&self) -> Option<Slot> {
        loop {
            let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
            if !self.drop_surplus() {
                return Some(Slot(slot));
            }
            slot.forget();
        }
    }

    /// Takes a slot if one is free.
    pub(super) fn slot_now(&self) -> Option<Slot> {
        loop {
            let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
            if !self.drop_surplus() {
                return Some(Slot(slot));
            }
            slot.forget();
        }
    }

    /// Takes one off the surplus, if there is any.
    fn drop_surplus(&self) -> bool {
        if self.surplus.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let one_less = |surplus: usize| surplus.checked_sub(1);
        self.surplus
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_ok()
    }
}
