//! The deliveries this worker holds.
//!
//! Delivery tags begin with the worker's id, so the server's `unacked` tells whose a record is. What this
//! set adds is which of our own records we still know about: one that we do not know was claimed by a script
//! whose answer never arrived.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::DeliveryTag;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashSet<DeliveryTag>>);

impl Held {
    pub(super) fn insert(&self, tag: DeliveryTag) {
        self.lock().insert(tag);
    }

    pub(super) fn extend(&self, tags: impl Iterator<Item = DeliveryTag>) {
        self.lock().extend(tags);
    }

    pub(super) fn remove(&self, tag: &DeliveryTag) {
        self.lock().remove(tag);
    }

    pub(super) fn contains(&self, tag: &DeliveryTag) -> bool {
        self.lock().contains(tag)
    }

    pub(super) fn tags(&self) -> Vec<DeliveryTag> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<DeliveryTag>> {
        // Locked for one set operation, never across an await.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
