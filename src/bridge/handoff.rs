//! Jobs on their way through the crate.
//!
//! The crate builds a task from a message alone. The job therefore waits in a map, one per process, and the message
//! carries its number.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::task_set::TaskSet;
use tradebot_core::engine::{Engine, Job};

/// A job, and everything needed to run it.
pub(super) struct Handoff {
    pub(super) engine: Arc<Engine>,
    pub(super) tasks: Arc<TaskSet>,
    pub(super) state: Arc<dyn Any + Send + Sync>,
    pub(super) job: Job,
    /// The parameters in the task's own type.
    pub(super) parameters: Box<dyn Any + Send>,
}

/// The number of a waiting job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

static WAITING: Mutex<Option<HashMap<Place, Handoff>>> = Mutex::new(None);

/// Stores a job until it is taken.
pub(super) fn leave(handoff: Handoff) -> Place {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let place = Place(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.get_or_insert_default().insert(place, handoff);
    place
}

/// Takes a job. Returns `None` if it was already taken.
pub(super) fn take(place: Place) -> Option<Handoff> {
    WAITING
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .as_mut()?
        .remove(&place)
}

impl Place {
    /// The number as the message carries it.
    pub(super) fn to_text(self) -> String {
        self.0.to_string()
    }

    pub(super) fn of_text(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}
