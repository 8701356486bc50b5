//! Errbacks of failed tasks.
//!
//! Most are tasks of their own: messages with the failed task's id as their argument, which leave with the failure. Those
//! that ask for the failed task's request are called here before the failure is stored, as Celery does. A worker that dies
//! in between calls them again when the task has failed again. An errback that panics or takes too long changes nothing for
//! the failed task.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt;
use serde_json::{Map, Value, json};

use tokio::time::timeout;
use tracing::error;

use super::Engine;
use super::settlement::Settlement;
use tradebot_wire::canvas::{self, CanvasContext, SuccessorPlan};
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::TaskState;

/// How long an errback that is called here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Calls functions of this worker's tasks as errbacks.
pub trait Errbacks: Send + Sync {
    /// Whether the task is one of this worker's that takes the failed task's request.
    fn takes_request(&self, task: &str) -> bool;

    /// Calls it. A failure is logged; it changes nothing for the failed task.
    fn call(&self, errback: ErrbackCall) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// The call of an errback that takes the failed task's request.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrbackCall {
    /// Registered name of the errback.
    pub task: String,
    /// The request, the exception and the traceback, then the arguments of the errback's signature.
    pub args: Vec<Value>,
    /// Keyword arguments of the errback's signature.
    pub kwargs: Map<String, Value>,
}

/// Who calls errbacks, once the worker runs.
pub(super) type ErrbackCaller = OnceLock<Arc<dyn Errbacks>>;

/// A failed task: its id, and its headers as far as they are known.
pub(super) struct Failed<'a> {
    pub(super) id: &'a str,
    pub(super) message: Option<&'a Envelope>,
}

impl<'a> From<&'a Envelope> for Failed<'a> {
    fn from(message: &'a Envelope) -> Self {
        Self {
            id: message.id(),
            message: Some(message),
        }
    }
}

impl Engine {
    /// Has `errbacks` call the errbacks that take the failed task's request. The first call counts.
    pub fn call_errbacks_with(&self, errbacks: Arc<dyn Errbacks>) {
        // A worker is started once.
        let _ = self.settlement.errbacks.set(errbacks);
    }
}

impl Settlement {
    /// Calls the errbacks of a failed task that take its request, and returns the messages of the others.
    pub(super) async fn call_errbacks(
        &self,
        context: CanvasContext<'_>,
        failed: Failed<'_>,
        errbacks: &[Value],
        state: &TaskState,
    ) -> SuccessorPlan {
        let Some(caller) = self.errbacks.get() else {
            return canvas::after_failure(context, errbacks);
        };
        let takes_request = |errback: &&Value| {
            let task = errback.get("task").and_then(Value::as_str);
            errback.get("subtask_type").is_none_or(Value::is_null)
                && task.is_some_and(|task| caller.takes_request(task))
        };
        let (called, sent): (Vec<&Value>, Vec<&Value>) = errbacks.iter().partition(takes_request);
        for errback in called {
            let call = call_of(errback, &failed, state);
            let task = call.task.clone();
            let ended = timeout(PATIENCE, AssertUnwindSafe(caller.call(call)).catch_unwind()).await;
            let error = match ended {
                Ok(Ok(())) => continue,
                Ok(Err(_)) => "it panicked".to_owned(),
                Err(_) => format!("it did not end within {} s", PATIENCE.as_secs()),
            };
            error!(
                task.name = task,
                task.id = failed.id,
                error,
                "an errback has failed"
            );
        }
        let sent: Vec<Value> = sent.into_iter().cloned().collect();
        canvas::after_failure(context, &sent)
    }

    /// The same for the errbacks in a message.
    pub(super) async fn call_errbacks_of(&self, message: &Envelope, state: &TaskState) -> SuccessorPlan {
        let (context, workflow) = (self.canvas_context(message), message.workflow());
        self.call_errbacks(context, message.into(), workflow.embedded("errbacks"), state)
            .await
    }
}

fn call_of(errback: &Value, failed: &Failed<'_>, state: &TaskState) -> ErrbackCall {
    let mut request = failed.message.map(Envelope::headers).unwrap_or_default();
    request.insert("id".into(), failed.id.into());
    let traceback = match state {
        TaskState::Failure(_, traceback) => json!(traceback),
        _ => Value::Null,
    };
    let mut args = vec![Value::Object(request), state.result(), traceback];
    if errback.get("immutable") == Some(&Value::Bool(true)) {
        args.clear();
    }
    let own = errback.get("args").and_then(Value::as_array);
    args.extend(own.into_iter().flatten().cloned());
    let kwargs = errback.get("kwargs").and_then(Value::as_object);
    ErrbackCall {
        task: errback["task"].as_str().unwrap_or_default().to_owned(),
        args,
        kwargs: kwargs.cloned().unwrap_or_default(),
    }
}
