//! A Celery worker on Redis, independent of rusty-celery and of symbol lists. Its tests need only Redis.
//!
//! From the bottom up: [`transport`] (kombu's queues), [`results`] (the result backend, with chords), [`events`],
//! [`engine`] (claims messages, runs them, settles them) and [`control`] (remote control and `celery inspect`).
//! The separate crate [`wire`] holds the wire formats and does no I/O.

pub mod client;
pub mod control;
pub mod engine;
pub mod events;
pub mod results;
pub mod trace;
pub mod transport;

pub use tradebot_wire as wire;
