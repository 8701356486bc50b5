//! The exchange's public symbol lists.
//!
//! [`client`] fetches, [`exchange_info`] reads. Only public calls are made here, so no secret is at hand.

pub mod client;
pub mod error;
pub mod exchange_info;
