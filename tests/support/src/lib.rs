//! Starts the real servers, workers and Python clients that the tests run against.
//!
//! This crate does not know the crate under test. A test starts what it needs and points the binary at it through
//! environment variables. Everything stops when the variable that holds it is dropped:
//!
//! ```text
//!                       REDIS_URL                    BINANCE_SPOT_BASE_URL
//!   RedisServer <--- ChaosProxy <--- Process("tradebot-symbols") ---> ScriptedExchange
//!        ^           cut, freeze,        |                            one queue of replies
//!        |           delay, reset,       | stdout and stderr          a path, every request
//!        |           silence             v                            recorded
//!        |                       wait_for_line("ready")                     ^
//!        |                                                                  |
//!        +--- Python::CELERY_5_5_2.script("send.py", …)            captures(): bodies that
//!        +--- Python::CELERY_NEWEST.celery(&["worker"], …)         the exchange really sent
//! ```
//!
//! Five rules hold throughout:
//!
//! * A missing server, binary or virtual environment fails the test with what to install or run. Only the captured
//!   exchange answers are optional; without them a line on stderr says so.
//! * Each server gets a free port and a temporary directory, so tests run side by side.
//! * [`ScriptedExchange`] and [`ChaosProxy`] run on separate threads. They answer even while a test blocks a
//!   single-threaded runtime, in [`Process::wait_for_line`] or [`Python::script`].
//! * Every wait and every time limit goes through [`stretched`]: `TEST_PATIENCE=3` triples them for a slow machine.
//! * Random tests draw from [`seeded_rng`]: a failure prints its seed, and `TEST_SEED` repeats it.

#![expect(
    clippy::disallowed_methods,
    reason = "the harness reads its switches from the environment and waits for real processes"
)]

mod accounts;
mod background;
mod captures;
mod chance;
mod chaos_proxy;
mod eventually;
mod exchange;
mod output;
mod port;
mod postgres;
mod process;
mod python;
mod redis_server;
mod reply;

pub use captures::{Capture, Captures, Market, captures};
pub use chance::seeded_rng;
pub use chaos_proxy::ChaosProxy;
pub use eventually::{eventually, stretched};
pub use exchange::{Request, ScriptedExchange};
pub use port::free_port;
pub use postgres::{Database, PostgresServer};
pub use process::{Process, ProcessBuilder, Signal, bin};
pub use python::Python;
pub use redis_server::RedisServer;
pub use reply::Reply;
