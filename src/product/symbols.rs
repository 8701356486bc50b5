//! The symbol lists: which symbols, in which order, how they are kept in Redis, and how they are read.
//!
//! [`refresh`] writes: fetch, [`prepare`], guard, [`cache`]. [`reads`] reads, and refreshes where nothing fresh is there.

pub mod cache;
pub mod changes;
mod counts;
pub mod guard;
pub mod list;
pub mod prepare;
pub mod reads;
pub mod refresh;
