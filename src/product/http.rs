//! The optional HTTP endpoint: the two symbol routes of the existing system and `/health`, answered as it answers
//! them, only faster and never without the last good list; and what an operator wants to see.
//!
//! From the bottom up: sockets, and what they can do without hyper, [`server`] (connections, their limits, the stop),
//! what of a request decides about its answer, bodies in every coding, the list answers, and [`endpoint`] (the routes).
//! Nothing here knows where a list comes from: that is [`symbols::reads`](crate::product::symbols::reads)'s, or for
//! users with a key of their own [`credentials`](crate::product::credentials)'s.

mod answers;
pub mod cors;
pub mod endpoint;
pub mod lists;
mod metrics;
mod negotiation;
mod own;
mod page;
mod parts;
mod query;
mod representation;
mod routes;
pub mod run;
pub mod server;
pub mod site;
mod socket;
mod traces;
mod watch;

pub use watch::Patience;
