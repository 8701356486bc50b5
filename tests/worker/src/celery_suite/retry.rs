//! Tasks that are retried or rejected.

use super::*;

#[task(name = "t.integration.tasks.retry")]
pub(super) async fn retry(return_value: Option<Value>) -> TaskResult<Value> {
    match return_value {
        Some(value) if current().info().retries >= 3 => Ok(value),
        _ => Err(worker::retry(
            Retry::new()
                .exception(expected(vec![]))
                .countdown(Duration::from_secs(5)),
        )),
    }
}

#[task(name = "t.integration.tasks.retry_unpickleable")]
pub(super) async fn retry_unpickleable(
    foo: Value,
    bar: Value,
    retry_kwargs: Map<String, Value>,
) -> TaskResult<()> {
    let mut retry = Retry::new().exception(unpickleable(&foo, &bar));
    if let Some(retries) = retry_kwargs.get("max_retries").and_then(Value::as_u64) {
        retry = retry.max_retries(u32::try_from(retries).unwrap_or(u32::MAX));
    }
    if let Some(seconds) = retry_kwargs.get("countdown").and_then(Value::as_f64) {
        retry = retry.countdown(Duration::from_secs_f64(seconds));
    }
    Err(worker::retry(retry))
}

#[task(name = "t.integration.tasks.retry_with_args_after_kwargs", max_retries = 1)]
pub(super) async fn retry_with_args_after_kwargs(
    foo: i64,
    bar: i64,
    label: Option<Value>,
) -> TaskResult<Value> {
    let retries = current().info().retries;
    if retries == 0 {
        let next = Retry::new().args([foo + 1, bar + 1]).countdown(Duration::ZERO);
        return Err(worker::retry(next));
    }
    Ok(json!({"foo": foo, "bar": bar, "label": label, "retries": retries, "is_eager": false}))
}

#[task(name = "t.integration.tasks.retry_with_kwargs_after_args", max_retries = 1)]
pub(super) async fn retry_with_kwargs_after_args(foo: i64, bar: i64) -> TaskResult<Value> {
    let retries = current().info().retries;
    if retries == 0 {
        let kwargs = Map::from_iter([("foo".to_owned(), json!(foo + 1))]);
        return Err(worker::retry(
            Retry::new().kwargs(kwargs).countdown(Duration::ZERO),
        ));
    }
    Ok(json!({"foo": foo, "bar": bar, "retries": retries, "is_eager": false}))
}

/// Retries once, then returns `value` of the request.
fn once(countdown: Option<f64>, max_retries: Option<u32>, expires: Option<f64>) -> Option<Retry> {
    if current().info().retries > 0 {
        return None;
    }
    let countdown = Duration::from_secs_f64(countdown.unwrap_or(0.1));
    let mut retry = Retry::new()
        .countdown(countdown)
        .max_retries(max_retries.unwrap_or(1));
    if let Some(seconds) = expires {
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a test")]
        let millis = (seconds * 1000.0) as i64;
        retry = retry.expires(SystemClock.now() + TimeDelta::milliseconds(millis));
    }
    Some(retry)
}

#[task(name = "t.integration.tasks.retry_once", max_retries = 1)]
pub(super) async fn retry_once(
    args: Vec<Value>,
    expires: Option<f64>,
    max_retries: Option<u32>,
    countdown: Option<f64>,
) -> TaskResult<u32> {
    let _ = args;
    match once(countdown, max_retries, expires) {
        Some(next) => Err(worker::retry(next)),
        None => Ok(current().info().retries),
    }
}

#[task(name = "t.integration.tasks.retry_once_ignore_result")]
pub(super) async fn retry_once_ignore_result() -> TaskResult<u32> {
    match once(Some(0.0), Some(3), None) {
        Some(next) => Err(worker::retry(next)),
        None => Ok(current().info().retries),
    }
}

#[task(name = "t.integration.tasks.retry_once_with_result")]
pub(super) async fn retry_once_with_result() -> TaskResult<u32> {
    match once(Some(0.0), Some(3), None) {
        Some(next) => Err(worker::retry(next)),
        None => Ok(current().info().retries),
    }
}

#[task(name = "t.integration.tasks.retry_once_priority", max_retries = 1)]
pub(super) async fn retry_once_priority(
    args: Vec<Value>,
    max_retries: Option<u32>,
    countdown: Option<f64>,
) -> TaskResult<Option<Value>> {
    let _ = args;
    match once(countdown, max_retries, None) {
        Some(next) => Err(worker::retry(next)),
        None => Ok(current().info().delivery_info.get("priority").cloned()),
    }
}

#[task(name = "t.integration.tasks.retry_once_headers", max_retries = 1)]
pub(super) async fn retry_once_headers(
    args: Vec<Value>,
    max_retries: Option<u32>,
    countdown: Option<f64>,
) -> TaskResult<Option<Map<String, Value>>> {
    let _ = args;
    match once(countdown, max_retries, None) {
        Some(next) => Err(worker::retry(next)),
        None => Ok(current().info().headers),
    }
}

#[task(name = "auto_retry_class_task", max_retries = 1)]
pub(super) async fn auto_retry_class_task() -> TaskResult<u32> {
    match current().info().retries {
        0 => Err(worker::fail(
            Exception::new("builtins", "ValueError", vec![]),
            None,
        )),
        retries => Ok(retries),
    }
}

#[task(name = "t.integration.tasks.store_success_then_reject")]
pub(super) async fn store_success_then_reject() -> TaskResult<&'static str> {
    let run = current();
    if run.info().delivery_info["redelivered"] == json!(true) {
        return Ok("dedup-pass");
    }
    let stored = run.update_state("SUCCESS", json!("first-pass")).await;
    stored.map_err(|error| worker::fail(Exception::builtin("RuntimeError", error.to_string()), None))?;
    Err(worker::reject("", true))
}

#[task(name = "t.integration.tasks.reject_then_succeed")]
pub(super) async fn reject_then_succeed() -> TaskResult<&'static str> {
    if current().info().delivery_info["redelivered"] == json!(true) {
        return Ok("second-pass");
    }
    Err(worker::reject("", true))
}

#[task(name = "t.integration.tasks.reject_without_requeue")]
pub(super) async fn reject_without_requeue() -> TaskResult<()> {
    Err(worker::reject("rejected", false))
}
