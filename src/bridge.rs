//! The bridge to rusty-celery (the crate `celery`): the only module that imports it.
//!
//! The crate contributes the `#[celery::task]` macro, typed tasks, dispatch by name and the loop that spawns
//! them. Everything that could be observed from outside is decided by [`tradebot_core::engine`]: the crate is
//! given a message only when it is to run now, with its `eta`, `expires`, limits and embedded signatures
//! taken out, and what it decides afterwards (acknowledge, retry) is ignored. How one delivery passes:
//!
//! 1. the engine's consumer sends a `Job` into the channel that `stream` reads;
//! 2. the stream checks the arguments, leaves the job in `handoff` under its delivery tag and gives the
//!    crate a `delivery` whose `correlation_id` is that tag;
//! 3. the crate finds the task by name and runs `managed::Managed`, which takes the job out of the handoff
//!    and has the engine execute the real task's future;
//! 4. a delivery that the crate drops without having run it is handed back.
//!
//! The crate's own Redis broker never carries a message. It loses them.

mod app;
mod broker;
mod context;
mod delivery;
mod handoff;
mod managed;
mod stream;
mod task_set;

pub use app::{BridgeError, run};
pub use context::{fail, state};
pub use task_set::TaskSet;

/// What a task function of this worker returns.
pub use celery::task::TaskResult;

/// The attribute that makes a task out of a function; it expands to paths of the crate.
pub use celery::task;
