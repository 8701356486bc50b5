//! The tasks of this worker.

pub mod warmup;

use crate::bridge::TaskSet;
use crate::product::symbols::refresh::Refresher;

/// What the tasks work with: the worker's state.
pub struct Context {
    /// Refreshes the lists.
    pub refresher: Refresher,
}

/// All tasks of the worker.
#[must_use]
pub fn task_set() -> TaskSet {
    TaskSet::new()
        .with::<warmup::warmup_spot_symbols_cache>()
        .with::<warmup::warmup_futures_symbols_cache>()
}
