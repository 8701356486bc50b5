//! Running one job: limits, panics, cancellation, and the outcome that follows.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use serde_json::{Value, json};
use tracing::{debug, error, info, warn};

use super::task_run::LeftBehind;
use super::{Engine, Job, Revocation};
use crate::engine::retry::{self, RetryPolicy, RetryRequest};
use crate::trace::TaskTrace;
use crate::transport::{DeliveryTag, Transport};
use tradebot_base::error_chain;
use tradebot_base::failpoint;
use tradebot_wire::canvas::{self, Successor, SuccessorPlan};
use tradebot_wire::python_repr;
use tradebot_wire::result::{Exception, TaskState};

/// Hard and soft time limit.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// `task_time_limit`.
    pub hard: Option<Duration>,
    /// `task_soft_time_limit`.
    pub soft: Option<Duration>,
}

/// A task's own options.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TaskPolicy {
    /// Limits; the worker's apply where they are absent, the message's own go before both.
    pub limits: Limits,
    /// Retries.
    pub retry: RetryPolicy,
    /// Whether results are ignored, unless a message says; the worker's setting if `None`.
    pub ignore_result: Option<bool>,
    /// Whether the start is stored; the worker's setting if `None`.
    pub track_started: Option<bool>,
}

impl Default for TaskPolicy {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            retry: RetryPolicy::NONE,
            ignore_result: None,
            track_started: None,
        }
    }
}

/// Whether a failed task is tried again.
#[derive(Debug, Clone, PartialEq)]
pub enum FailureKind {
    /// Retried if the task retries on failures, after the given time at the earliest.
    Retryable(Option<Duration>),
    /// The task asked to be retried.
    RetryRequested(Box<RetryRequest>),
    /// Not retried.
    Final,
    /// Celery's `Ignore`: the message is acknowledged, and no outcome is stored. A task that was replaced ends so.
    Ignored,
    /// Celery's `Reject(requeue=True)`: the message goes to the back of its queue.
    Requeued,
}

/// A task that did not succeed.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// What Python clients will see.
    pub exception: Exception,
    /// Whether the task is tried again.
    pub kind: FailureKind,
}

impl Failure {
    /// The failure of a task that asks to be retried. The engine writes the exception
    /// once no retry is left.
    #[must_use]
    pub fn retry(request: RetryRequest) -> Self {
        Self {
            exception: Exception::new("celery.exceptions", "MaxRetriesExceededError", Vec::new()),
            kind: FailureKind::RetryRequested(Box::new(request)),
        }
    }
}

/// How the run of a task ended.
enum RunEnd {
    Returned(Result<Value, Failure>),
    Terminated(i32),
    Cancelled,
}

impl Engine {
    /// Runs a job's future to its end and settles the job.
    ///
    /// The future is dropped when a limit is reached (it stops at its current await) and when a cold stop
    /// comes, in which case the message is handed back.
    pub async fn execute<F>(self: &Arc<Self>, job: Job, policy: &TaskPolicy, run: F)
    where
        F: Future<Output = Result<Value, Failure>> + Send,
    {
        if self.revocations.contains(&job.message) {
            self.end_revoked(&job, Revocation::REVOKED).await;
            return;
        }
        failpoint::pass("started");
        let _running = self.events.running();
        self.events.started(&job.message);
        self.settlement
            .track_started(&job.message, policy.track_started)
            .await;
        let started = Instant::now();
        job.ticket.start(self.clock.now());
        let limits = self.limits(&job, policy);
        let trace = TaskTrace::of(&job.message);
        let run = trace.follow(run);
        // Every branch is cancel-safe in the sense that matters: a dropped run is a run that is over.
        let ended = tokio::select! {
            biased;
            returned = AssertUnwindSafe(run).catch_unwind() => {
                RunEnd::Returned(returned.unwrap_or_else(|panic| Err(panicked(panic.as_ref()))))
            }
            failure = limit_reached(limits, &job.left) => RunEnd::Returned(Err(failure)),
            signal = job.ticket.request().terminated() => RunEnd::Terminated(signal),
            () = self.stop.cold() => RunEnd::Cancelled,
        };
        match ended {
            RunEnd::Returned(returned) => {
                self.conclude(job, policy, returned, (started.elapsed(), &trace))
                    .await;
            }
            RunEnd::Terminated(signal) => {
                self.end_revoked(&job, Revocation::terminated(signal)).await;
            }
            RunEnd::Cancelled => {
                warn!(
                    task.name = job.message.task(),
                    task.id = job.message.id(),
                    outcome = "handed back",
                    runtime_seconds = started.elapsed().as_secs_f64(),
                    retries = job.message.retries(),
                    "task ended by the stop"
                );
                self.settlement
                    .hand_back(&job.tag, &job.source, &job.message)
                    .await;
                self.events.cancelled(job.message.id());
            }
        }
    }

    /// Settles a job that was never started because its arguments do not fit the task.
    pub async fn refuse(self: &Arc<Self>, job: Job, why: &str) {
        let _running = self.events.running();
        self.events.started(&job.message);
        job.ticket.start(self.clock.now());
        let trace = TaskTrace::of(&job.message);
        let exception = Exception::builtin("TypeError", why);
        let failure = Failure {
            exception,
            kind: FailureKind::Final,
        };
        self.conclude(
            job,
            &TaskPolicy::default(),
            Err(failure),
            (Duration::ZERO, &trace),
        )
        .await;
    }

    /// Returns a job that was received and not started.
    pub async fn return_unstarted(&self, job: Job) {
        self.settlement
            .hand_back(&job.tag, &job.source, &job.message)
            .await;
    }

    /// Turns what a task returned into a state, and settles the job with it.
    pub(super) async fn conclude(
        self: &Arc<Self>,
        job: Job,
        policy: &TaskPolicy,
        returned: Result<Value, Failure>,
        (runtime, trace): (Duration, &TaskTrace),
    ) {
        failpoint::pass("returned");
        let context = self.settlement.canvas_context(&job.message);
        let mut sent = job.left.take();
        let (state, plan) = match returned {
            Ok(value) => {
                let plan = canvas::after_success(context, &job.body, &value);
                (TaskState::Success(value), plan)
            }
            Err(Failure {
                exception,
                kind: kind @ (FailureKind::Ignored | FailureKind::Requeued),
            }) => {
                trace.pass_on(&mut sent.successors);
                let requeued = kind == FailureKind::Requeued;
                self.conclude_without_result(job, (&exception, requeued), sent, runtime)
                    .await;
                return;
            }
            Err(mut failure) => {
                if let FailureKind::RetryRequested(request) = &failure.kind {
                    let given = request.exception.clone();
                    failure.exception = given.unwrap_or_else(|| max_retries_exceeded(&job));
                }
                match self.next_try(&job, policy, &failure) {
                    Some(next) => (
                        TaskState::Retry(failure.exception.clone(), traceback(&failure.exception)),
                        SuccessorPlan::of(next),
                    ),
                    None => {
                        let text =
                            (!is_hard_limit(&failure.exception)).then(|| traceback(&failure.exception));
                        let state = TaskState::Failure(failure.exception, text);
                        let errbacks = job.body.embedded("errbacks");
                        let plan = self
                            .settlement
                            .call_errbacks(context, job.message.as_ref().into(), errbacks, &state)
                            .await;
                        (state, plan.without_children())
                    }
                }
            }
        };
        sent.extend(plan);
        let mut plan = sent;
        trace.end(&state);
        trace.pass_on(&mut plan.successors);
        // Of a retry before its message can be received again, of an end once it can be found.
        let retried = matches!(state, TaskState::Retry(..));
        if retried {
            self.events.ended(&job.message, &state, runtime);
        }
        let settled = self
            .settlement
            .settle(&job.tag, &job.message, &state, &plan)
            .await;
        if settled.is_some() {
            job.ticket.request().task().outcomes().note(&state, runtime);
            if !retried {
                self.events.ended(&job.message, &state, runtime);
            }
        }
        failpoint::pass("settled");
        if job.message.redelivered()
            && let Err(trouble) = self.transport.forget_crashes(&job.message).await
        {
            debug!(error = %error_chain(&trouble), "cannot delete a crash count; it expires by itself");
        }
        if job.marked {
            self.unmark(job.tag.clone());
        }
        if settled.is_some() {
            report(&job, &state, &plan.successors, runtime);
        }
        drop(job.slot);
    }

    /// Ends a job whose task stores no outcome: with its message back in the queue if it is requeued.
    async fn conclude_without_result(
        self: &Arc<Self>,
        job: Job,
        (exception, requeued): (&Exception, bool),
        sent: SuccessorPlan,
        runtime: Duration,
    ) {
        let pushes = if requeued {
            vec![Transport::requeue(&job.source, &job.message)]
        } else {
            Vec::new()
        };
        let settled = self
            .settlement
            .settle_without_result((&job.tag, &job.message), &sent, pushes)
            .await;
        if job.marked {
            self.unmark(job.tag.clone());
        }
        if settled.is_none() {
            return;
        }
        if requeued {
            self.events.rejected(job.message.id(), true);
        }
        info!(
            task.name = job.message.task(),
            task.id = job.message.id(),
            outcome = if requeued { "requeued" } else { "ignored" },
            runtime_seconds = runtime.as_secs_f64(),
            retries = job.message.retries(),
            reason = exception.line(),
            "task ended without a result"
        );
        drop(job.slot);
    }

    async fn end_revoked(self: &Arc<Self>, job: &Job, why: Revocation) {
        let sent = job.left.take();
        let settled = self
            .settlement
            .settle_revoked(&job.tag, &job.message, why, &sent)
            .await;
        if settled {
            job.ticket.request().task().outcomes().note_revoked();
        }
        if job.marked {
            self.unmark(job.tag.clone());
        }
    }

    /// Takes the mark of a started message off a settled delivery. The caller does not wait for it.
    fn unmark(&self, tag: DeliveryTag) {
        let transport = Arc::clone(&self.transport);
        self.track(async move {
            if let Err(trouble) = transport.unmark_started(&tag).await {
                debug!(error = %error_chain(&trouble), "cannot remove the mark of a started message; it stays until this worker ends");
            }
        });
    }

    fn next_try(&self, job: &Job, policy: &TaskPolicy, failure: &Failure) -> Option<Successor> {
        let retries = job.message.retries();
        let mut rng = self.random.fork();
        let now = self.clock.now();
        let countdown = match &failure.kind {
            FailureKind::Final | FailureKind::Ignored | FailureKind::Requeued => None,
            FailureKind::Retryable(_) if !policy.retry.autoretry => None,
            FailureKind::Retryable(wish) => policy.retry.countdown(retries, *wish, &mut rng),
            FailureKind::RetryRequested(request) => {
                let retry = RetryPolicy {
                    max_retries: request.max_retries.unwrap_or(policy.retry.max_retries),
                    ..policy.retry
                };
                let asked = request.eta.map(|eta| (eta - now).to_std().unwrap_or_default());
                let usual = retry.countdown(retries, None, &mut rng);
                usual.map(|usual| asked.or(request.countdown).unwrap_or(usual))
            }
        }?;
        let mut message = retry::successor(&job.message, countdown, &self.settlement.origin, now);
        let mut queue = job.source.queue.clone();
        if let FailureKind::RetryRequested(request) = &failure.kind {
            queue = request.queue.clone().unwrap_or(queue);
            request.as_ref().clone().apply(&mut message);
        }
        Some(Successor { queue, message })
    }

    /// The limits in force: the message's, else the task's, else the worker's.
    fn limits(&self, job: &Job, policy: &TaskPolicy) -> Limits {
        let (hard, soft) = job.message.timelimit();
        let seconds =
            |limit: Option<f64>| limit.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        let worker = self.settings.limits;
        let task = job.ticket.request().task().limits().unwrap_or(policy.limits);
        Limits {
            hard: seconds(hard).or(task.hard).or(worker.hard),
            soft: seconds(soft).or(task.soft).or(worker.soft),
        }
    }
}

/// Ends when a limit ends the task: the soft one unless the task catches it, with the exception that Celery reports then.
async fn limit_reached(limits: Limits, left: &LeftBehind) -> Failure {
    let soft_first = match (limits.soft, limits.hard) {
        (Some(soft), Some(hard)) => soft < hard,
        (soft, _) => soft.is_some(),
    };
    let Some(limit) = (if soft_first { limits.soft } else { limits.hard }) else {
        return std::future::pending().await;
    };
    tokio::time::sleep(limit).await;
    if soft_first && left.soft_limit_reached() {
        let Some(hard) = limits.hard else {
            return std::future::pending().await;
        };
        tokio::time::sleep(hard.saturating_sub(limit)).await;
        return hard_limit_reached(hard);
    }
    if soft_first {
        let exception = Exception::new("billiard.exceptions", "SoftTimeLimitExceeded", Vec::new());
        return Failure {
            exception,
            kind: FailureKind::Retryable(None),
        };
    }
    hard_limit_reached(limit)
}

fn hard_limit_reached(limit: Duration) -> Failure {
    let seconds = vec![json!(limit.as_secs_f64())];
    Failure {
        exception: Exception::new("billiard.exceptions", "TimeLimitExceeded", seconds),
        kind: FailureKind::Final,
    }
}

/// Celery's exception for a task that asks to be retried once too often.
fn max_retries_exceeded(job: &Job) -> Exception {
    let text = format!(
        "Can't retry {}[{}] args:{} kwargs:{}",
        job.message.task(),
        job.message.id(),
        python_repr::args(&job.body.args),
        python_repr::kwargs(&job.body.kwargs)
    );
    Exception::new(
        "celery.exceptions",
        "MaxRetriesExceededError",
        vec![Value::String(text)],
    )
}

fn is_hard_limit(exception: &Exception) -> bool {
    exception.kind == "TimeLimitExceeded"
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    let exception = Exception::builtin("RuntimeError", format!("task panicked: {text}"));
    Failure {
        exception,
        kind: FailureKind::Retryable(None),
    }
}

/// What stands where Python has a traceback: there are no frames to show, the last line is the same.
pub(super) fn traceback(exception: &Exception) -> String {
    format!("Traceback (most recent call last):\n{}\n", exception.line())
}

/// The one log line of a task's outcome.
fn report(job: &Job, state: &TaskState, successors: &[Successor], runtime: Duration) {
    let (name, id) = (job.message.task(), job.message.id());
    let runtime_seconds = runtime.as_secs_f64();
    let retries = job.message.retries();
    match state {
        TaskState::Success(value) => {
            let result = tracing::enabled!(tracing::Level::INFO).then(|| python_repr::value(value));
            info!(
                task.name = name,
                task.id = id,
                outcome = "success",
                runtime_seconds,
                retries,
                result,
                "task succeeded"
            );
        }
        TaskState::Retry(exception, _) => {
            let eta = successors
                .first()
                .and_then(|next| next.message.text("eta"))
                .unwrap_or("now");
            let error = exception.line();
            warn!(
                task.name = name,
                task.id = id,
                outcome = "retry",
                runtime_seconds,
                retries,
                error,
                eta,
                "task failed and will be tried again"
            );
        }
        TaskState::Failure(exception, _) => {
            let error = exception.line();
            error!(
                task.name = name,
                task.id = id,
                outcome = "failure",
                runtime_seconds,
                retries,
                error,
                "task failed"
            );
        }
        TaskState::Started { .. } | TaskState::Revoked(_) | TaskState::Custom { .. } => {}
    }
}
