//! The bridge to rusty-celery (the crate `celery`): the only module that imports it.
//!
//! The crate contributes the `#[celery::task]` macro, typed tasks, dispatch by name and the loop that spawns them. All
//! observable behavior is [`tradebot_core::engine`]'s: the crate gets a message only when it is time to run it, without
//! `eta`, `expires`, limits and embedded signatures, and its own decisions (acknowledge, retry) are ignored. The path of
//! one delivery:
//!
//! 1. the engine's consumer sends a `Job` into the channel that `stream` reads;
//! 2. the stream checks the arguments, stores the job in `handoff` under a number and gives the crate a `delivery` with
//!    that number as its `correlation_id`;
//! 3. the crate finds the task by name and runs `managed::Managed`, which takes the job from the handoff and lets the
//!    engine execute the real task;
//! 4. if the crate drops a delivery without running it, the job returns to the engine.
//!
//! The crate's own Redis broker is not used: it loses messages.

mod app;
mod broker;
mod builtins;
mod context;
mod delivery;
mod handoff;
mod local_calls;
mod managed;
mod stream;
mod task_set;

pub use app::BridgeError;
pub(crate) use app::run;
pub use context::{Retry, current, fail, ignore, reject, replace, retry, state};
pub use task_set::{TaskOptions, TaskSet};

/// The return type of task functions.
pub use celery::task::TaskResult;

/// The attribute that turns a function into a task. It expands to paths of the crate.
pub use celery::task;
