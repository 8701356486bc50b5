//! Calls of tasks in this process: the functions that `celery.map` applies, and errbacks that take the failed task's request.

use std::any::Any;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use celery::Celery;
use celery::task::{Request, Task, TaskOptions};
use futures_util::FutureExt;
use serde::Serialize;
use serde_json::{Map, Value};
use tracing::error;

use super::context::{self, TaskContext};
use super::managed;
use super::task_set::TaskSet;
use tradebot_core::engine::{ErrbackCall, Errbacks, Failure, FailureKind, TaskRun};
use tradebot_wire::body::Body;
use tradebot_wire::result::Exception;

/// A task's function without its context.
pub(super) type Call = Pin<Box<dyn Future<Output = Result<Value, Failure>> + Send>>;

/// The tasks of a worker, to be called in this process.
#[derive(Clone)]
pub(super) struct LocalCalls {
    pub(super) app: Arc<Celery>,
    pub(super) tasks: Arc<TaskSet>,
}

impl LocalCalls {
    /// Calls a task. A nested call is a boxed future: tasks may call tasks.
    pub(super) fn call(
        &self,
        task: &str,
        args: Vec<Value>,
        kwargs: Map<String, Value>,
        state: Arc<dyn Any + Send + Sync>,
        run: Option<TaskRun>,
    ) -> Call {
        let body = Body {
            args,
            kwargs,
            ..Body::default()
        };
        let called = self.tasks.parameters(task, &body).and_then(|parameters| {
            let entry = self
                .tasks
                .get(task)
                .ok_or_else(|| format!("{task} is not registered"))?;
            Ok((entry, parameters))
        });
        match called {
            Ok((entry, parameters)) => {
                let context = TaskContext {
                    state,
                    run,
                    parameters: entry.positional(),
                    retry_delay: entry.retry_delay(),
                    calls: self.clone(),
                    failure: Mutex::default(),
                };
                (entry.call)(context, parameters)
            }
            Err(why) => {
                let failure = Failure {
                    exception: Exception::builtin("TypeError", why),
                    kind: FailureKind::Final,
                };
                std::future::ready(Err(failure)).boxed()
            }
        }
    }
}

/// The function of `T`, with a request of which only the crate's part is filled.
pub(super) fn function<T>(context: TaskContext, parameters: Box<dyn Any + Send>) -> Call
where
    T: Task + 'static,
    T::Returns: Serialize,
{
    async move {
        let Ok(params) = parameters.downcast::<T::Params>() else {
            unreachable!("the parameters were decoded by the same entry of the task set");
        };
        let info = context.run.as_ref().map(TaskRun::info);
        let request = Request {
            app: Arc::clone(&context.calls.app),
            id: info.as_ref().map_or_else(String::new, |info| info.id.clone()),
            group: None,
            chord: None,
            correlation_id: String::new(),
            params: (*params).clone(),
            origin: None,
            retries: info.as_ref().map_or(0, |info| info.retries),
            eta: None,
            expires: None,
            hostname: None,
            reply_to: None,
            time_limit: None,
        };
        let task = T::from_request(request, TaskOptions::default());
        let (returned, typed) = context::within(context, task.run(*params)).await;
        managed::outcome::<T>(returned, typed)
    }
    .boxed()
}

/// The errbacks of a worker's tasks that take the failed task's request.
pub(super) struct LocalErrbacks {
    pub(super) calls: LocalCalls,
    pub(super) state: Arc<dyn Any + Send + Sync>,
}

impl Errbacks for LocalErrbacks {
    fn takes_request(&self, task: &str) -> bool {
        let entry = self.calls.tasks.get(task);
        entry.is_some_and(|entry| entry.options.errback_with_request)
    }

    fn call(&self, errback: ErrbackCall) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let ErrbackCall { task, args, kwargs } = errback;
        let called = self
            .calls
            .call(&task, args, kwargs, Arc::clone(&self.state), None);
        async move {
            if let Err(failure) = called.await {
                let error = failure.exception.line();
                error!(task.name = task, error, "an errback has failed");
            }
        }
        .boxed()
    }
}
