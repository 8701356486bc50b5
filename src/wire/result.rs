//! The result document, which Celery stores under `celery-task-meta-<id>` and publishes on the channel of that name.

use chrono::{DateTime, Utc};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value, json};

use super::{envelope::Envelope, python_json, python_repr, timestamp};

/// An exception as Python's result backend stores it.
///
/// A Python client rebuilds it: it imports `module` and calls the class with the arguments in `message`. If it cannot
/// import the class, it makes one up, so prefer classes of `builtins`.
#[derive(Debug, Clone, PartialEq)]
pub struct Exception {
    /// Class name, for example `ValueError`.
    pub kind: String,
    /// Arguments of the constructor.
    pub message: Vec<Value>,
    /// Module of the class, for example `builtins`.
    pub module: String,
}

impl Exception {
    /// An exception of Python's `builtins` with one string as its argument.
    pub fn builtin(kind: &str, message: impl Into<String>) -> Self {
        Self::new("builtins", kind, vec![Value::String(message.into())])
    }

    /// An exception of any class.
    #[must_use]
    pub fn new(module: &str, kind: &str, message: Vec<Value>) -> Self {
        Self {
            kind: kind.into(),
            message,
            module: module.into(),
        }
    }

    /// `TaskRevokedError`, the exception of a revoked or expired task.
    #[must_use]
    pub fn revoked(reason: &str) -> Self {
        Self::new("celery.exceptions", "TaskRevokedError", vec![json!(reason)])
    }

    /// The exception as the last line of a Python traceback shows it.
    #[must_use]
    pub fn line(&self) -> String {
        let text = match self.message.as_slice() {
            [] => String::new(),
            // Python shows the key of a `KeyError` with `repr`.
            [Value::String(one)] if self.kind != "KeyError" => format!(": {}", python_repr::text(one)),
            [one] => format!(": {}", python_repr::plain(std::slice::from_ref(one))),
            several => format!(": ({})", python_repr::plain(several)),
        };
        format!("{}{text}", self.kind)
    }

    /// The exception as Python's `repr` and Celery's events show it: `ValueError('boom', 42)`.
    #[must_use]
    pub fn repr(&self) -> String {
        format!("{}({})", self.kind, python_repr::plain(&self.message))
    }

    /// Reads an exception as Celery's backends store it. Any other value becomes the text of an `Exception`.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let message = match value.get("exc_message") {
            None | Some(Value::Null) => vec![],
            Some(Value::Array(arguments)) => arguments.clone(),
            Some(one) => vec![one.clone()],
        };
        match text("exc_type") {
            Some(kind) => Self::new(text("exc_module").unwrap_or("celery.exceptions"), kind, message),
            None => Self::builtin("Exception", python_json::to_string(value).unwrap_or_default()),
        }
    }

    fn to_value(&self) -> Value {
        json!({"exc_type": self.kind, "exc_message": self.message, "exc_module": self.module})
    }
}

/// The state of a task, with what the result backend stores for it.
#[derive(Debug, Clone, PartialEq)]
pub enum TaskState {
    /// Running; stored only with `task_track_started`.
    Started {
        /// Process id of the worker.
        pid: u32,
        /// Node name of the worker.
        hostname: String,
    },
    /// Returned this value.
    Success(Value),
    /// Failed and will be retried; with the traceback.
    Retry(Exception, String),
    /// Failed for good. There is no traceback if no code raised, as with a hard time limit.
    Failure(Exception, Option<String>),
    /// Revoked or expired before it ran, or revoked while it ran.
    Revoked(Exception),
    /// A state that a task stores about itself while it runs.
    Custom {
        /// Its name, such as `PROGRESS`.
        name: String,
        /// Celery's `meta`.
        meta: Value,
    },
}

impl TaskState {
    /// The name of the state.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Started { .. } => "STARTED",
            Self::Success(_) => "SUCCESS",
            Self::Retry(..) => "RETRY",
            Self::Failure(..) => "FAILURE",
            Self::Revoked(_) => "REVOKED",
            Self::Custom { name, .. } => name,
        }
    }

    /// The result to store: the returned value, the exception, or the process that runs the task.
    #[must_use]
    pub fn result(&self) -> Value {
        match self {
            Self::Started { pid, hostname } => json!({"pid": pid, "hostname": hostname}),
            Self::Success(value) | Self::Custom { meta: value, .. } => value.clone(),
            Self::Retry(exception, _) | Self::Failure(exception, _) | Self::Revoked(exception) => {
                exception.to_value()
            }
        }
    }

    /// Whether the state ends the task.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.name(), "SUCCESS" | "FAILURE" | "REVOKED")
    }
}

/// The document to store, with its members in Celery's order. `children` are the results of the tasks that this one
/// published. If `worker` is given, the document has the members that `result_extended` adds.
#[must_use]
pub fn document(
    message: &Envelope,
    state: &TaskState,
    children: &[Value],
    now: DateTime<Utc>,
    worker: Option<&str>,
) -> String {
    let document = ResultDocument {
        message,
        state,
        children,
        now,
        worker,
    };
    python_json::to_string(&document).expect("names and JSON values are JSON")
}

/// Serialized member by member: nearly every run writes one, and a map would cost allocations.
struct ResultDocument<'d> {
    message: &'d Envelope,
    state: &'d TaskState,
    children: &'d [Value],
    now: DateTime<Utc>,
    worker: Option<&'d str>,
}

impl Serialize for ResultDocument<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { message, state, .. } = *self;
        let traceback = match state {
            TaskState::Retry(_, traceback) => Some(traceback.as_str()),
            TaskState::Failure(_, traceback) => traceback.as_deref(),
            TaskState::Started { .. }
            | TaskState::Success(_)
            | TaskState::Revoked(_)
            | TaskState::Custom { .. } => None,
        };
        let done = state.is_ready().then(|| timestamp::isoformat(self.now));
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("status", state.name())?;
        match state {
            TaskState::Success(value) | TaskState::Custom { meta: value, .. } => {
                map.serialize_entry("result", value)?;
            }
            _ => map.serialize_entry("result", &state.result())?,
        }
        map.serialize_entry("traceback", &traceback)?;
        map.serialize_entry("children", self.children)?;
        map.serialize_entry("date_done", &done)?;
        for (name, header) in [("group_id", "group"), ("parent_id", "parent_id")] {
            if let Some(value) = message.header(header) {
                map.serialize_entry(name, &value)?;
            }
        }
        if let Some(worker) = self.worker {
            let mut extended = Map::new();
            extend(&mut extended, message, worker);
            for (name, value) in &extended {
                map.serialize_entry(name, value)?;
            }
        }
        map.serialize_entry("task_id", &message.sent_id())?;
        map.end()
    }
}

/// The document of a task that was revoked by id, when its message is not at hand.
#[must_use]
pub fn revoked_document(id: &str, now: DateTime<Utc>) -> String {
    let fields = json!({
        "status": "REVOKED",
        "result": Exception::revoked("revoked").to_value(),
        "traceback": null,
        "children": null,
        "date_done": timestamp::isoformat(now),
        "task_id": id,
    });
    python_json::to_string(&fields).expect("a map of JSON values is JSON")
}

/// Adds the members of `result_extended`. If the body cannot be decoded, the arguments are null.
fn extend(fields: &mut Map<String, Value>, message: &Envelope, worker: &str) {
    let (args, kwargs) = match message.body() {
        Ok(body) => (json!(body.args), json!(body.kwargs)),
        Err(_) => (Value::Null, Value::Null),
    };
    let delivery = message.property("delivery_info");
    let queue = delivery.as_ref().and_then(|delivery| delivery.get("routing_key"));
    for (name, value) in [
        ("name", json!(message.task())),
        ("args", args),
        ("kwargs", kwargs),
        ("worker", json!(worker)),
        ("retries", json!(message.retries())),
        ("queue", json!(queue)),
    ] {
        fields.insert(name.into(), value);
    }
    if let Some(Value::Object(stamps)) = message.header("stamps")
        && !stamps.is_empty()
    {
        let named = message.header("stamped_headers");
        fields.insert("stamped_headers".into(), json!(named));
        let is_named = |name: &String| {
            let names = named.as_ref().and_then(Value::as_array);
            names.is_some_and(|names| names.iter().any(|named| named == name))
        };
        for (name, value) in stamps.into_iter().filter(|(name, _)| is_named(name)) {
            fields.insert(name, value);
        }
    }
}

/// A child result, encoded as `AsyncResult.as_tuple` does.
#[must_use]
pub fn child(task_id: &str) -> Value {
    json!([[task_id, null], null])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: &str) -> Envelope {
        Envelope::parse(format!(r#"{{"headers": {{"task": "t", "id": "5af2ac67"{headers}}}}}"#).as_bytes())
            .unwrap()
    }

    fn noon() -> DateTime<Utc> {
        timestamp::parse("2026-11-23T10:38:06.712300+00:00").unwrap()
    }

    #[test]
    fn documents_have_the_bytes_python_writes() {
        assert_eq!(
            document(&message(""), &TaskState::Success(json!(9)), &[], noon(), None),
            r#"{"status": "SUCCESS", "result": 9, "traceback": null, "children": [], "date_done": "2026-11-23T10:38:06.712300+00:00", "task_id": "5af2ac67"}"#
        );
        let failure = TaskState::Failure(
            Exception::new("builtins", "ValueError", vec![json!("boom"), json!(42)]),
            Some("Traceback\n".into()),
        );
        assert_eq!(
            document(
                &message(r#", "group": "g", "parent_id": "p""#),
                &failure,
                &[child("c")],
                noon(),
                None
            ),
            r#"{"status": "FAILURE", "result": {"exc_type": "ValueError", "exc_message": ["boom", 42], "exc_module": "builtins"}, "traceback": "Traceback\n", "children": [[["c", null], null]], "date_done": "2026-11-23T10:38:06.712300+00:00", "group_id": "g", "parent_id": "p", "task_id": "5af2ac67"}"#
        );
        let expired = TaskState::Revoked(Exception::revoked("expired"));
        assert!(
            document(&message(""), &expired, &[], noon(), None).contains(r#""exc_message": ["expired"]"#)
        );
    }

    #[test]
    fn an_exception_is_shown_as_python_shows_it() {
        for (kind, message, line, repr) in [
            (
                "ValueError",
                vec![json!("it's")],
                "ValueError: it's",
                r#"ValueError("it's")"#,
            ),
            (
                "ValueError",
                vec![json!("a"), json!(42)],
                "ValueError: ('a', 42)",
                "ValueError('a', 42)",
            ),
            ("KeyError", vec![json!("k")], "KeyError: 'k'", "KeyError('k')"),
            (
                "RuntimeError",
                vec![json!(null)],
                "RuntimeError: None",
                "RuntimeError(None)",
            ),
            ("SystemError", vec![], "SystemError", "SystemError()"),
        ] {
            let exception = Exception::new("builtins", kind, message);
            assert_eq!(
                (exception.line().as_str(), exception.repr().as_str()),
                (line, repr)
            );
        }
    }

    #[test]
    fn extended_documents_tell_of_the_message() {
        let raw = r#"{"body": "[[1, \"x\"], {\"k\": null}, {}]", "content-type": "application/json",
            "headers": {"task": "t", "id": "i", "retries": 2, "stamped_headers": ["mid"], "stamps": {"mid": "abc", "other": 1}},
            "properties": {"delivery_info": {"exchange": "", "routing_key": "q"}}}"#;
        let message = Envelope::parse(raw.as_bytes()).unwrap();
        assert_eq!(
            document(&message, &TaskState::Success(json!(7)), &[], noon(), Some("w@h")),
            r#"{"status": "SUCCESS", "result": 7, "traceback": null, "children": [], "date_done": "2026-11-23T10:38:06.712300+00:00", "name": "t", "args": [1, "x"], "kwargs": {"k": null}, "worker": "w@h", "retries": 2, "queue": "q", "stamped_headers": ["mid"], "mid": "abc", "task_id": "i"}"#
        );
    }

    #[test]
    fn only_final_states_have_a_date() {
        let retry = TaskState::Retry(Exception::builtin("KeyError", "nope"), "Traceback".into());
        assert!(document(&message(""), &retry, &[], noon(), None).contains(r#""date_done": null"#));
        let started = TaskState::Started {
            pid: 7,
            hostname: "w@h".into(),
        };
        assert!(
            document(&message(""), &started, &[], noon(), None)
                .contains(r#""result": {"pid": 7, "hostname": "w@h"}"#)
        );
    }
}
