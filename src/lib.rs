//! A Celery-compatible worker on Redis that keeps Binance's symbol lists warm.
//!
//! # Map
//! Each layer uses only those above it in this list:
//! - `tradebot_base`: settings, Redis connections, logs, clock and lifecycle.
//! - `tradebot_wire`: Celery's messages, results, keys and canvas, without I/O.
//! - `tradebot_core`: a Celery worker on Redis, independent of rusty-celery: transport, results, retries, remote control,
//!   and the engine.
//! - `bridge`: the only module that imports rusty-celery. It runs that crate's task macro, typed tasks and dispatch on
//!   the engine.
//! - [`worker`]: puts any set of tasks on the engine. `config` holds the settings.
//! - `product`: the exchange client, the symbol cache, users' exchange keys, the tasks, the HTTP endpoint, the doctor and
//!   the sandbox.
//! - `cli`: the command line.
//!
//! The feature `reads` builds `config` and the reading half of `product` alone. `tradebot-beat` uses the first three
//! layers.
//!
//! # What other programs use
//! [`symbols`] reads the lists, async and blocking. [`worker`] runs a worker with your tasks. [`client`] sends tasks and waits
//! for their results. Everything else is private and may change at any time.
//!
//! # Walks through the code
//! *A task.* The engine's consumer claims a message (`tradebot_core::transport`), parses it (`tradebot_wire::envelope`)
//! and sends it through `bridge::stream` to rusty-celery's loop, which runs `bridge::managed`. That calls
//! `Engine::execute`, which runs the real function, here `product::tasks::warmup`, and settles the outcome: result,
//! follow-up messages and acknowledgement in one script.
//!
//! *A refresh.* The warm-up calls `product::symbols::refresh::Refresher::refresh`: fetch (`product::binance::client`),
//! parse (`exchange_info`), filter and sort (`product::symbols::prepare`), compare with the stored list (`guard`), write
//! all keys and the change in one script (`cache`).
//!
//! *A read.* `product::symbols::reads::SymbolReads::peek` returns the list that `reads::tracking` keeps in step with
//! Redis. If it is missing or expired, `reads::single_flight` refreshes it once for all readers.
//!
//! *A read over HTTP.* A thread of `product::http::server` parses a request and calls `http::router`, which peeks.
//! `http::answers::lists` returns bytes and headers prepared when the list arrived. If no list is in memory, the request
//! waits for `SymbolReads::read`.
//!
//! *A beat tick.* `tradebot-beat` wakes when an entry is due, decides which slots to send, builds their messages
//! (`tradebot_wire::task_message`), and claims the slots and pushes the messages in one script.

#![cfg_attr(
    all(feature = "reads", not(feature = "worker")),
    expect(
        dead_code,
        unreachable_pub,
        reason = "the smaller features use parts of the modules they share"
    )
)]

#[cfg(feature = "worker")]
mod bridge;
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "reads")]
mod config;
#[cfg(feature = "reads")]
mod product;
#[cfg(feature = "reads")]
pub mod symbols;
#[cfg(feature = "worker")]
pub mod worker;

/// What the tests of this repository reach into. Not part of the interface.
#[cfg(feature = "worker")]
#[doc(hidden)]
pub mod internals {
    pub use crate::config::{BinanceConfig, SymbolsConfig};
    pub use crate::product::binance::client::Client;
    pub use crate::product::binance::signed::ApiKey;
    pub use crate::product::credentials::outcome::{Fallback, UserList};
    pub use crate::product::credentials::settings::CredentialSettings;
    pub use crate::product::credentials::user_lists::UserLists;
    pub use crate::product::doctor::KINDS;
    pub use crate::product::symbols::cache::CacheKeys;
}
