//! The tasks of a worker, for the engine and for the crate.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use celery::Celery;
use celery::error::CeleryError;
use celery::task::Task;
use serde::Serialize;
use serde_json::{Map, Value};

use super::managed::{self, Managed};
use tradebot_core::engine::TaskPolicy;
use tradebot_wire::body::Body;
use tradebot_wire::python_json;

type Registering<'a> = Pin<Box<dyn Future<Output = Result<(), CeleryError>> + 'a>>;

/// Tasks made with `#[celery::task]`.
#[derive(Default)]
pub struct TaskSet {
    entries: BTreeMap<&'static str, RegisteredTask>,
}

struct RegisteredTask {
    parameters: &'static [&'static str],
    /// Decodes the parameters into the task's own type.
    decode: fn(Value) -> Result<Box<dyn Any + Send>, serde_json::Error>,
    register: fn(&Celery) -> Registering<'_>,
    policy: TaskPolicy,
}

impl TaskSet {
    /// An empty set.
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
        let entry = RegisteredTask {
            parameters: T::ARGS,
            decode: |parameters| Ok(Box::new(serde_json::from_value::<T::Params>(parameters)?)),
            register: |app| Box::pin(app.register_task::<Managed<T>>()),
            policy: managed::policy::<T>(),
        };
        self.entries.insert(T::NAME, entry);
        self
    }

    /// Registered names, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.entries.keys().map(|name| (*name).to_owned()).collect()
    }

    /// The limits and retries that each task declares.
    #[must_use]
    pub fn policies(&self) -> BTreeMap<String, TaskPolicy> {
        let policy = |(name, entry): (&&'static str, &RegisteredTask)| ((*name).to_owned(), entry.policy);
        self.entries.iter().map(policy).collect()
    }

    pub(super) async fn register_all(&self, app: &Celery) -> Result<(), CeleryError> {
        for entry in self.entries.values() {
            (entry.register)(app).await?;
        }
        Ok(())
    }

    /// Binds positional and keyword arguments to a task's parameters, as a Python call does. The error has the text of
    /// Python's `TypeError`.
    pub(super) fn parameters(&self, task: &str, body: &Body) -> Result<Box<dyn Any + Send>, String> {
        let Some(entry) = self.entries.get(task) else {
            return Err(format!("{task} is not registered"));
        };
        let function = task.rsplit('.').next().unwrap_or(task);
        let bound = entry.bind(function, body)?;
        python_json::decode(Value::Object(bound), entry.decode)
            .map_err(|error| format!("{function}(): {error}"))
    }
}

impl RegisteredTask {
    fn bind(&self, function: &str, body: &Body) -> Result<Map<String, Value>, String> {
        if body.args.len() > self.parameters.len() {
            let (taken, given) = (self.parameters.len(), body.args.len());
            return Err(format!(
                "{function}() takes {taken} positional argument{} but {given} {} given",
                if taken == 1 { "" } else { "s" },
                if given == 1 { "was" } else { "were" },
            ));
        }
        let mut bound: Map<String, Value> = self
            .parameters
            .iter()
            .zip(&body.args)
            .map(|(name, value)| ((*name).into(), value.clone()))
            .collect();
        for (name, value) in &body.kwargs {
            if !self.parameters.contains(&name.as_str()) {
                return Err(format!(
                    "{function}() got an unexpected keyword argument '{name}'"
                ));
            }
            if bound.insert(name.clone(), value.clone()).is_some() {
                return Err(format!("{function}() got multiple values for argument '{name}'"));
            }
        }
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

    fn bind(args: Value, kwargs: Value) -> Result<(i64, i64), String> {
        let body = Body {
            args: args.as_array().cloned().unwrap(),
            kwargs: kwargs.as_object().cloned().unwrap(),
            ..Body::default()
        };
        let parameters = TaskSet::new().with::<add>().parameters("tests.add", &body)?;
        let parameters: Box<<add as Task>::Params> = parameters.downcast().unwrap();
        Ok((parameters.x, parameters.y))
    }

    #[test]
    fn arguments_are_bound_by_place_and_by_name() {
        assert_eq!(bind(json!([1]), json!({"y": 2})), Ok((1, 2)));
    }

    #[celery::task(name = "tests.any")]
    async fn any(value: Value, times: Option<f64>) -> TaskResult<Value> {
        Ok(json!([value, times]))
    }

    #[test]
    fn what_only_python_holds_is_given_to_those_who_take_anything() {
        let parameters = |args: &str| {
            let body = Body {
                args: python_json::from_slice(args.as_bytes()).unwrap(),
                ..Body::default()
            };
            TaskSet::new().with::<any>().parameters("tests.any", &body)
        };
        assert!(parameters(r#"[[NaN, {"\ud800": 12345678901234567890123}]]"#).is_ok());
        assert_eq!(parameters("[1, NaN]").unwrap_err(), "any(): cannot take nan");
        let body = Body {
            args: python_json::from_slice(br#"["\udcff"]"#).unwrap(),
            ..Body::default()
        };
        let refused = TaskSet::new().with::<text>().parameters("tests.text", &body);
        assert_eq!(refused.unwrap_err(), r"text(): cannot take '\udcff'");
    }

    #[celery::task(name = "tests.text")]
    async fn text(text: String) -> TaskResult<String> {
        Ok(text)
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
                .parameters("tests.now", &body)
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
