//! The product: Binance's symbol lists, kept warm in Redis by the tasks of a worker.
//!
//! From the bottom up: [`binance`] (the exchange's client), [`symbols`] (which symbols, and their cache),
//! `credentials` (users' own exchange keys), `tasks` (the warm-ups and what they work with), `fleet` (the state of a
//! deployment in Redis), `http` (the lists for browsers and operators), `doctor` (findings about a deployment). `sandbox`
//! stands in for the exchange and shares nothing with the rest.

pub mod binance;
#[cfg(feature = "credentials")]
pub mod credentials;
#[cfg(feature = "worker")]
pub mod doctor;
#[cfg(feature = "http")]
pub mod fleet;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "worker")]
pub mod sandbox;
pub mod symbols;
#[cfg(feature = "worker")]
pub mod tasks;
