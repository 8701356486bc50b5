//! Chords: the results of the header's tasks are counted, and the last one triggers the body.

use serde_json::{Value, json};

use super::signature::{Signature, SubtaskType, listed};
use crate::body::Body;
use crate::envelope::Envelope;
use crate::result::{Exception, TaskState};
use crate::typed;

/// A task of a chord's header, whose result the chord waits for.
#[derive(Debug, Clone, PartialEq)]
pub struct ChordPart {
    /// Group id of the header.
    pub group: String,
    /// Id of the task.
    pub task_id: String,
    /// Position in the header, which orders the results for the body.
    pub index: Option<u64>,
    /// Signature of the body.
    pub body: Value,
}

/// The joined results of a complete header.
#[derive(Debug, PartialEq)]
pub enum Joined {
    /// All tasks succeeded; the results in the header's order.
    Results(Vec<Value>),
    /// A task failed, so the body does not run.
    Failed {
        /// The failure of the chord.
        error: Exception,
        /// The failure of the task that caused it.
        cause: Option<Exception>,
    },
}

/// A task that fails because it will never run.
#[derive(Debug, PartialEq)]
pub struct Abandoned {
    /// A message with the headers that go into its result.
    pub message: Envelope,
    /// The chord that waits for it, if any.
    pub part: Option<ChordPart>,
}

impl Joined {
    /// The failure of a chord whose keys hold what Celery does not write there.
    #[must_use]
    pub fn broken(group: &str) -> Self {
        let text = format!("the keys of the chord's header {group} do not hold its results");
        Self::Failed {
            error: chord_error(text),
            cause: None,
        }
    }
}

impl ChordPart {
    /// Reads the part from a message, if that belongs to a chord's header.
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

    /// Reads the part from a signature that was not published.
    fn of_signature(signature: &Value) -> Option<Self> {
        let options = signature.get("options")?;
        let text = |name: &str| typed::id_text(options.get(name)?);
        Some(Self {
            group: text("group_id")?,
            task_id: text("task_id")?,
            index: options.get("group_index").and_then(Value::as_u64),
            body: options.get("chord").filter(|chord| !chord.is_null())?.clone(),
        })
    }

    /// The member to store for the part: `[1, task, state, result]`.
    #[must_use]
    pub fn member(&self, state: &TaskState) -> Value {
        json!([1, self.task_id, state.name(), state.result()])
    }
}

/// Joins the parts of a complete header. `saved` is the header's saved result, `[[id, parent], members]`, which exists
/// if the header contains groups.
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

/// Ids of the tasks in a header's saved result that have no part yet.
///
/// Before Celery 5.7, a group at the end of a chain in a header may have the header's own id. The worker that expands
/// it overwrites the header's size, and the header seems complete too early.
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

/// Converts a result document into a part, if the state in it is final.
#[must_use]
pub fn part_of_document(document: &Value) -> Option<Value> {
    let state = document.get("status")?.as_str()?;
    matches!(state, "SUCCESS" | "FAILURE" | "REVOKED")
        .then(|| json!([1, document.get("task_id"), state, document.get("result")]))
}

/// The id in an encoded result.
fn id_of(saved: &Value) -> Option<&Value> {
    saved.get(0).map(|pair| pair.get(0).unwrap_or(pair))
}

/// The value of a saved result: looks up the part by id.
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

/// The tasks of the rest of a chain that will not run because a task has failed. For a chord that includes its body,
/// whose result completes it. As in Celery, the members of groups are left out.
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

/// The tasks that fail when a chord's body does not run, and all that follows the body.
#[must_use]
pub fn abandoned_body(body: &Value) -> Vec<Abandoned> {
    let mut failed: Vec<Abandoned> = Vec::new();
    let one_abandoned = |signature: &Value| {
        let mut failed = one_abandoned(signature)?;
        // Celery has no request here to take the group from.
        failed.message.set_header("group", Value::Null);
        failed.message.set_header("parent_id", Value::Null);
        Some(failed)
    };
    match Signature::read(body).map(|body| body.kind) {
        // Waiting for a group means waiting for its members.
        Some(SubtaskType::Group(members)) => {
            failed.extend(
                members
                    .iter()
                    .filter_map(|member| one_abandoned(&member.result().to_value())),
            );
            failed.extend(one_abandoned(body));
        }
        Some(SubtaskType::Chain(steps)) => {
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
        Some(SubtaskType::Chord { body: inner, .. }) => {
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
    let id = options.get("task_id")?;
    typed::id_text(id).filter(|id| !id.is_empty())?;
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
        part: ChordPart::of_signature(signature),
    })
}
