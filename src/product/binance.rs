//! The Binance client: public symbol lists, and a check whether a user's API key is accepted.
//!
//! [`client`] fetches, [`exchange_info`] parses. Only `signed` handles secrets.

mod bans;
mod body;
pub mod client;
pub mod error;
pub mod exchange_info;
mod headers;
#[cfg(feature = "credentials")]
pub mod signed;
pub mod skew;
