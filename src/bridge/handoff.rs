//! Jobs on their way through the crate, found again by delivery tag.
//!
//! A task of the crate is built from a message by a plain function, with no place to pass anything along.
//! The map is therefore one per process; tags are unique per process, so several workers in one test do not
//! meet in it.

use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::engine::{Engine, Job};

/// A job with what it takes to run it.
pub(super) struct Handoff {
    pub(super) engine: Arc<Engine>,
    pub(super) state: Arc<dyn Any + Send + Sync>,
    pub(super) job: Job,
}

static WAITING: Mutex<Option<HashMap<String, Handoff>>> = Mutex::new(None);

/// Leaves a job to be taken.
pub(super) fn leave(handoff: Handoff) {
    // Locked for a map operation only; nothing in it can panic half-way.
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting
        .get_or_insert_default()
        .insert(handoff.job.tag.0.clone(), handoff);
}

/// Takes a job, once.
pub(super) fn take(tag: &str) -> Option<Handoff> {
    WAITING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_mut()?
        .remove(tag)
}
