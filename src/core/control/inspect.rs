//! The commands that only read.

use serde_json::{Map, Value, json};

use super::arguments::{Arguments, CommandError};
use super::node::Node;
use crate::engine::{Phase, Request, TaskType};
use crate::transport::Queue;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::timestamp;

/// What `registered` shows of a task by default.
const TASK_INFO_ITEMS: [&str; 3] = ["exchange", "routing_key", "rate_limit"];

pub(super) fn active(node: &Node, safe: bool) -> Value {
    list(node, Phase::Active, safe)
}

pub(super) fn reserved(node: &Node) -> Value {
    list(node, Phase::Reserved, false)
}

fn list(node: &Node, phase: Phase, safe: bool) -> Value {
    let requests = node.engine().requests().in_phase(phase);
    requests.iter().map(|request| info(node, request, safe)).collect()
}

pub(super) fn scheduled(node: &Node) -> Value {
    let requests = node.engine().requests().in_phase(Phase::Scheduled);
    let entry = |request: &std::sync::Arc<Request>| {
        let eta = request.eta().map(timestamp::isoformat);
        // Celery gives all of them the same priority in its timer.
        json!({"eta": eta, "priority": 6, "request": info(node, request, false)})
    };
    requests.iter().map(entry).collect()
}

pub(super) fn query_task(node: &Node, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
    arguments.required("ids")?;
    let ids = arguments.texts("ids");
    let mut found = Map::new();
    for request in node.engine().requests().all() {
        if ids.iter().any(|id| id == request.id()) {
            let state = request.phase().name();
            found.insert(
                request.id().to_owned(),
                json!([state, info(node, &request, false)]),
            );
        }
    }
    Ok(Value::Object(found))
}

/// A request as Celery's `Request.info` shows it; with `safe` the arguments as text.
fn info(node: &Node, request: &Request, safe: bool) -> Value {
    let (mut args, mut kwargs, mut delivery_info) = (Value::Null, Value::Null, Value::Null);
    // It was read once, so it can be read again.
    if let Ok(message) = Envelope::parse(request.raw()) {
        if safe {
            args = message.header("argsrepr").unwrap_or_else(|| "".into());
            kwargs = message.header("kwargsrepr").unwrap_or_else(|| "".into());
        } else if let Ok(body) = message.body() {
            args = Value::Array(body.args);
            kwargs = Value::Object(body.kwargs);
        }
        let sent = message.property("delivery_info");
        let part = |name: &str| sent.as_ref()?.get(name).cloned();
        delivery_info = json!({
            "exchange": part("exchange"),
            "routing_key": part("routing_key"),
            "priority": message.property("priority"),
            "redelivered": part("redelivered").unwrap_or(Value::Bool(false)),
        });
    }
    let time_start = request.time_start();
    let name = request.task().name();
    json!({
        "id": request.id(), "name": name, "args": args, "kwargs": kwargs, "type": name,
        "hostname": node.name(), "time_start": time_start, "acknowledged": false,
        "delivery_info": delivery_info, "worker_pid": time_start.map(|_| std::process::id()),
    })
}

pub(super) fn registered(node: &Node, arguments: &Arguments<'_>) -> Value {
    let mut items = arguments.texts("taskinfoitems");
    if items.is_empty() {
        items = TASK_INFO_ITEMS.map(str::to_owned).to_vec();
    }
    let with_items = |task: &std::sync::Arc<TaskType>| {
        let shown: Vec<String> = items
            .iter()
            .filter_map(|item| Some(format!("{item}={}", attribute(task, item)?)))
            .collect();
        if shown.is_empty() {
            task.name().to_owned()
        } else {
            format!("{} [{}]", task.name(), shown.join(" "))
        }
    };
    node.engine().task_types().map(with_items).collect()
}

/// An attribute of a task as Python's `str` shows it; `None` for attributes that tasks here lack.
fn attribute(task: &TaskType, name: &str) -> Option<String> {
    let policy = task.policy();
    let limits = task.limits().or(policy.map(|policy| policy.limits));
    let seconds = |limit: Option<std::time::Duration>| limit.map(|limit| limit.as_secs_f64().to_string());
    match name {
        "name" => Some(task.name().to_owned()),
        "rate_limit" => match task.rate().given() {
            Value::Null => None,
            Value::String(text) => Some(text),
            other => Some(other.to_string()),
        },
        "time_limit" => seconds(limits?.hard),
        "soft_time_limit" => seconds(limits?.soft),
        "max_retries" => Some(policy?.retry.max_retries.to_string()),
        "serializer" => Some("json".to_owned()),
        "acks_late" => Some("True".to_owned()),
        "ignore_result" => Some("False".to_owned()),
        _ => None,
    }
}

pub(super) fn active_queues(node: &Node) -> Value {
    node.transport.queues().iter().map(queue).collect()
}

/// A queue as kombu's `Queue.as_dict` shows it.
fn queue(queue: &Queue) -> Value {
    json!({
        "name": queue.name,
        "exchange": {
            "name": queue.exchange, "type": queue.exchange_type, "arguments": null, "durable": true,
            "passive": false, "auto_delete": false, "delivery_mode": null, "no_declare": false,
        },
        "routing_key": queue.routing_key, "queue_arguments": null, "binding_arguments": null,
        "consumer_arguments": null, "durable": true, "exclusive": false, "auto_delete": false, "no_ack": false,
        "alias": null, "bindings": [], "no_declare": null, "expires": null, "message_ttl": null,
        "max_length": null, "max_length_bytes": null, "max_priority": null,
    })
}

/// The memory that is resident, as Celery words it; null where the system does not report it.
pub(super) fn memsample() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    json!(kilobytes.map(|kilobytes| format!("{:.2}MB", kilobytes / 1024.0)))
}
