//! The tasks of Celery's own integration suite (`t/integration/tasks.py`), under their names.
//!
//! Celery's suite then runs against this worker in place of a Python one. Only what its tests ask for is here.

#![expect(non_local_definitions, reason = "items made by the task macro")]
#![expect(clippy::disallowed_names, reason = "parameters that the suite passes by name")]

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value, json};
use tradebot_base::clock::{Clock, SystemClock};
use tradebot_symbols::worker::{
    self, Exception, Retry, Signature, TaskOptions, TaskResult, TaskSet, current, task,
};

use crate::notes::Notes;

/// Adds the suite's tasks.
pub(crate) fn add_tasks(tasks: TaskSet) -> TaskSet {
    let options = TaskOptions::new;
    let many = || options().collect_args("args");
    let second = options()
        .default_retry_delay(Duration::from_secs(1))
        .autoretry(false);
    tasks
        .with_builtins()
        .with::<identity>()
        .with::<add>()
        .with::<mul>()
        .with::<write_to_file_and_return_int>()
        .with::<add_not_typed>()
        .with_options::<add_ignore_result>(options().ignore_result(true))
        .with_options::<add_with_result>(options().ignore_result(false))
        .with_options::<raise_error>(many())
        .with::<chain_add>()
        .with::<chord_add>()
        .with::<delayed_sum>()
        .with::<delayed_sum_with_soft_guard>()
        .with::<tsum>()
        .with::<xsum>()
        .with::<sum_and_record>()
        .with::<add_replaced>()
        .with::<record_replaced_task_nesting>()
        .with::<add_replaced_with_chain>()
        .with_options::<replace_with_chain>(many())
        .with_options::<replace_with_chain_which_raises>(many())
        .with_options::<replace_with_empty_chain>(many())
        .with::<replace_with_chain_which_contains_a_group>()
        .with::<add_to_all>()
        .with::<add_to_all_to_chord>()
        .with::<add_chord_to_chord>()
        .with::<print_unicode>()
        .with::<return_exception>()
        .with_options::<sleeping>(options().collect_kwargs("others"))
        .with::<ids>()
        .with::<collect_ids>()
        .with_options::<retry>(second.clone())
        .with_options::<retry_unpickleable>(second)
        .with_options::<retry_with_args_after_kwargs>(options().autoretry(false))
        .with_options::<retry_with_kwargs_after_args>(options().autoretry(false))
        .with_options::<retry_once>(many().autoretry(false))
        .with_options::<retry_once_ignore_result>(options().ignore_result(true))
        .with_options::<retry_once_with_result>(options().ignore_result(false))
        .with_options::<retry_once_priority>(many().autoretry(false))
        .with_options::<retry_once_headers>(many().autoretry(false))
        .with::<redis_echo>()
        .with::<redis_echo_group_id>()
        .with::<redis_count>()
        .with::<second_order_replace1>()
        .with::<second_order_replace2>()
        .with::<build_chain_inside_task>()
        .with_options::<fail>(many())
        .with::<fail_unpickleable>()
        .with_options::<fail_replaced>(many())
        .with_options::<return_priority>(many())
        .with::<return_request_eta>()
        .with::<return_properties>()
        .with_options::<auto_retry_class_task>(options().retry_jitter(false))
        .with::<return_nested_signature_chain_chain>()
        .with::<return_nested_signature_chain_group>()
        .with::<return_nested_signature_chain_chord>()
        .with::<return_nested_signature_group_chain>()
        .with::<return_nested_signature_group_group>()
        .with::<return_nested_signature_group_chord>()
        .with::<return_nested_signature_chord_chain>()
        .with::<return_nested_signature_chord_group>()
        .with::<return_nested_signature_chord_chord>()
        .with::<rebuild_signature>()
        .with::<errback_old_style>()
        .with_options::<errback_new_style>(options().errback_with_request())
        .with::<errback_old_style_with_args>()
        .with_options::<errback_new_style_with_args>(options().errback_with_request())
        .with::<replaced_with_me>()
        .with::<add_pydantic>()
        .with::<add_pydantic_string_annotations>()
        .with::<replace_with_stamped_task>()
        .with::<store_success_then_reject>()
        .with::<reject_then_succeed>()
        .with::<reject_without_requeue>()
        .with::<return_request_time_limits>()
        .with::<task_with_declared_time_limits>()
}

/// A call of one of the suite's tasks.
fn s(name: &str) -> Signature {
    Signature::task(&format!("t.integration.tasks.{name}"))
}

fn expected(args: Vec<Value>) -> Exception {
    Exception::new("t.integration.tasks", "ExpectedException", args)
}

fn type_error(text: &str) -> celery::error::TaskError {
    worker::fail(Exception::builtin("TypeError", text), None)
}

async fn redis<T: redis::FromRedisValue>(command: &redis::Cmd) -> TaskResult<T> {
    let done = worker::state::<Notes>().command(command).await;
    done.map_err(|error| worker::fail(Exception::builtin("RuntimeError", error.to_string()), None))
}

async fn rpush(key: &str, value: &Value) -> TaskResult<()> {
    // kombu writes bytes as `{"__type__": "bytes", "__value__": "text"}`.
    let text = value.get("__value__").unwrap_or(value);
    let text = text.as_str().map_or_else(|| text.to_string(), str::to_owned);
    redis(redis::cmd("RPUSH").arg(key).arg(text)).await
}

/// `x + y` of numbers, texts and lists.
fn plus(x: &Value, y: &Value) -> TaskResult<Value> {
    match (x, y) {
        (Value::Number(x), Value::Number(y)) => Ok(match (x.as_i64(), y.as_i64()) {
            (Some(x), Some(y)) => json!(x + y),
            _ => json!(x.as_f64().unwrap_or_default() + y.as_f64().unwrap_or_default()),
        }),
        (Value::String(x), Value::String(y)) => Ok(json!(format!("{x}{y}"))),
        (Value::Array(x), Value::Array(y)) => Ok(Value::Array([x.as_slice(), y].concat())),
        _ => Err(type_error("unsupported operand type(s) for +")),
    }
}

fn sum(numbers: &[Value]) -> TaskResult<Value> {
    numbers
        .iter()
        .try_fold(json!(0), |sum, number| plus(&sum, number))
}

#[task(name = "t.integration.tasks.identity")]
async fn identity(x: Value) -> TaskResult<Value> {
    Ok(x)
}

#[task(name = "t.integration.tasks.add")]
async fn add(x: Value, y: Value, z: Option<Value>) -> TaskResult<Value> {
    let sum = plus(&x, &y)?;
    z.map_or(Ok(sum.clone()), |z| plus(&sum, &z))
}

#[task(name = "t.integration.tasks.mul")]
async fn mul(x: i64, y: i64) -> TaskResult<i64> {
    Ok(x * y)
}

#[task(name = "t.integration.tasks.write_to_file_and_return_int")]
async fn write_to_file_and_return_int(file_name: String, i: Value) -> TaskResult<Value> {
    use std::io::Write;
    let file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file_name);
    let written = file.and_then(|mut file| writeln!(file, "{i}"));
    written.map_err(|error| worker::fail(Exception::builtin("OSError", error.to_string()), None))?;
    Ok(i)
}

#[task(name = "t.integration.tasks.add_not_typed")]
async fn add_not_typed(x: Value, y: Value) -> TaskResult<Value> {
    plus(&x, &y)
}

#[task(name = "t.integration.tasks.add_ignore_result")]
async fn add_ignore_result(x: Value, y: Value) -> TaskResult<Value> {
    plus(&x, &y)
}

#[task(name = "t.integration.tasks.add_with_result")]
async fn add_with_result(x: Value, y: Value) -> TaskResult<Value> {
    plus(&x, &y)
}

#[task(name = "t.integration.tasks.raise_error")]
async fn raise_error(args: Vec<Value>) -> TaskResult<()> {
    let _ = args;
    Err(worker::fail(
        Exception::builtin("ValueError", "deliberate error"),
        None,
    ))
}

/// Sends a signature with the task's outcome.
fn send(signature: Signature) -> TaskResult<Value> {
    match current().send(signature) {
        Ok(sent) => Ok(sent.result),
        Err(error) => Err(worker::fail(
            Exception::builtin("ValueError", error.to_string()),
            None,
        )),
    }
}

#[task(name = "t.integration.tasks.chain_add")]
async fn chain_add(x: Value, y: Value) -> TaskResult<()> {
    send(s("add").args([x.clone(), x]) | s("add").arg(y))?;
    Ok(())
}

#[task(name = "t.integration.tasks.chord_add")]
async fn chord_add(x: Value, y: Value) -> TaskResult<()> {
    send(Signature::chord([s("add").args([x.clone(), x])], s("add").arg(y)))?;
    Ok(())
}

#[task(name = "t.integration.tasks.delayed_sum")]
async fn delayed_sum(numbers: Vec<Value>, pause_time: Option<f64>) -> TaskResult<Value> {
    tokio::time::sleep(Duration::from_secs_f64(pause_time.unwrap_or(1.0))).await;
    sum(&numbers)
}

#[task(name = "t.integration.tasks.delayed_sum_with_soft_guard")]
async fn delayed_sum_with_soft_guard(numbers: Vec<Value>, pause_time: Option<f64>) -> TaskResult<Value> {
    let run = current();
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(pause_time.unwrap_or(1.0))) => sum(&numbers),
        () = run.soft_time_limit() => Ok(json!(0)),
    }
}

#[task(name = "t.integration.tasks.tsum")]
async fn tsum(nums: Vec<Value>) -> TaskResult<Value> {
    sum(&nums)
}

#[task(name = "t.integration.tasks.xsum")]
async fn xsum(nums: Vec<Value>) -> TaskResult<Value> {
    let sums: TaskResult<Vec<Value>> = nums
        .iter()
        .map(|one| one.as_array().map_or_else(|| Ok(one.clone()), |list| sum(list)))
        .collect();
    sum(&sums?)
}

#[task(name = "t.integration.tasks.sum_and_record")]
async fn sum_and_record(values: Vec<Value>, redis_key: String) -> TaskResult<Value> {
    rpush(&redis_key, &json!(current().info().id)).await?;
    sum(&values)
}

#[task(name = "t.integration.tasks.add_replaced")]
async fn add_replaced(x: Value, y: Value) -> TaskResult<()> {
    Err(worker::replace(s("add").args([x, y])))
}

#[task(name = "t.integration.tasks.record_replaced_task_nesting")]
async fn record_replaced_task_nesting(
    replacements: u64,
    nesting: Option<Vec<Value>>,
) -> TaskResult<Vec<Value>> {
    let mut nesting = nesting.unwrap_or_default();
    nesting.push(json!(current().info().replaced_task_nesting));
    if replacements == 0 {
        return Ok(nesting);
    }
    let next = s("record_replaced_task_nesting")
        .arg(replacements - 1)
        .arg(nesting);
    Err(worker::replace(next))
}

#[task(name = "t.integration.tasks.add_replaced_with_chain")]
async fn add_replaced_with_chain(x: Value, y: Value) -> TaskResult<()> {
    Err(worker::replace(s("add").args([x, y]) | s("identity")))
}

/// `redis_echo`, of this message or of the result before it.
fn echo(message: Option<Value>) -> Signature {
    match message {
        Some(message) => s("redis_echo").arg(message).immutable(),
        None => s("redis_echo"),
    }
}

#[task(name = "t.integration.tasks.replace_with_chain")]
async fn replace_with_chain(args: Vec<Value>, link_msg: Option<Value>) -> TaskResult<()> {
    let chain = s("identity").args(args) | s("identity");
    Err(worker::replace(chain.on_success(echo(link_msg))))
}

#[task(name = "t.integration.tasks.replace_with_chain_which_raises")]
async fn replace_with_chain_which_raises(args: Vec<Value>, link_msg: Option<Value>) -> TaskResult<()> {
    let chain = s("identity").args(args) | s("raise_error");
    Err(worker::replace(chain.on_error(echo(link_msg))))
}

#[task(name = "t.integration.tasks.replace_with_empty_chain")]
async fn replace_with_empty_chain(args: Vec<Value>) -> TaskResult<()> {
    let _ = args;
    Err(worker::replace(Signature::chain([])))
}

#[task(name = "t.integration.tasks.replace_with_chain_which_contains_a_group")]
async fn replace_with_chain_which_contains_a_group() -> TaskResult<()> {
    let group = Signature::group([s("add").arg(1), s("add").arg(1)]);
    Err(worker::replace(s("add").args([1, 2]) | group))
}

fn add_to_each(nums: Vec<Value>, val: &Value) -> impl Iterator<Item = Signature> {
    nums.into_iter().map(|num| s("add").args([num, val.clone()]))
}

#[task(name = "t.integration.tasks.add_to_all")]
async fn add_to_all(nums: Vec<Value>, val: Value) -> TaskResult<()> {
    Err(worker::replace(Signature::group(add_to_each(nums, &val))))
}

fn add_to_chord(signature: Signature) -> TaskResult<()> {
    let added = current().add_to_chord(signature);
    added.map_err(|error| worker::fail(Exception::builtin("ValueError", error.to_string()), None))?;
    Ok(())
}

#[task(name = "t.integration.tasks.add_to_all_to_chord")]
async fn add_to_all_to_chord(nums: Vec<Value>, val: Value) -> TaskResult<i64> {
    for signature in add_to_each(nums, &val) {
        add_to_chord(signature)?;
    }
    Ok(0)
}

#[task(name = "t.integration.tasks.add_chord_to_chord")]
async fn add_chord_to_chord(nums: Vec<Value>, val: Value) -> TaskResult<i64> {
    add_to_chord(Signature::group(add_to_each(nums, &val)) | s("tsum"))?;
    Ok(0)
}

#[task(name = "t.integration.tasks.print_unicode")]
async fn print_unicode(log_message: Option<String>, print_message: Option<String>) -> TaskResult<()> {
    tracing::warn!(message = log_message.as_deref().unwrap_or("håå®ƒ valmuefrø"));
    tracing::info!(message = print_message.as_deref().unwrap_or("hiöäüß"));
    Ok(())
}

#[task(name = "t.integration.tasks.return_exception")]
async fn return_exception(e: Value) -> TaskResult<Value> {
    Ok(json!([e, true]))
}

#[task(name = "t.integration.tasks.sleeping")]
async fn sleeping(i: f64, others: Map<String, Value>) -> TaskResult<()> {
    let _ = others;
    tokio::time::sleep(Duration::from_secs_f64(i)).await;
    Ok(())
}

#[task(name = "t.integration.tasks.ids")]
async fn ids(i: Value) -> TaskResult<Value> {
    let info = current().info();
    Ok(json!([info.root_id, info.parent_id, i]))
}

#[task(name = "t.integration.tasks.collect_ids")]
async fn collect_ids(res: Value, i: Value) -> TaskResult<Value> {
    let info = current().info();
    Ok(json!([res, [info.root_id, info.parent_id, i]]))
}

#[task(name = "t.integration.tasks.retry")]
async fn retry(return_value: Option<Value>) -> TaskResult<Value> {
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
async fn retry_unpickleable(foo: Value, bar: Value, retry_kwargs: Map<String, Value>) -> TaskResult<()> {
    let mut retry = Retry::new().exception(unpickleable(&foo, &bar));
    if let Some(retries) = retry_kwargs.get("max_retries").and_then(Value::as_u64) {
        retry = retry.max_retries(u32::try_from(retries).unwrap_or(u32::MAX));
    }
    if let Some(seconds) = retry_kwargs.get("countdown").and_then(Value::as_f64) {
        retry = retry.countdown(Duration::from_secs_f64(seconds));
    }
    Err(worker::retry(retry))
}

/// What Python stores for an exception that does not survive pickling.
fn unpickleable(foo: &Value, bar: &Value) -> Exception {
    let _ = bar;
    let text = foo.as_str().unwrap_or_default();
    let arguments = vec![
        json!("t.integration.tasks"),
        json!("UnpickleableException"),
        json!([foo]),
        json!(text),
    ];
    Exception::new(
        "celery.utils.serialization",
        "UnpickleableExceptionWrapper",
        arguments,
    )
}

#[task(name = "t.integration.tasks.retry_with_args_after_kwargs", max_retries = 1)]
async fn retry_with_args_after_kwargs(foo: i64, bar: i64, label: Option<Value>) -> TaskResult<Value> {
    let retries = current().info().retries;
    if retries == 0 {
        let next = Retry::new().args([foo + 1, bar + 1]).countdown(Duration::ZERO);
        return Err(worker::retry(next));
    }
    Ok(json!({"foo": foo, "bar": bar, "label": label, "retries": retries, "is_eager": false}))
}

#[task(name = "t.integration.tasks.retry_with_kwargs_after_args", max_retries = 1)]
async fn retry_with_kwargs_after_args(foo: i64, bar: i64) -> TaskResult<Value> {
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
async fn retry_once(
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
async fn retry_once_ignore_result() -> TaskResult<u32> {
    match once(Some(0.0), Some(3), None) {
        Some(next) => Err(worker::retry(next)),
        None => Ok(current().info().retries),
    }
}

#[task(name = "t.integration.tasks.retry_once_with_result")]
async fn retry_once_with_result() -> TaskResult<u32> {
    match once(Some(0.0), Some(3), None) {
        Some(next) => Err(worker::retry(next)),
        None => Ok(current().info().retries),
    }
}

#[task(name = "t.integration.tasks.retry_once_priority", max_retries = 1)]
async fn retry_once_priority(
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
async fn retry_once_headers(
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

#[task(name = "t.integration.tasks.redis_echo")]
async fn redis_echo(message: Value, redis_key: Option<String>) -> TaskResult<()> {
    rpush(redis_key.as_deref().unwrap_or("redis-echo"), &message).await
}

#[task(name = "t.integration.tasks.redis_echo_group_id")]
async fn redis_echo_group_id(previous: Value, redis_key: Option<String>) -> TaskResult<()> {
    let _ = previous;
    let group = json!(current().info().group);
    rpush(redis_key.as_deref().unwrap_or("redis-group-ids"), &group).await
}

#[task(name = "t.integration.tasks.redis_count")]
async fn redis_count(redis_key: Option<String>) -> TaskResult<()> {
    count(redis_key.as_deref().unwrap_or("redis-count")).await
}

async fn count(key: &str) -> TaskResult<()> {
    redis(redis::cmd("INCR").arg(key)).await
}

#[task(name = "t.integration.tasks.second_order_replace1")]
async fn second_order_replace1(state: Option<bool>) -> TaskResult<()> {
    if state == Some(true) {
        return rpush("redis-echo", &json!("Out A")).await;
    }
    rpush("redis-echo", &json!("In A")).await?;
    let again = s("second_order_replace1").kwarg("state", true).immutable();
    Err(worker::replace(s("second_order_replace2") | again))
}

#[task(name = "t.integration.tasks.second_order_replace2")]
async fn second_order_replace2(state: Option<bool>) -> TaskResult<()> {
    if state == Some(true) {
        return rpush("redis-echo", &json!("Out B")).await;
    }
    rpush("redis-echo", &json!("In B")).await?;
    let again = s("second_order_replace2").kwarg("state", true).immutable();
    Err(worker::replace(s("redis_echo").arg("In/Out C") | again))
}

#[task(name = "t.integration.tasks.build_chain_inside_task")]
async fn build_chain_inside_task() -> TaskResult<Value> {
    let group = Signature::group([s("add").arg(3), s("add").arg(4)]);
    send(s("add").args([1, 1]) | s("add").arg(2) | group | s("add").arg(5))
}

#[task(name = "t.integration.tasks.fail")]
async fn fail(args: Vec<Value>) -> TaskResult<()> {
    let mut all = vec![json!("Task expected to fail")];
    all.extend(args);
    Err(worker::fail(expected(all), None))
}

#[task(name = "t.integration.tasks.fail_unpickleable")]
async fn fail_unpickleable(foo: Value, bar: Value) -> TaskResult<()> {
    Err(worker::fail(unpickleable(&foo, &bar), None))
}

#[task(name = "t.integration.tasks.fail_replaced")]
async fn fail_replaced(args: Vec<Value>) -> TaskResult<()> {
    Err(worker::replace(s("fail").args(args).immutable()))
}

#[task(name = "t.integration.tasks.return_priority")]
async fn return_priority(args: Vec<Value>) -> TaskResult<String> {
    let _ = args;
    let priority = current().info().delivery_info.remove("priority");
    Ok(format!("Priority: {}", priority.unwrap_or_default()))
}

#[task(name = "t.integration.tasks.return_request_eta")]
async fn return_request_eta() -> TaskResult<Option<String>> {
    let eta = current().info().eta;
    Ok(eta.map(|eta: DateTime<Utc>| eta.to_rfc3339()))
}

#[task(name = "t.integration.tasks.return_properties")]
async fn return_properties() -> TaskResult<Map<String, Value>> {
    Ok(current().info().properties)
}

#[task(name = "auto_retry_class_task", max_retries = 1)]
async fn auto_retry_class_task() -> TaskResult<u32> {
    match current().info().retries {
        0 => Err(worker::fail(
            Exception::new("builtins", "ValueError", vec![]),
            None,
        )),
        retries => Ok(retries),
    }
}

fn chord_of(header: Signature) -> Signature {
    Signature::chord([header], s("add"))
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_chain")]
async fn return_nested_signature_chain_chain() -> TaskResult<Value> {
    Ok(Signature::chain([Signature::chain([s("add")])]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_group")]
async fn return_nested_signature_chain_group() -> TaskResult<Value> {
    Ok(Signature::chain([Signature::group([s("add")])]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chain_chord")]
async fn return_nested_signature_chain_chord() -> TaskResult<Value> {
    Ok(Signature::chain([chord_of(s("add"))]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_group_chain")]
async fn return_nested_signature_group_chain() -> TaskResult<Value> {
    Ok(Signature::group([Signature::chain([s("add")])]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_group_group")]
async fn return_nested_signature_group_group() -> TaskResult<Value> {
    Ok(Signature::group([Signature::group([s("add")])]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_group_chord")]
async fn return_nested_signature_group_chord() -> TaskResult<Value> {
    Ok(Signature::group([chord_of(s("add"))]).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_chain")]
async fn return_nested_signature_chord_chain() -> TaskResult<Value> {
    Ok(chord_of(Signature::chain([s("add")])).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_group")]
async fn return_nested_signature_chord_group() -> TaskResult<Value> {
    Ok(chord_of(Signature::group([s("add")])).into_value())
}

#[task(name = "t.integration.tasks.return_nested_signature_chord_chord")]
async fn return_nested_signature_chord_chord() -> TaskResult<Value> {
    Ok(chord_of(chord_of(s("add"))).into_value())
}

#[task(name = "t.integration.tasks.rebuild_signature")]
async fn rebuild_signature(sig_dict: Value) -> TaskResult<()> {
    match Signature::from_value(&sig_dict) {
        Some(_) => Ok(()),
        None => Err(type_error("not a signature")),
    }
}

#[task(name = "t.integration.tasks.errback_old_style")]
async fn errback_old_style(request_id: String) -> TaskResult<String> {
    count(&request_id).await?;
    Ok(request_id)
}

/// The id in a request.
fn id_of(request: &Value) -> String {
    request["id"].as_str().unwrap_or_default().to_owned()
}

#[task(name = "t.integration.tasks.errback_new_style")]
async fn errback_new_style(request: Value, exc: Value, tb: Value) -> TaskResult<String> {
    let _ = (exc, tb);
    count(&id_of(&request)).await?;
    Ok(id_of(&request))
}

#[task(name = "t.integration.tasks.errback_old_style_with_args")]
async fn errback_old_style_with_args(request_id: String, label: Value) -> TaskResult<()> {
    rpush(&request_id, &label).await
}

#[task(name = "t.integration.tasks.errback_new_style_with_args")]
async fn errback_new_style_with_args(request: Value, exc: Value, tb: Value, label: Value) -> TaskResult<()> {
    let _ = (exc, tb);
    rpush(&id_of(&request), &label).await
}

#[task(name = "t.integration.tasks.replaced_with_me")]
async fn replaced_with_me() -> TaskResult<bool> {
    Ok(true)
}

fn sum_of_model(data: &Value) -> TaskResult<Value> {
    Ok(json!({"result": plus(&data["x"], &data["y"])?}))
}

#[task(name = "t.integration.tasks.add_pydantic")]
async fn add_pydantic(data: Value) -> TaskResult<Value> {
    sum_of_model(&data)
}

#[task(name = "t.integration.tasks.add_pydantic_string_annotations")]
async fn add_pydantic_string_annotations(data: Value) -> TaskResult<Value> {
    sum_of_model(&data)
}

#[task(name = "t.integration.tasks.replace_with_stamped_task")]
async fn replace_with_stamped_task(replace_with: Option<Value>) -> TaskResult<()> {
    let next = match replace_with {
        None => s("replaced_with_me"),
        Some(value) => Signature::from_value(&value).ok_or_else(|| type_error("not a signature"))?,
    };
    let stamp = "This is the replaced task";
    Err(worker::replace(next.stamp("StampOnReplace", stamp)))
}

#[task(name = "t.integration.tasks.store_success_then_reject")]
async fn store_success_then_reject() -> TaskResult<&'static str> {
    let run = current();
    if run.info().delivery_info["redelivered"] == json!(true) {
        return Ok("dedup-pass");
    }
    let stored = run.update_state("SUCCESS", json!("first-pass")).await;
    stored.map_err(|error| worker::fail(Exception::builtin("RuntimeError", error.to_string()), None))?;
    Err(worker::reject("", true))
}

#[task(name = "t.integration.tasks.reject_then_succeed")]
async fn reject_then_succeed() -> TaskResult<&'static str> {
    if current().info().delivery_info["redelivered"] == json!(true) {
        return Ok("second-pass");
    }
    Err(worker::reject("", true))
}

#[task(name = "t.integration.tasks.reject_without_requeue")]
async fn reject_without_requeue() -> TaskResult<()> {
    Err(worker::reject("rejected", false))
}

fn time_limits() -> Value {
    let (hard, soft) = current().info().timelimit;
    json!({"time_limit": hard, "soft_time_limit": soft})
}

#[task(name = "t.integration.tasks.return_request_time_limits")]
async fn return_request_time_limits() -> TaskResult<Value> {
    Ok(time_limits())
}

#[task(
    name = "t.integration.tasks.task_with_declared_time_limits",
    hard_time_limit = 60,
    time_limit = 45
)]
async fn task_with_declared_time_limits() -> TaskResult<Value> {
    Ok(time_limits())
}
