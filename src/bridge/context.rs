//! What a running task can reach: the worker's state, and a way to fail with a typed exception.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use celery::error::TaskError;

use tradebot_core::engine::{Failure, FailureKind};
use tradebot_wire::result::Exception;

tokio::task_local! {
    static CURRENT: Current;
}

/// The surroundings of one running task.
pub(super) struct Current {
    state: Arc<dyn Any + Send + Sync>,
    failure: Mutex<Option<Failure>>,
}

/// Runs a task's future with its surroundings, and returns the typed failure it left, if any.
pub(super) async fn within<T>(
    state: Arc<dyn Any + Send + Sync>,
    run: impl Future<Output = T>,
) -> (T, Option<Failure>) {
    let current = Current {
        state,
        failure: Mutex::default(),
    };
    CURRENT
        .scope(current, async {
            let returned = run.await;
            let failure = CURRENT.with(|current| {
                current
                    .failure
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take()
            });
            (returned, failure)
        })
        .await
}

/// The worker's state of type `S`, as given to [`run`](super::run).
///
/// # Panics
/// Outside a task of this worker, or when the worker was started with another type: both are mistakes in the
/// program, not in its input.
#[must_use]
pub fn state<S: Send + Sync + 'static>() -> Arc<S> {
    let state = CURRENT.with(|current| Arc::clone(&current.state));
    state
        .downcast()
        .unwrap_or_else(|_| panic!("the worker's state is not a {}", std::any::type_name::<S>()))
}

/// Makes the error with which a task fails with `exception`, not to be retried before `retry_after`.
///
/// The crate's error type holds only text; the exception travels beside it.
#[must_use]
pub fn fail(exception: Exception, retry_after: Option<Duration>) -> TaskError {
    let error = TaskError::ExpectedError(exception.line());
    let failure = Failure {
        exception,
        kind: FailureKind::Retryable(retry_after),
    };
    // Outside a task there is nobody to report to, and the text is all there is.
    let _ = CURRENT.try_with(|current| {
        *current.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    });
    error
}
