//! The foundation of all programs of this workspace: settings, Redis connections, logs and spans, clock, secrets, backoff,
//! start and stop.
//!
//! It depends on neither Celery's messages nor the exchange's lists.

pub mod backoff;
pub mod clock;
pub mod config;
pub mod connection;
pub mod env_file;
mod error_chain;
pub mod exposition;
pub mod failpoint;
pub mod lifecycle;
pub mod loopback;
#[cfg(feature = "manual")]
pub mod manual;
pub mod market;
pub mod node;
pub mod process;
pub mod random;
pub mod said;
pub mod secret;
pub mod telemetry;
pub mod text;
pub mod trace;

pub use error_chain::error_chain;
