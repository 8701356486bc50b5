//! The commands that revoke and end tasks.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};
use tracing::{info, warn};

use super::arguments::{Arguments, CommandError, ok};
use super::node::Node;
use crate::engine::{Phase, matching};
use tradebot_base::error_chain;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::python_repr;

impl Node {
    /// `revoke`, and `terminate`, which is the same with a signal.
    pub(super) async fn revoke(
        &self,
        arguments: &Arguments<'_>,
        terminate: bool,
    ) -> Result<Value, CommandError> {
        arguments.required("task_id")?;
        let mut seen = HashSet::new();
        let mut ids = arguments.texts("task_id");
        ids.retain(|id| seen.insert(id.clone()));
        let known: Vec<&str> = ids.iter().map(String::as_str).collect();
        self.engine().revoke(&known);
        self.store_revoked(&ids).await;
        if !terminate {
            info!(tasks = %ids.join(", "), "tasks flagged as revoked");
            return Ok(ok(format!("tasks {} flagged as revoked", set_repr(&ids))));
        }
        let signal = signal_number(arguments.get("signal"))?;
        let mut terminated = Vec::new();
        for request in self.engine().requests().all() {
            if seen.contains(request.id()) {
                info!(task.id = request.id(), signal, "terminating");
                request.terminate(signal);
                terminated.push(request.id().to_owned());
            }
        }
        if terminated.is_empty() {
            return Ok(ok("terminate: tasks unknown"));
        }
        Ok(ok(format!("terminate: {}", terminated.join(", "))))
    }

    /// Stores REVOKED for tasks that no worker has started, as Celery 5.7 does. Tasks that run here keep their state
    /// until they end.
    async fn store_revoked(&self, ids: &[String]) {
        let active = self.engine().requests().in_phase(Phase::Active);
        let active: HashSet<&str> = active.iter().map(|request| request.id()).collect();
        for id in ids.iter().filter(|id| !active.contains(id.as_str())) {
            if let Err(trouble) = self.results.store_revoked(id).await {
                warn!(task.id = id, error = %error_chain(&trouble), "failed to mark a task as revoked");
                // The next would take as long to fail.
                return;
            }
        }
    }

    /// `revoke_by_stamped_headers`.
    pub(super) fn revoke_by_stamped_headers(&self, arguments: &Arguments<'_>) -> Result<Value, CommandError> {
        let headers = stamped_headers(arguments.required("headers")?)?;
        let signal = signal_number(arguments.get("signal"))?;
        for (name, values) in &headers {
            self.engine().revocations().add_stamp(name, &listed(values));
        }
        self.engine().wake_waiting();
        let shown = python_repr::plain(&[Value::Object(headers.clone())]);
        if !arguments.flag("terminate") {
            return Ok(ok(format!(
                "headers {shown} flagged as revoked, but not terminated"
            )));
        }
        let mut terminated: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for request in self.engine().requests().in_phase(Phase::Active) {
            let Ok(message) = Envelope::parse(request.raw()) else {
                continue;
            };
            let stamps = message.header("stamps");
            let stamps = stamps.as_ref().and_then(Value::as_object);
            for (name, values) in &headers {
                let values = listed(values);
                let hits: Vec<String> = matching(stamps, name, Some(&values))
                    .map(|value| python_repr::plain(std::slice::from_ref(value)))
                    .collect();
                if !hits.is_empty() {
                    let all = terminated.entry(name).or_default();
                    all.extend(
                        hits.into_iter()
                            .filter(|hit| !all.contains(hit))
                            .collect::<Vec<_>>(),
                    );
                    request.terminate(signal);
                }
            }
        }
        if terminated.is_empty() {
            return Ok(ok(format!("headers {shown} were not terminated")));
        }
        let members: Vec<String> = terminated
            .iter()
            .map(|(name, hits)| format!("{}: {{{}}}", python_repr::plain(&[json!(name)]), hits.join(", ")))
            .collect();
        Ok(ok(format!(
            "headers defaultdict(<class 'set'>, {{{}}}) revoked",
            members.join(", ")
        )))
    }
}

/// The headers as an object; a list of `name=value` is one too.
fn stamped_headers(given: &Value) -> Result<Map<String, Value>, CommandError> {
    match given {
        Value::Object(headers) => Ok(headers.clone()),
        Value::Array(pairs) => {
            let pair = |pair: &Value| {
                let (name, value) = pair.as_str()?.split_once('=')?;
                let value = value.split('=').next().unwrap_or_default();
                Some((name.to_owned(), json!(value)))
            };
            let pairs: Option<Map<String, Value>> = pairs.iter().map(pair).collect();
            pairs.ok_or_else(|| CommandError::new("IndexError", "list index out of range"))
        }
        _ => Err(CommandError::new(
            "AttributeError",
            "the headers have no attribute 'items'",
        )),
    }
}

fn listed(value: &Value) -> Vec<Value> {
    match value {
        Value::Array(several) => several.clone(),
        one => vec![one.clone()],
    }
}

/// Texts as Python writes a set of them.
fn set_repr(ids: &[String]) -> String {
    if ids.is_empty() {
        return "set()".to_owned();
    }
    let shown: Vec<String> = ids.iter().map(|id| python_repr::plain(&[json!(id)])).collect();
    format!("{{{}}}", shown.join(", "))
}

/// The number of a signal, given by number or name; SIGTERM if none is.
fn signal_number(given: Option<&Value>) -> Result<i32, CommandError> {
    let name = match given {
        None => return Ok(Signal::SIGTERM as i32),
        Some(Value::Number(number)) => {
            let number = number.as_i64().and_then(|number| i32::try_from(number).ok());
            return number
                .filter(|number| *number > 0)
                .ok_or_else(|| CommandError::value("signal number out of range"));
        }
        Some(Value::String(name)) if name.is_empty() => return Ok(Signal::SIGTERM as i32),
        Some(Value::String(name)) if name.chars().all(|c| !c.is_lowercase()) => name,
        Some(_) => {
            return Err(CommandError::new(
                "TypeError",
                "signal name must be uppercase string.",
            ));
        }
    };
    let full = if name.starts_with("SIG") {
        name.clone()
    } else {
        format!("SIG{name}")
    };
    Signal::from_str(&full).map(|signal| signal as i32).map_err(|_| {
        CommandError::new(
            "AttributeError",
            format!("module 'signal' has no attribute '{full}'"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_and_sets_are_pythons() {
        for (given, number) in [
            (None, 15),
            (Some(json!("KILL")), 9),
            (Some(json!("SIGUSR1")), 10),
            (Some(json!(2)), 2),
        ] {
            assert_eq!(signal_number(given.as_ref()), Ok(number));
        }
        for (given, error) in [
            (
                json!("kill"),
                "TypeError('signal name must be uppercase string.')",
            ),
            (
                json!("NOPE"),
                r#"AttributeError("module 'signal' has no attribute 'SIGNOPE'")"#,
            ),
        ] {
            assert_eq!(signal_number(Some(&given)).unwrap_err().repr(), error);
        }
        assert_eq!(set_repr(&[]), "set()");
        assert_eq!(set_repr(&["a".into(), "b".into()]), "{'a', 'b'}");
        assert_eq!(
            stamped_headers(&json!(["run=x=y"])).unwrap(),
            *json!({"run": "x"}).as_object().unwrap()
        );
    }
}
