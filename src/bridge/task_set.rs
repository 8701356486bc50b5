//! The tasks of a worker: registered here once, known from here to the engine and to the crate.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use celery::Celery;
use celery::error::CeleryError;
use celery::task::Task;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::managed::Managed;
use crate::core::wire::body::Body;

type Registering<'a> = Pin<Box<dyn Future<Output = Result<(), CeleryError>> + 'a>>;

/// Tasks made with `#[celery::task]`.
#[derive(Default)]
pub struct TaskSet {
    entries: BTreeMap<&'static str, Entry>,
}

struct Entry {
    parameters: &'static [&'static str],
    /// Trial decoding, so that a refusal comes with its reason.
    decodes: fn(&Map<String, Value>) -> Result<(), serde_json::Error>,
    register: fn(&Celery) -> Registering<'_>,
}

impl TaskSet {
    /// No tasks yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task.
    #[must_use]
    pub fn with<T>(mut self) -> Self
    where
        T: Task + 'static,
        T::Returns: Serialize,
    {
        let entry = Entry {
            parameters: T::ARGS,
            decodes: |parameters| T::Params::deserialize(parameters).map(drop),
            register: |app| Box::pin(app.register_task::<Managed<T>>()),
        };
        self.entries.insert(T::NAME, entry);
        self
    }

    /// Registered names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.entries.keys().map(|name| (*name).to_owned()).collect()
    }

    pub(super) async fn register_all(&self, app: &Celery) -> Result<(), CeleryError> {
        for entry in self.entries.values() {
            (entry.register)(app).await?;
        }
        Ok(())
    }

    /// Matches positional and keyword arguments with a task's parameters, as a Python call would. The error
    /// is worded like the `TypeError` that Python raises.
    pub(super) fn bind_arguments(&self, task: &str, body: &Body) -> Result<Map<String, Value>, String> {
        let Some(entry) = self.entries.get(task) else {
            return Err(format!("{task} is not registered"));
        };
        let function = task.rsplit('.').next().unwrap_or(task);
        if body.args.len() > entry.parameters.len() {
            let (taken, given) = (entry.parameters.len(), body.args.len());
            return Err(format!(
                "{function}() takes {taken} positional argument{} but {given} {} given",
                if taken == 1 { "" } else { "s" },
                if given == 1 { "was" } else { "were" },
            ));
        }
        let mut bound: Map<String, Value> = entry
            .parameters
            .iter()
            .zip(&body.args)
            .map(|(name, value)| ((*name).into(), value.clone()))
            .collect();
        for (name, value) in &body.kwargs {
            if !entry.parameters.contains(&name.as_str()) {
                return Err(format!(
                    "{function}() got an unexpected keyword argument '{name}'"
                ));
            }
            if bound.insert(name.clone(), value.clone()).is_some() {
                return Err(format!("{function}() got multiple values for argument '{name}'"));
            }
        }
        (entry.decodes)(&bound).map_err(|error| format!("{function}(): {error}"))?;
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    #![expect(non_local_definitions, reason = "the task macro of the crate expands to them")]

    use super::*;
    use celery::task::TaskResult;
    use serde_json::json;

    #[celery::task(name = "tests.add")]
    async fn add(x: i64, y: i64) -> TaskResult<i64> {
        Ok(x + y)
    }

    fn bind(args: Value, kwargs: Value) -> Result<Map<String, Value>, String> {
        let body = Body {
            args: args.as_array().cloned().unwrap(),
            kwargs: kwargs.as_object().cloned().unwrap(),
            ..Body::default()
        };
        TaskSet::new().with::<add>().bind_arguments("tests.add", &body)
    }

    #[test]
    fn arguments_are_bound_by_place_and_by_name() {
        assert_eq!(
            Value::Object(bind(json!([1]), json!({"y": 2})).unwrap()),
            json!({"x": 1, "y": 2})
        );
    }

    #[celery::task(name = "tests.now")]
    async fn now() -> TaskResult<i64> {
        Ok(0)
    }

    #[test]
    fn one_argument_too_many_is_counted_as_python_counts() {
        let body = Body {
            args: vec![json!(1)],
            ..Body::default()
        };
        assert_eq!(
            TaskSet::new()
                .with::<now>()
                .bind_arguments("tests.now", &body)
                .unwrap_err(),
            "now() takes 0 positional arguments but 1 was given"
        );
    }

    #[test]
    fn what_python_refuses_is_refused_in_its_words() {
        for (args, kwargs, text) in [
            (
                json!([1, 2, 3]),
                json!({}),
                "add() takes 2 positional arguments but 3 were given",
            ),
            (
                json!([1]),
                json!({"z": 2}),
                "add() got an unexpected keyword argument 'z'",
            ),
            (
                json!([1]),
                json!({"x": 2}),
                "add() got multiple values for argument 'x'",
            ),
            (json!([1]), json!({}), "missing field `y`"),
            (json!([1, "two"]), json!({}), "invalid type"),
        ] {
            let error = bind(args, kwargs).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
