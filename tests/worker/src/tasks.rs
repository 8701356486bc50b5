//! The tasks. Names begin with `tests.`; parameters are those a Python caller passes.

#![expect(non_local_definitions, reason = "items made by the task macro")]

use std::time::{Duration, Instant};

use serde_json::Value;
use tradebot_symbols::worker::{self, Exception, Signature, TaskResult, task};

use crate::notes::Notes;

/// Does nothing.
#[task(name = "tests.noop")]
pub async fn noop() -> TaskResult<()> {
    Ok(())
}

/// Returns its argument.
#[task(name = "tests.echo")]
pub async fn echo(value: Value) -> TaskResult<Value> {
    Ok(value)
}

/// Adds two numbers.
#[task(name = "tests.add")]
pub async fn add(x: i64, y: i64) -> TaskResult<i64> {
    Ok(x + y)
}

/// Adds many numbers.
#[task(name = "tests.xsum")]
pub async fn xsum(numbers: Vec<i64>) -> TaskResult<i64> {
    Ok(numbers.iter().sum())
}

/// Waits without using the processor.
#[task(name = "tests.sleep")]
pub async fn sleep(seconds: f64) -> TaskResult<f64> {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    Ok(seconds)
}

/// Uses the processor and never yields.
#[task(name = "tests.spin")]
pub async fn spin(seconds: f64) -> TaskResult<f64> {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    Ok(seconds)
}

/// Fails like a Python task that raises `ValueError(message)`, and is not retried.
#[task(name = "tests.fail")]
pub async fn fail(message: String) -> TaskResult<()> {
    Err(worker::fail(Exception::builtin("ValueError", message), None))
}

/// Fails like a Python task that raises `module.kind(*args)`.
#[task(name = "tests.raise")]
pub async fn raise(module: String, kind: String, args: Vec<Value>) -> TaskResult<()> {
    Err(worker::fail(Exception::new(&module, &kind, args), None))
}

/// Fails `times` times with `KeyError`, then returns how often it was tried.
#[task(name = "tests.retry", bind = true, max_retries = 10, max_retry_delay = 1)]
pub async fn retry(task: &Self, times: u32) -> TaskResult<u32> {
    let tried = task.request.retries;
    if tried < times {
        return Err(worker::fail(
            Exception::builtin("KeyError", format!("try {tried}")),
            None,
        ));
    }
    Ok(tried + 1)
}

/// Notes under `key` that it was started, then waits, and returns how often it has been started so far. With
/// `spin` it waits without yielding.
#[task(name = "tests.record", bind = true)]
pub async fn record(
    task: &Self,
    key: String,
    milliseconds: Option<u64>,
    spin: Option<bool>,
) -> TaskResult<i64> {
    let notes = worker::state::<Notes>();
    let started = notes.add(&key, &task.request.id).await;
    let started = started.map_err(|error| {
        let text = format!("the start could not be noted: {error}");
        worker::fail(Exception::builtin("RuntimeError", text), None)
    })?;
    let wait = Duration::from_millis(milliseconds.unwrap_or_default());
    if spin == Some(true) {
        let end = Instant::now() + wait;
        while Instant::now() < end {
            std::hint::spin_loop();
        }
    } else {
        tokio::time::sleep(wait).await;
    }
    Ok(started)
}

/// Panics.
#[task(name = "tests.panic")]
pub async fn panic() -> TaskResult<()> {
    std::panic::panic_any("this task always panics")
}

/// Ends the process as a crash would: at once or so many milliseconds later, without any clean-up.
#[task(name = "tests.exit")]
pub async fn exit(milliseconds: Option<u64>) -> TaskResult<()> {
    tokio::time::sleep(Duration::from_millis(milliseconds.unwrap_or_default())).await;
    std::process::abort()
}

/// Sends `tests.record` from within, waits, and returns the id of its result.
#[task(name = "tests.send")]
pub async fn send(key: String, milliseconds: Option<u64>) -> TaskResult<String> {
    let sent = worker::current().send(Signature::task("tests.record").arg(key));
    let sent =
        sent.map_err(|error| worker::fail(Exception::builtin("ValueError", error.to_string()), None))?;
    tokio::time::sleep(Duration::from_millis(milliseconds.unwrap_or_default())).await;
    Ok(sent.id)
}

/// Is replaced by `tests.record`.
#[task(name = "tests.replace")]
pub async fn replace(key: String) -> TaskResult<i64> {
    Err(worker::replace(Signature::task("tests.record").arg(key)))
}

/// Is put back once, then notes its start like `tests.record`.
#[task(name = "tests.reject")]
pub async fn reject(key: String) -> TaskResult<i64> {
    let info = worker::current().info();
    if info.delivery_info["redelivered"] != Value::Bool(true) {
        return Err(worker::reject("the first delivery", true));
    }
    let noted = worker::state::<Notes>().add(&key, &info.id).await;
    noted.map_err(|error| worker::fail(Exception::builtin("RuntimeError", error.to_string()), None))
}

/// An errback that panics, or never ends.
#[task(name = "tests.errback")]
pub async fn errback(request: Value, exc: Value, tb: Value, hang: bool) -> TaskResult<()> {
    let _ = (request, exc, tb);
    if hang {
        return std::future::pending().await;
    }
    std::panic::panic_any("this errback always panics")
}

/// Ends without a result.
#[task(name = "tests.ignore")]
pub async fn ignore() -> TaskResult<()> {
    Err(worker::ignore("nothing to do"))
}

/// Stores its progress, then waits.
#[task(name = "tests.progress")]
pub async fn progress(done: i64, milliseconds: u64) -> TaskResult<()> {
    let meta = serde_json::json!({"done": done});
    let stored = worker::current().update_state("PROGRESS", meta).await;
    stored.map_err(|error| worker::fail(Exception::builtin("RuntimeError", error.to_string()), None))?;
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    Ok(())
}
