//! Responses to requests: routes, lists in every coding, negotiation, filters and CORS.

pub(super) mod cors;
pub(super) mod filtered_lists;
pub(super) mod lists;
mod negotiation;
pub(super) mod private_list;
pub(super) mod query;
pub(crate) mod representation;
pub(super) mod responses;
pub(super) mod routes;
pub(super) mod traces;
