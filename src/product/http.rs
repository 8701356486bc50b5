//! The optional HTTP endpoint: the two symbol routes and `/health` of the Python backend, and what an operator needs.
//!
//! From the bottom up: [`server`] (sockets, connections, limits, the stop), `answers` (routes, lists, negotiation, CORS),
//! `ops` (metrics and the status page), [`router`] (which route makes which response), and [`run`] (settings, start and
//! end). None of them knows where a list comes from: [`symbols::reads`](crate::product::symbols::reads) does, and
//! [`credentials`](crate::product::credentials) for users with their own keys.

mod answers;
mod ops;
pub(crate) mod router;
pub(crate) mod run;
pub(crate) mod server;
