//! A Celery worker with three tasks. Run it beside Python workers, or alone:
//!
//! ```sh
//! CELERY_BROKER_URL=redis://localhost/0 CELERY_RESULT_BACKEND=redis://localhost/0 cargo run --example worker
//! ```

#![allow(non_local_definitions, reason = "items made by the task macro")]

use std::time::Duration;

use tradebot_symbols::worker::{self, Retry, Signature, TaskResult, TaskSet, Worker, task};

/// Adds two numbers.
#[task(name = "proj.add")]
async fn add(x: i64, y: i64) -> TaskResult<i64> {
    Ok(x + y)
}

/// Adds the numbers of a list; a chord's body.
#[task(name = "proj.sum")]
async fn sum(numbers: Vec<i64>) -> TaskResult<i64> {
    Ok(numbers.iter().sum())
}

/// Fails once, and then continues as another task.
#[task(name = "proj.double", max_retries = 3)]
async fn double(x: i64) -> TaskResult<i64> {
    if worker::current().info().retries == 0 {
        return Err(worker::retry(Retry::new().countdown(Duration::from_millis(100))));
    }
    Err(worker::replace(Signature::task("proj.add").args([x, x])))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let tasks = TaskSet::new().with::<add>().with::<sum>().with::<double>();
    Worker::new(tasks).concurrency(4).run()?;
    Ok(())
}
