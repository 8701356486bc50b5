//! The context of a running task: the worker's state, the task's message, and how it ends other than by a return value.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use celery::error::TaskError;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::local_calls::LocalCalls;
use tradebot_core::engine::{Failure, FailureKind, RetryRequest, TaskRun};
use tradebot_wire::canvas::Signature;
use tradebot_wire::result::Exception;

/// Celery's `default_retry_delay`.
pub(super) const DEFAULT_RETRY_DELAY: Duration = Duration::from_secs(180);

tokio::task_local! {
    static CURRENT: TaskContext;
}

/// The context of one running task.
pub(super) struct TaskContext {
    pub(super) state: Arc<dyn Any + Send + Sync>,
    /// Absent in an errback that its failing task's worker calls.
    pub(super) run: Option<TaskRun>,
    /// The task's positional parameters in their order.
    pub(super) parameters: &'static [&'static str],
    pub(super) retry_delay: Duration,
    pub(super) calls: LocalCalls,
    pub(super) failure: Mutex<Option<Failure>>,
}

impl TaskContext {
    /// Keeps what the crate's error type cannot hold.
    fn leave(&self, failure: Failure) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }
}

/// Runs a task's future in its context. Also returns the typed failure, if the task left one.
pub(super) async fn within<T>(context: TaskContext, run: impl Future<Output = T>) -> (T, Option<Failure>) {
    CURRENT
        .scope(context, async {
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

/// Calls a task of this worker in the running task, as Python calls a function.
pub(super) async fn call(task: &str, args: Vec<Value>) -> Result<Value, TaskError> {
    let (calls, state, run) = CURRENT.with(|current| {
        (
            current.calls.clone(),
            Arc::clone(&current.state),
            current.run.clone(),
        )
    });
    let called = calls.call(task, args, Map::new(), state, run).await;
    called.map_err(|failure| end(failure.exception, failure.kind))
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

/// The running task: its request, and what it can send and store.
///
/// # Panics
/// Outside a task of this worker, and in an errback that takes the request as its first argument. Both are programming
/// errors.
#[must_use]
pub fn current() -> TaskRun {
    let run = CURRENT.with(|current| current.run.clone());
    run.expect("an errback gets the request of the failed task as its first argument")
}

/// An error that fails the task with `exception`, to be retried after `retry_after` at the earliest.
///
/// The crate's error type holds only text, so the exception is kept in the task's context.
#[must_use]
pub fn fail(exception: Exception, retry_after: Option<Duration>) -> TaskError {
    end(exception, FailureKind::Retryable(retry_after))
}

/// An error that ends the task without a result, like Celery's `Ignore`: its message is acknowledged.
#[must_use]
pub fn ignore(reason: &str) -> TaskError {
    let exception = Exception::new("celery.exceptions", "Ignore", vec![reason.into()]);
    end(exception, FailureKind::Ignored)
}

/// An error that rejects the task's message, like Celery's `Reject`. With `requeue` the message goes to the back of its
/// queue, otherwise the task has failed.
#[must_use]
pub fn reject(reason: &str, requeue: bool) -> TaskError {
    let arguments = vec![reason.into(), requeue.into()];
    let exception = Exception::new("celery.exceptions", "Reject", arguments);
    let kind = if requeue {
        FailureKind::Requeued
    } else {
        FailureKind::Final
    };
    end(exception, kind)
}

/// An error that ends the task and sends `signature` in its place: with the task's id, and before all that follows the task.
///
/// A signature that cannot replace a task fails it with `ImproperlyConfigured`, as in Celery.
#[must_use]
pub fn replace(signature: Signature) -> TaskError {
    match current().replace(signature) {
        Ok(_) => ignore("Replaced by new task"),
        Err(reason) => {
            let text = vec![reason.to_string().into()];
            let exception = Exception::new("celery.exceptions", "ImproperlyConfigured", text);
            end(exception, FailureKind::Retryable(None))
        }
    }
}

/// How a task is retried; the options of Celery's `Task.retry`.
#[derive(Debug, Clone, Default)]
pub struct Retry {
    request: RetryRequest,
    args: Option<Vec<Value>>,
    kwargs: Option<Map<String, Value>>,
}

impl Retry {
    /// A retry after the task's `default_retry_delay`, with the same arguments.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits this long.
    #[must_use]
    pub fn countdown(mut self, countdown: Duration) -> Self {
        self.request.countdown = Some(countdown);
        self
    }

    /// Waits until this time.
    #[must_use]
    pub fn eta(mut self, eta: DateTime<Utc>) -> Self {
        self.request.eta = Some(eta);
        self
    }

    /// Gives up after this many retries, instead of the task's `max_retries`.
    #[must_use]
    pub fn max_retries(mut self, retries: u32) -> Self {
        self.request.max_retries = Some(retries);
        self
    }

    /// Replaces the positional arguments. Keyword arguments stay unless they would set the same parameters.
    #[must_use]
    pub fn args<V: Into<Value>>(mut self, args: impl IntoIterator<Item = V>) -> Self {
        self.args = Some(args.into_iter().map(Into::into).collect());
        self
    }

    /// Replaces the keyword arguments. Positional arguments stay unless these set the same parameters.
    #[must_use]
    pub fn kwargs(mut self, kwargs: Map<String, Value>) -> Self {
        self.kwargs = Some(kwargs);
        self
    }

    /// Sends the next try to this queue.
    #[must_use]
    pub fn queue(mut self, queue: &str) -> Self {
        self.request.queue = Some(queue.to_owned());
        self
    }

    /// Revokes the next try unless it has started by this time.
    #[must_use]
    pub fn expires(mut self, expires: DateTime<Utc>) -> Self {
        self.request.expires = Some(expires);
        self
    }

    /// The exception to store, and to fail with once no retry is left.
    #[must_use]
    pub fn exception(mut self, exception: Exception) -> Self {
        self.request.exception = Some(exception);
        self
    }

    /// The arguments of the next try; `None` if they stay as they are.
    fn arguments(
        args: Option<Vec<Value>>,
        kwargs: Option<Map<String, Value>>,
        parameters: &[&str],
        run: &TaskRun,
    ) -> Option<(Vec<Value>, Map<String, Value>)> {
        let body = run.body();
        match (args, kwargs) {
            (None, None) => None,
            (Some(args), Some(kwargs)) => Some((args, kwargs)),
            (Some(args), None) => {
                let mut kwargs = body.kwargs.clone();
                for name in parameters.iter().take(args.len()) {
                    kwargs.shift_remove(*name);
                }
                Some((args, kwargs))
            }
            (None, Some(mut kwargs)) => {
                let mut args = body.args.clone();
                for (argument, name) in args.iter_mut().zip(parameters) {
                    if let Some(value) = kwargs.shift_remove(*name) {
                        *argument = value;
                    }
                }
                Some((args, kwargs))
            }
        }
    }
}

/// An error that retries the task, like Celery's `raise self.retry(...)`.
#[must_use]
pub fn retry(retry: Retry) -> TaskError {
    let run = current();
    let Retry {
        mut request,
        args,
        kwargs,
    } = retry;
    let (parameters, delay) = CURRENT.with(|current| (current.parameters, current.retry_delay));
    request.arguments = Retry::arguments(args, kwargs, parameters, &run);
    if request.eta.is_none() && request.countdown.is_none() {
        request.countdown = Some(delay);
    }
    let failure = Failure::retry(request);
    end(failure.exception, failure.kind)
}

/// The crate's error for an end of the task, which is kept in its context.
fn end(exception: Exception, kind: FailureKind) -> TaskError {
    let error = TaskError::ExpectedError(exception.line());
    // Outside a task only the text remains.
    let _ = CURRENT.try_with(|current| current.leave(Failure { exception, kind }));
    error
}
