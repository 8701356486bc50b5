//! The boundary between server and routes: the server hands requests to a [`Handler`] and sends what it returns.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode};

/// A response whose body is complete before it is sent.
pub(crate) type HttpResponse = Response<Full<Bytes>>;

/// Answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers a request that has no body, or whose body was read and dropped.
    fn handle(self: &Arc<Self>, request: Request<()>) -> Handled;

    /// The response to a request that the server rejects itself.
    fn reject(&self, status: StatusCode) -> HttpResponse;
}

/// A response, or the future that makes it.
pub(crate) enum Handled {
    /// Ready to send.
    Ready(HttpResponse),
    /// Still being made.
    Pending(Pin<Box<dyn Future<Output = HttpResponse> + Send>>),
}
