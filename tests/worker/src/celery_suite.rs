//! The tasks of Celery's own integration suite (`t/integration/tasks.py`), under their names.
//!
//! Celery's suite then runs against this worker in place of a Python one. Only what its tests ask for is here.

#![expect(non_local_definitions, reason = "items made by the task macro")]
#![expect(clippy::disallowed_names, reason = "parameters that the suite passes by name")]

mod replace;
mod retry;
mod signatures;

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
        .with::<signatures::chain_add>()
        .with::<signatures::chord_add>()
        .with::<delayed_sum>()
        .with::<delayed_sum_with_soft_guard>()
        .with::<tsum>()
        .with::<xsum>()
        .with::<sum_and_record>()
        .with::<replace::add_replaced>()
        .with::<replace::record_replaced_task_nesting>()
        .with::<replace::add_replaced_with_chain>()
        .with_options::<replace::replace_with_chain>(many())
        .with_options::<replace::replace_with_chain_which_raises>(many())
        .with_options::<replace::replace_with_empty_chain>(many())
        .with::<replace::replace_with_chain_which_contains_a_group>()
        .with::<replace::add_to_all>()
        .with::<replace::add_to_all_to_chord>()
        .with::<replace::add_chord_to_chord>()
        .with::<print_unicode>()
        .with::<return_exception>()
        .with_options::<sleeping>(options().collect_kwargs("others"))
        .with::<ids>()
        .with::<collect_ids>()
        .with_options::<retry::retry>(second.clone())
        .with_options::<retry::retry_unpickleable>(second)
        .with_options::<retry::retry_with_args_after_kwargs>(options().autoretry(false))
        .with_options::<retry::retry_with_kwargs_after_args>(options().autoretry(false))
        .with_options::<retry::retry_once>(many().autoretry(false))
        .with_options::<retry::retry_once_ignore_result>(options().ignore_result(true))
        .with_options::<retry::retry_once_with_result>(options().ignore_result(false))
        .with_options::<retry::retry_once_priority>(many().autoretry(false))
        .with_options::<retry::retry_once_headers>(many().autoretry(false))
        .with::<redis_echo>()
        .with::<redis_echo_group_id>()
        .with::<redis_count>()
        .with::<replace::second_order_replace1>()
        .with::<replace::second_order_replace2>()
        .with::<signatures::build_chain_inside_task>()
        .with_options::<fail>(many())
        .with::<fail_unpickleable>()
        .with_options::<replace::fail_replaced>(many())
        .with_options::<return_priority>(many())
        .with::<return_request_eta>()
        .with::<return_properties>()
        .with_options::<retry::auto_retry_class_task>(options().retry_jitter(false))
        .with::<signatures::return_nested_signature_chain_chain>()
        .with::<signatures::return_nested_signature_chain_group>()
        .with::<signatures::return_nested_signature_chain_chord>()
        .with::<signatures::return_nested_signature_group_chain>()
        .with::<signatures::return_nested_signature_group_group>()
        .with::<signatures::return_nested_signature_group_chord>()
        .with::<signatures::return_nested_signature_chord_chain>()
        .with::<signatures::return_nested_signature_chord_group>()
        .with::<signatures::return_nested_signature_chord_chord>()
        .with::<signatures::rebuild_signature>()
        .with::<errback_old_style>()
        .with_options::<errback_new_style>(options().errback_with_request())
        .with::<errback_old_style_with_args>()
        .with_options::<errback_new_style_with_args>(options().errback_with_request())
        .with::<replace::replaced_with_me>()
        .with::<add_pydantic>()
        .with::<add_pydantic_string_annotations>()
        .with::<replace::replace_with_stamped_task>()
        .with::<retry::store_success_then_reject>()
        .with::<retry::reject_then_succeed>()
        .with::<retry::reject_without_requeue>()
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
