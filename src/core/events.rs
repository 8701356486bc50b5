//! Events: what a worker tells whoever watches it (`celery events`, Flower, the gossip of other workers).

mod switch;

pub use switch::Switch;

use std::sync::Arc;

use crate::core::lamport::LamportClock;

/// The events of one worker.
#[derive(Debug)]
pub struct Events {
    switch: Switch,
    lamport: Arc<LamportClock>,
}

impl Events {
    /// The events of a worker that sends task events from its start, or only once somebody asks for them.
    #[must_use]
    pub fn new(task_events: bool) -> Self {
        Self {
            switch: Switch::new(task_events),
            lamport: Arc::default(),
        }
    }

    /// Whether task events are sent.
    #[must_use]
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// The clock that every event and every answer to remote control carries.
    #[must_use]
    pub fn lamport(&self) -> &Arc<LamportClock> {
        &self.lamport
    }
}
