//! A Celery-compatible worker on Redis that keeps Binance's symbol lists warm.
//!
//! # Map
//! Three floors, each using only those below it:
//! - [`core`]: a Celery worker on Redis that knows nothing of rusty-celery: messages, queues, results,
//!   retries, canvas, and the engine that ties them together.
//! - [`bridge`]: the only module that imports rusty-celery. It puts the engine under that crate's task macro,
//!   typed tasks and dispatch.
//! - [`product`]: the exchange client, the symbol cache, users' own exchange keys, the tasks, the HTTP endpoint, and the
//!   sandbox.
//!
//! [`worker`] puts any set of tasks on the engine; [`cli`] is the entrance; [`config`], [`market`] and [`telemetry`] are used on every floor above the core.
//! Without the feature `worker` only the core and these three are built: that is what `tradebot-beat` uses.
//!
//! # Four walks
//! *One task.* [`core::engine`]'s consumer claims a message (`core::transport::Transport::claim`), reads it
//! (`core::wire::envelope`) and sends it through `bridge::stream` to rusty-celery's loop, which runs
//! `bridge::managed`. That has [`core::engine::Engine::execute`] run the real function, here
//! `product::tasks::warmup`, and settle the outcome: result, follow-up messages and acknowledgement in one
//! script.
//!
//! *One refresh.* The warm-up calls `product::symbols::refresh::Refresher::refresh`: fetch
//! (`product::binance::client`), read (`exchange_info`), filter and sort
//! (`product::symbols::prepare`), compare with the list in place (`guard`), write all keys and the change at once
//! (`cache`).
//!
//! *One read.* `product::symbols::reads::SymbolReads::peek` takes the list that `reads::tracking` keeps as Redis has it.
//! Where there is none, or it is past its lifetime, `reads::flight` refreshes it, once for all who want it.
//!
//! *One read over HTTP.* A thread of `product::http::server` reads a request and asks `http::router`, which peeks.
//! `http::answers::lists` hands out the bytes and headers it made when the list came. Only where nothing is in memory anybody
//! waits, for `SymbolReads::read`.
//!
//! *One beat tick.* `tradebot-beat` wakes when an entry is due, decides which slots are to be sent, makes their messages
//! (`core::wire::task_message`), and takes slots and pushes messages in one script.

#[cfg(feature = "worker")]
pub mod bridge;
#[cfg(feature = "worker")]
pub mod cli;
#[cfg(feature = "reads")]
pub mod config;
#[cfg(feature = "reads")]
pub mod product;
#[cfg(feature = "worker")]
pub mod worker;
