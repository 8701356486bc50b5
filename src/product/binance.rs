//! The Binance client: public symbol lists, and a check whether a user's API key is accepted.
//!
//! [`client`] fetches, [`exchange_info`] parses. Only `signed` handles secrets.

pub(crate) mod bans;
mod body;
pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod exchange_info;
mod headers;
#[cfg(feature = "credentials")]
pub(crate) mod signed;
pub(crate) mod skew;
