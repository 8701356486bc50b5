//! The service hyper calls for each request of a connection: it enforces the limits and asks the [`Handler`].

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::Either;
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::service::Service;
use hyper::{Request, StatusCode, Version};
use tokio::time::timeout;

use super::HttpLimits;
use super::activity::ConnectionActivity;
use super::handler::{Handled, Handler, HttpResponse};

/// A handler behind one connection.
pub(super) struct ConnectionService<H> {
    pub(super) handler: Arc<H>,
    pub(super) activity: Arc<ConnectionActivity>,
    pub(super) limits: HttpLimits,
}

type ServiceResult = Result<HttpResponse, Infallible>;

impl<H: Handler> Service<Request<Incoming>> for ConnectionService<H> {
    type Response = HttpResponse;
    type Error = Infallible;
    /// A response that is ready costs no allocation.
    type Future = Either<Ready<ServiceResult>, Pin<Box<dyn Future<Output = ServiceResult> + Send>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.activity
            .request_arrived(request.version() == Version::HTTP_2);
        let handled = if !host_is_valid(&request) {
            Handled::Ready(self.handler.reject(StatusCode::BAD_REQUEST))
        } else if request.body().is_end_stream() {
            self.handler.handle(request.map(drop))
        } else {
            let handler = Arc::clone(&self.handler);
            Handled::Pending(Box::pin(drop_body(handler, request, self.limits.body_bytes)))
        };
        match handled {
            Handled::Ready(response) => Either::Left(ready(Ok(response))),
            Handled::Pending(response) => {
                let (handler, limit) = (Arc::clone(&self.handler), self.limits.request);
                let in_flight = InFlightGuard::new(Arc::clone(&self.activity));
                Either::Right(Box::pin(async move {
                    let _in_flight = in_flight;
                    let response = timeout(limit, response).await;
                    Ok(response.unwrap_or_else(|_| handler.reject(StatusCode::GATEWAY_TIMEOUT)))
                }))
            }
        }
    }
}

/// Whether a request names one valid host, as HTTP/1.1 requires (RFC 9112, 3.2). Other versions may name none.
fn host_is_valid<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        return request.version() != Version::HTTP_11;
    };
    let valid = host.is_empty()
        || Authority::try_from(host.as_bytes()).is_ok_and(|authority| {
            let port = authority.as_str().strip_prefix(authority.host());
            port.is_some_and(|port| {
                port.strip_prefix(':')
                    .unwrap_or(port)
                    .bytes()
                    .all(|digit| digit.is_ascii_digit())
            })
        });
    valid && hosts.next().is_none()
}

/// Handles a request with a body. No route uses one: a body within `limit` is read and dropped.
async fn drop_body<H: Handler>(handler: Arc<H>, request: Request<Incoming>, limit: usize) -> HttpResponse {
    let (head, mut body) = request.into_parts();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    let mut read = body.size_hint().lower();
    if read <= limit {
        read = 0;
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => read += frame.data_ref().map_or(0, |data| data.len() as u64),
                Err(_) => return handler.reject(StatusCode::BAD_REQUEST),
            }
            if read > limit {
                break;
            }
        }
    }
    if read > limit {
        return handler.reject(StatusCode::PAYLOAD_TOO_LARGE);
    }
    match handler.handle(Request::from_parts(head, ())) {
        Handled::Ready(response) => response,
        Handled::Pending(response) => response.await,
    }
}

/// Counts a request as in flight while it exists.
struct InFlightGuard(Arc<ConnectionActivity>);

impl InFlightGuard {
    fn new(activity: Arc<ConnectionActivity>) -> Self {
        activity.begin_request();
        Self(activity)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.end_request();
    }
}
