//! `Managed<T>`: the task registered with the crate in place of `T`, under the same name.
//!
//! It takes its job from the handoff, builds the real task and lets the engine execute it. To the crate it always
//! succeeds.

use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use celery::error::TaskError;
use celery::task::{Request, Task, TaskOptions, TaskResult};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::context::{self, DEFAULT_RETRY_DELAY, TaskContext};
use super::handoff::{self, Place};
use super::local_calls::LocalCalls;
use super::task_set::RegisteredTask;
use tradebot_core::engine::retry::RetryPolicy;
use tradebot_core::engine::{Failure, FailureKind, Limits, RetryRequest, TaskPolicy};
use tradebot_wire::result::Exception;

/// A task that the engine executes.
pub(super) struct Managed<T>
where
    T: Task + 'static,
    T::Returns: Serialize,
{
    request: Request<Self>,
    options: TaskOptions,
}

/// The parameters that the crate decodes: none. The real ones are part of the job.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct EmptyParameters {}

/// The return value for the crate, which logs it. The engine stores the real one.
pub(super) struct HandledByEngine;

impl fmt::Debug for HandledByEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("handled")
    }
}

#[async_trait]
impl<T> Task for Managed<T>
where
    T: Task + 'static,
    T::Returns: Serialize,
{
    const NAME: &'static str = T::NAME;
    const ARGS: &'static [&'static str] = &[];

    type Params = EmptyParameters;
    type Returns = HandledByEngine;

    fn from_request(request: Request<Self>, options: TaskOptions) -> Self {
        Self { request, options }
    }

    fn request(&self) -> &Request<Self> {
        &self.request
    }

    fn options(&self) -> &TaskOptions {
        &self.options
    }

    async fn run(&self, _: EmptyParameters) -> TaskResult<HandledByEngine> {
        let Some(handoff) = Place::of_text(&self.request.correlation_id).and_then(handoff::take) else {
            // Every message comes through our stream, so this cannot happen.
            return Err(TaskError::UnexpectedError(
                "this worker does not know the delivery".into(),
            ));
        };
        let params = match handoff.parameters.downcast::<T::Params>() {
            Ok(params) => *params,
            Err(_) => {
                let why = "the parameters belong to another task";
                handoff.engine.refuse(handoff.job, why).await;
                return Ok(HandledByEngine);
            }
        };
        let task = T::from_request(self.inner_request(&handoff.job, params.clone()), self.options);
        let entry = handoff.tasks.get(T::NAME);
        let policy = entry.map_or_else(policy::<T>, |entry| entry.policy);
        let context = TaskContext {
            state: handoff.state,
            run: Some(handoff.job.task_run(&handoff.engine)),
            parameters: entry.map_or(T::ARGS, RegisteredTask::positional),
            retry_delay: entry.map_or(DEFAULT_RETRY_DELAY, RegisteredTask::retry_delay),
            calls: LocalCalls {
                app: Arc::clone(&self.request.app),
                tasks: Arc::clone(&handoff.tasks),
            },
            failure: Mutex::default(),
        };
        let run = async move {
            let (returned, typed) = context::within(context, task.run(params)).await;
            outcome::<T>(returned, typed)
        };
        handoff.engine.execute(handoff.job, &policy, run).await;
        Ok(HandledByEngine)
    }

    fn acks_late(&self) -> bool {
        true
    }

    fn time_limit(&self) -> Option<u32> {
        None
    }

    fn max_retries(&self) -> Option<u32> {
        Some(0)
    }

    fn retry_for_unexpected(&self) -> bool {
        false
    }
}

impl<T> Managed<T>
where
    T: Task + 'static,
    T::Returns: Serialize,
{
    /// The real task's request, with the properties that were left out of the crate's message.
    fn inner_request(&self, job: &tradebot_core::engine::Job, params: T::Params) -> Request<T> {
        let (hard, soft) = job.message.timelimit();
        Request {
            app: Arc::clone(&self.request.app),
            id: job.message.id().to_owned(),
            group: job.message.text("group").map(str::to_owned),
            chord: None,
            correlation_id: job.message.id().to_owned(),
            params,
            origin: job.message.text("origin").map(str::to_owned),
            retries: job.message.retries(),
            eta: job.message.eta().ok().flatten(),
            expires: job.message.expires().ok().flatten(),
            hostname: self.request.hostname.clone(),
            reply_to: job.message.property_text("reply_to").map(str::to_owned),
            time_limit: soft.or(hard).map(whole_seconds),
        }
    }
}

/// The crate counts limits in whole seconds.
fn whole_seconds(seconds: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the type's range"
    )]
    let whole = seconds.ceil().clamp(1.0, f64::from(u32::MAX)) as u32;
    whole
}

/// The options of the task macro in Celery's sense: a task with `max_retries` retries automatically.
pub(super) fn policy<T: Task>() -> TaskPolicy {
    let options = T::DEFAULTS;
    let seconds = |limit: Option<u32>| limit.map(|seconds| std::time::Duration::from_secs(seconds.into()));
    TaskPolicy {
        limits: Limits {
            hard: seconds(options.hard_time_limit),
            soft: seconds(options.time_limit),
        },
        retry: RetryPolicy {
            autoretry: options.max_retries.is_some(),
            max_retries: options.max_retries.unwrap_or(RetryPolicy::NONE.max_retries),
            backoff_max_seconds: options
                .max_retry_delay
                .unwrap_or(RetryPolicy::NONE.backoff_max_seconds),
            jitter: RetryPolicy::NONE.jitter,
        },
        ..TaskPolicy::default()
    }
}

/// What a task's function returned, for the engine.
pub(super) fn outcome<T>(returned: TaskResult<T::Returns>, typed: Option<Failure>) -> Result<Value, Failure>
where
    T: Task,
    T::Returns: Serialize,
{
    returned
        .map_err(|error| typed.unwrap_or_else(|| failure::<T>(error)))
        .and_then(|value| serde_json::to_value(value).map_err(|error| not_serializable(&error)))
}

/// Converts the crate's error.
fn failure<T: Task>(error: TaskError) -> Failure {
    match error {
        TaskError::ExpectedError(text) => Failure {
            exception: Exception::builtin("RuntimeError", text),
            kind: FailureKind::Retryable(None),
        },
        TaskError::UnexpectedError(text) => {
            let again = T::DEFAULTS.retry_for_unexpected.unwrap_or(true);
            let kind = if again {
                FailureKind::Retryable(None)
            } else {
                FailureKind::Final
            };
            Failure {
                exception: Exception::builtin("RuntimeError", text),
                kind,
            }
        }
        TaskError::TimeoutError => {
            let exception = Exception::builtin("TimeoutError", "the task timed out");
            Failure {
                exception,
                kind: FailureKind::Retryable(None),
            }
        }
        TaskError::Retry(eta) => Failure::retry(RetryRequest {
            eta,
            ..RetryRequest::default()
        }),
    }
}

fn not_serializable(error: &serde_json::Error) -> Failure {
    let exception = Exception::new(
        "kombu.exceptions",
        "EncodeError",
        vec![Value::String(error.to_string())],
    );
    Failure {
        exception,
        kind: FailureKind::Final,
    }
}
