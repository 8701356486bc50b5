//! The exchange's public symbol lists, and whether it accepts a user's key.
//!
//! [`client`] fetches, [`exchange_info`] reads. Secrets are at hand in [`signed`] alone.

mod bans;
pub mod client;
pub mod error;
pub mod exchange_info;
mod headers;
pub mod signed;
pub mod skew;
