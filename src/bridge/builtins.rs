//! Celery's built-in tasks that name tasks of the worker: `celery.map`, `celery.starmap` and `celery.accumulate`.

#![expect(non_local_definitions, reason = "items made by the task macro")]

use celery::task::TaskResult;
use serde_json::Value;

use super::context;
use super::task_set::{TaskOptions, TaskSet};
use tradebot_wire::result::Exception;

impl TaskSet {
    /// Adds `celery.map`, `celery.starmap` and `celery.accumulate`.
    ///
    /// Python workers on the same queue have them as well. A worker alone on its queue needs the first two for
    /// `task.map(...)` and `task.chunks(...)`, and the last one to replace a task by a group.
    #[must_use]
    pub fn with_builtins(self) -> Self {
        let options = TaskOptions::new().collect_args("args");
        self.with::<map>()
            .with::<starmap>()
            .with_options::<accumulate>(options)
    }
}

/// Applies a task to each item.
#[celery::task(name = "celery.map")]
async fn map(task: Value, it: Vec<Value>) -> TaskResult<Vec<Value>> {
    let name = name_of(&task)?;
    let mut results = Vec::with_capacity(it.len());
    for item in it {
        results.push(context::call(name, vec![item]).await?);
    }
    Ok(results)
}

/// Applies a task to each list of arguments.
#[celery::task(name = "celery.starmap")]
async fn starmap(task: Value, it: Vec<Vec<Value>>) -> TaskResult<Vec<Value>> {
    let name = name_of(&task)?;
    let mut results = Vec::with_capacity(it.len());
    for args in it {
        results.push(context::call(name, args).await?);
    }
    Ok(results)
}

/// Returns its arguments, or the one at `index`. A replacement by a group ends with it.
#[celery::task(name = "celery.accumulate")]
async fn accumulate(args: Vec<Value>, index: Option<usize>) -> TaskResult<Value> {
    match index {
        None => Ok(Value::Array(args)),
        Some(index) => args.into_iter().nth(index).ok_or_else(|| {
            let error = Exception::builtin("IndexError", "tuple index out of range");
            context::fail(error, None)
        }),
    }
}

fn name_of(signature: &Value) -> TaskResult<&str> {
    let name = signature.get("task").and_then(Value::as_str);
    name.ok_or_else(|| context::fail(Exception::builtin("KeyError", "task"), None))
}
