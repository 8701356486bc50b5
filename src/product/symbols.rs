//! The symbol lists: what they contain, in which order, how Redis stores them, and how they are read.
//!
//! [`refresh`] fetches a list, [`prepare`]s it, checks it with [`guard`] and writes it to [`cache`]. [`reads`] reads lists, and
//! refreshes them if none is fresh.
//! [`changes`] lists what refreshes changed. Processes coordinate through Redis keys: the refresh lease, the held-back list,
//! and the exchange's pauses.

pub(crate) mod all_symbols;
pub mod blocking;
pub(crate) mod cache;
pub(crate) mod changes;
mod counts;
pub(crate) mod guard;
pub(crate) mod list;
pub(crate) mod prepare;
pub(crate) mod reads;
pub(crate) mod refresh;
