//! What is served, as the server knows it: requests go to a [`Site`], answers come from it.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode};

/// An answer. Its body is always there as a whole.
pub type Answer = Response<Full<Bytes>>;

/// What is served.
pub trait Site: Send + Sync + 'static {
    /// Answers a request without a body.
    fn respond(self: &Arc<Self>, request: Request<()>) -> Reply;

    /// The answer to a request that the server itself refuses.
    fn refuse(&self, status: StatusCode) -> Answer;
}

/// An answer that is there, or that has to be waited for.
pub enum Reply {
    /// There.
    Now(Answer),
    /// Being made.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}
