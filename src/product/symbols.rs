//! The symbol lists: which symbols, in which order, and how they are kept in Redis.

pub mod cache;
pub mod prepare;
pub mod refresh;
