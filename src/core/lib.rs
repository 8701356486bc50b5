//! A Celery worker on Redis that knows nothing of rusty-celery and nothing of symbol lists. Its tests need Redis alone.
//!
//! From the bottom up: [`transport`] (kombu's queues), [`results`] (the result backend, with chords), [`events`],
//! [`engine`] (claims messages, has them run, settles them) and [`control`] (remote control and `celery inspect`).
//! What goes over the wire is [`wire`], a crate of its own that does no I/O.

pub mod control;
pub mod engine;
pub mod events;
pub mod results;
pub mod trace;
pub mod transport;

pub use tradebot_wire as wire;
