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
    /// What the site wants to know of an answer to tell whether it still holds.
    type Lasting: Send + Unpin + 'static;

    /// Answers a request without a body.
    fn respond(self: Arc<Self>, request: Request<()>) -> Reply<Self::Lasting>;

    /// Whether the answer is still right for the same request, its `Date` included. If so that request counts as
    /// answered.
    fn answer_again(&self, lasting: &Self::Lasting) -> bool;

    /// The answer to a request that the server itself refuses.
    fn refuse(&self, status: StatusCode) -> Answer;
}

/// An answer that is there, or that has to be waited for.
pub enum Reply<L> {
    /// There.
    Now(Answer),
    /// There, and it may be given again for as long as [`Site::answer_again`] allows.
    Lasting(Answer, L),
    /// Being made.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}
