//! The context of a running task: the worker's state, and a typed exception to fail with.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use celery::error::TaskError;

use tradebot_core::engine::{Failure, FailureKind};
use tradebot_wire::result::Exception;

tokio::task_local! {
    static CURRENT: TaskContext;
}

/// The context of one running task.
pub(super) struct TaskContext {
    state: Arc<dyn Any + Send + Sync>,
    failure: Mutex<Option<Failure>>,
}

/// Runs a task's future in its context. Also returns the typed failure, if the task left one.
pub(super) async fn within<T>(
    state: Arc<dyn Any + Send + Sync>,
    run: impl Future<Output = T>,
) -> (T, Option<Failure>) {
    let current = TaskContext {
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

/// The worker's state of type `S`, as given to [`worker::run`](crate::worker::run).
///
/// # Panics
/// Outside a task of this worker, or when the worker was started with another type. Both are programming errors.
#[must_use]
pub fn state<S: Send + Sync + 'static>() -> Arc<S> {
    let state = CURRENT.with(|current| Arc::clone(&current.state));
    state
        .downcast()
        .unwrap_or_else(|_| panic!("the worker's state is not a {}", std::any::type_name::<S>()))
}

/// An error that fails the task with `exception`, to be retried after `retry_after` at the earliest.
///
/// The crate's error type holds only text, so the exception is kept in the task's context.
#[must_use]
pub fn fail(exception: Exception, retry_after: Option<Duration>) -> TaskError {
    let error = TaskError::ExpectedError(exception.line());
    let failure = Failure {
        exception,
        kind: FailureKind::Retryable(retry_after),
    };
    // Outside a task only the text remains.
    let _ = CURRENT.try_with(|current| {
        *current.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    });
    error
}
