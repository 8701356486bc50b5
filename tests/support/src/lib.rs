//! Starts the real servers, workers and Python clients that the tests run against.
//!
//! Nothing in here knows the crate under test. A test starts what it needs, points the binary at it
//! through environment variables, and everything ends with the variable that holds it:
//!
//! ```text
//!                       REDIS_URL                    BINANCE_SPOT_BASE_URL
//!   RedisServer <--- ChaosProxy <--- Process("tradebot-symbols") ---> ScriptedExchange
//!        ^           cut, freeze,        |                            one queue of replies
//!        |           delay, reset        | stdout and stderr          a path, every request
//!        |                               v                            recorded
//!        |                       wait_for_line("ready")                     ^
//!        |                                                                  |
//!        +--- Python::CELERY_5_5_2.script("send.py", …)            captures(): bodies that
//!        +--- Python::CELERY_NEWEST.celery(&["worker"], …)         the exchange really sent
//! ```
//!
//! Four rules hold throughout:
//!
//! * A missing server, binary or virtual environment fails the test and says what to install or run.
//!   Only the captured exchange answers may be absent; that is said on stderr.
//! * Servers get a free port and a temporary directory of their own, so tests run side by side.
//! * [`ScriptedExchange`] and [`ChaosProxy`] run on threads of their own. A test may therefore block
//!   (in [`Process::wait_for_line`], in [`Python::script`]) on a single-threaded runtime and they still answer.
//! * Every wait goes through [`stretched`], so `TEST_PATIENCE=3` makes a slow machine's tests patient.

#![expect(
    clippy::disallowed_methods,
    reason = "a harness reads its own switches from the environment and waits for real processes"
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
