//! Jobs on their way through the crate.
//!
//! A task of the crate is built from a message by a plain function, with no place to pass anything along. The
//! job therefore waits in a map, one per process, and the message carries its number.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tradebot_core::engine::{Engine, Job};

/// A job with what it takes to run it.
pub(super) struct Handoff {
    pub(super) engine: Arc<Engine>,
    pub(super) state: Arc<dyn Any + Send + Sync>,
    pub(super) job: Job,
    /// The task's parameters, in the type it declares.
    pub(super) parameters: Box<dyn Any + Send>,
}

/// Where a job waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

static WAITING: Mutex<Option<HashMap<Place, Handoff>>> = Mutex::new(None);

/// Leaves a job to be taken.
pub(super) fn leave(handoff: Handoff) -> Place {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let place = Place(NEXT.fetch_add(1, Ordering::Relaxed));
    // Locked for a map operation only; nothing in it can panic half-way.
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.get_or_insert_default().insert(place, handoff);
    place
}

/// Takes a job, once.
pub(super) fn take(place: Place) -> Option<Handoff> {
    WAITING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_mut()?
        .remove(&place)
}

impl Place {
    /// The text that leads back to the place.
    pub(super) fn to_text(self) -> String {
        self.0.to_string()
    }

    pub(super) fn of_text(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}
