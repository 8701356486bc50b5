//! Chords: the results of a header's tasks are counted, and the last of them brings the body.

use serde_json::{Value, json};

use super::signature::{Kind, Signature, listed};
use crate::body::Body;
use crate::envelope::Envelope;
use crate::result::{Exception, State};

/// One result that a chord waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// The header's group.
    pub group: String,
    /// Task that the result is of.
    pub task_id: String,
    /// Place in the header; the results are passed to the body in this order.
    pub index: Option<u64>,
    /// The body.
    pub body: Value,
}

/// What a complete header gives to its body.
#[derive(Debug, PartialEq)]
pub enum Joined {
    /// The results in the header's order.
    Results(Vec<Value>),
    /// The body is not run; this is why.
    Failed {
        /// The chord's failure.
        error: Exception,
        /// The failure of the part that caused it.
        cause: Option<Exception>,
    },
}

/// A task that has failed without having run.
#[derive(Debug, PartialEq)]
pub struct Abandoned {
    /// A message with the headers that its result is made from.
    pub message: Envelope,
    /// The chord that waits for it, if any.
    pub part: Option<Part>,
}

impl Part {
    /// The part that a message is, if it belongs to a chord's header.
    #[must_use]
    pub fn of(message: &Envelope, body: &Body) -> Option<Self> {
        let chord = body.embed.get("chord").filter(|chord| !chord.is_null())?;
        Some(Self {
            group: message.text("group")?.to_owned(),
            task_id: message.id().to_owned(),
            index: message.header("group_index").and_then(|index| index.as_u64()),
            body: chord.clone(),
        })
    }

    /// The part that a signature would have been.
    fn of_signature(signature: &Value) -> Option<Self> {
        let options = signature.get("options")?;
        let text = |name: &str| Some(options.get(name)?.as_str()?.to_owned());
        Some(Self {
            group: text("group_id")?,
            task_id: text("task_id")?,
            index: options.get("group_index").and_then(Value::as_u64),
            body: options.get("chord").filter(|chord| !chord.is_null())?.clone(),
        })
    }

    /// The member that counts the part: `[1, task, state, result]`.
    #[must_use]
    pub fn member(&self, state: &State) -> Value {
        json!([1, self.task_id, state.name(), state.result()])
    }
}

/// Joins the parts of a complete header. `saved` is the header's saved result, there if parts of it are groups
/// themselves; `[[id, parent], members]` as in result documents.
#[must_use]
pub fn join(parts: &[Value], saved: Option<&Value>) -> Joined {
    if let Some(members) = saved.and_then(|saved| saved.get(1)?.as_array()) {
        let joined: Result<Vec<Value>, Exception> =
            members.iter().map(|member| value_of(member, parts)).collect();
        return match joined {
            Ok(results) => Joined::Results(results),
            Err(exception) => Joined::Failed {
                error: chord_error(format!("Join error: {}", exception.repr())),
                cause: None,
            },
        };
    }
    let mut results = Vec::with_capacity(parts.len());
    for part in parts {
        if let Some(exception) = failure_of(part) {
            let task_id = part.get(1).and_then(Value::as_str).unwrap_or_default();
            return Joined::Failed {
                error: chord_error(format!("Dependency {task_id} raised {}", exception.repr())),
                cause: Some(exception),
            };
        }
        results.push(part.get(3).cloned().unwrap_or_default());
    }
    Joined::Results(results)
}

/// Ids of the tasks that a header's saved result names and no part is from.
///
/// Before 5.7 a group at the end of a chain in a header may go by the header's own id, and whoever expands it
/// writes its size over the header's: the header then seems complete too early.
#[must_use]
pub fn missing(parts: &[Value], saved: Option<&Value>) -> Vec<String> {
    let mut missing = Vec::new();
    let members = saved.and_then(|saved| saved.get(1)?.as_array());
    let mut waiting: Vec<&Value> = members.into_iter().flatten().collect();
    while let Some(result) = waiting.pop() {
        if let Some(members) = result.get(1).and_then(Value::as_array) {
            waiting.extend(members);
        } else if let Some(id) = id_of(result).and_then(Value::as_str)
            && !parts
                .iter()
                .any(|part| part.get(1).and_then(Value::as_str) == Some(id))
        {
            missing.push(id.to_owned());
        }
    }
    missing
}

/// A stored result as the part that it would have been, if it is the last word on its task.
#[must_use]
pub fn part_of_document(document: &Value) -> Option<Value> {
    let state = document.get("status")?.as_str()?;
    matches!(state, "SUCCESS" | "FAILURE" | "REVOKED")
        .then(|| json!([1, document.get("task_id"), state, document.get("result")]))
}

/// The id in a result's pair encoding.
fn id_of(saved: &Value) -> Option<&Value> {
    saved.get(0).map(|pair| pair.get(0).unwrap_or(pair))
}

/// The value of a saved result, found among the parts by its id.
fn value_of(saved: &Value, parts: &[Value]) -> Result<Value, Exception> {
    if let Some(members) = saved.get(1).and_then(Value::as_array) {
        let values: Result<Vec<Value>, Exception> =
            members.iter().map(|member| value_of(member, parts)).collect();
        return values.map(Value::Array);
    }
    let id = id_of(saved);
    let part = parts.iter().find(|part| part.get(1) == id);
    match part.map(|part| (failure_of(part), part)) {
        Some((Some(exception), _)) => Err(exception),
        Some((None, part)) => Ok(part.get(3).cloned().unwrap_or_default()),
        None => Err(Exception::new(
            "celery.exceptions",
            "TimeoutError",
            vec![json!("The operation timed out.")],
        )),
    }
}

fn failure_of(part: &Value) -> Option<Exception> {
    let state = part.get(2)?.as_str()?;
    matches!(state, "FAILURE" | "REVOKED").then(|| Exception::from_value(part.get(3).unwrap_or(&Value::Null)))
}

fn chord_error(text: String) -> Exception {
    Exception::new("celery.exceptions", "ChordError", vec![Value::String(text)])
}

/// What will not run when a task has failed, from the list of what should have followed it. A chord completes
/// with its body, so that is what has failed; groups inside are nobody's to wait for by id, as in Celery.
#[must_use]
pub fn abandoned(chain: &[Value]) -> Vec<Abandoned> {
    let mut failed = Vec::new();
    let mut waiting: Vec<&Value> = chain.iter().collect();
    let mut at = 0;
    while let Some(signature) = waiting.get(at).copied() {
        at += 1;
        failed.extend(one_abandoned(signature));
        if signature.get("subtask_type").and_then(Value::as_str) == Some("chord") {
            waiting.extend(signature.get("kwargs").and_then(|kwargs| kwargs.get("body")));
        }
    }
    failed
}

/// What has failed when a chord's body is not run, itself first.
#[must_use]
pub fn abandoned_body(body: &Value) -> Vec<Abandoned> {
    let mut failed: Vec<Abandoned> = Vec::new();
    let one_abandoned = |signature: &Value| {
        let mut failed = one_abandoned(signature)?;
        // Celery has no request at hand to take the group from.
        failed.message.set_header("group", Value::Null);
        failed.message.set_header("parent_id", Value::Null);
        Some(failed)
    };
    match Signature::read(body).map(|body| body.kind) {
        // Whoever waits for a group waits for its members.
        Some(Kind::Group(members)) => {
            failed.extend(
                members
                    .iter()
                    .filter_map(|member| one_abandoned(&member.to_value())),
            );
            failed.extend(one_abandoned(body));
        }
        Some(Kind::Chain(steps)) => {
            let last = one_abandoned(body);
            let others = steps.iter().filter_map(|step| one_abandoned(&step.to_value()));
            // A chain has the id of its last step.
            failed.extend(others);
            if let Some(last) = last
                && !failed.iter().any(|step| step.message.id() == last.message.id())
            {
                failed.push(last);
            }
        }
        Some(Kind::Chord { body: inner, .. }) => {
            failed.extend(abandoned_body(&inner.to_value()));
            failed.extend(one_abandoned(body));
        }
        _ => failed.extend(one_abandoned(body)),
    }
    failed.extend(abandoned(&listed(
        body.get("options").and_then(|options| options.get("chain")),
    )));
    failed
}

fn one_abandoned(signature: &Value) -> Option<Abandoned> {
    let options = signature.get("options")?;
    let id = options.get("task_id")?.as_str().filter(|id| !id.is_empty())?;
    let option = |name: &str| options.get(name).cloned().unwrap_or_default();
    let headers = json!({
        "task": signature.get("task"),
        "id": id,
        "group": option("group_id"),
        "parent_id": option("parent_id"),
    });
    let headers = headers.as_object().cloned().unwrap_or_default();
    Some(Abandoned {
        message: Envelope::assemble(headers, serde_json::Map::new(), &Body::default()),
        part: Part::of_signature(signature),
    })
}
