//! The product: Binance's symbol lists, kept warm in Redis by the tasks of a worker.
//!
//! From the bottom up: `work_durations` (how long work took), [`binance`] (the exchange's client), [`symbols`] (which
//! symbols, and their cache), `credentials` (users' own exchange keys), `tasks` (the warm-ups and what they work with),
//! `fleet` (the state of a deployment in Redis), `http` (the lists for browsers and operators), `doctor` (findings about a
//! deployment). `sandbox` stands in for the exchange and shares nothing with the rest.

pub(crate) mod binance;
#[cfg(feature = "credentials")]
pub(crate) mod credentials;
#[cfg(feature = "worker")]
pub(crate) mod doctor;
#[cfg(feature = "http")]
pub(crate) mod fleet;
#[cfg(feature = "http")]
pub(crate) mod http;
#[cfg(feature = "worker")]
pub(crate) mod sandbox;
pub(crate) mod symbols;
#[cfg(feature = "worker")]
pub(crate) mod tasks;
mod work_durations;
