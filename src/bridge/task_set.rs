//! The tasks of a worker, for the engine and for the crate.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use celery::Celery;
use celery::error::CeleryError;
use celery::task::Task;
use serde::Serialize;
use serde_json::{Map, Value};

use super::context::{DEFAULT_RETRY_DELAY, TaskContext};
use super::local_calls::{self, Call};
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

/// One task.
pub(super) struct RegisteredTask {
    parameters: &'static [&'static str],
    pub(super) options: TaskOptions,
    /// The function, to be called in another task.
    pub(super) call: fn(TaskContext, Box<dyn Any + Send>) -> Call,
    /// Decodes the parameters into the task's own type.
    decode: fn(Value) -> Result<Box<dyn Any + Send>, serde_json::Error>,
    register: fn(&Celery) -> Registering<'_>,
    pub(super) policy: TaskPolicy,
}

/// A task's options, under Celery's names, beside those of the task macro.
#[derive(Debug, Clone, Default)]
pub struct TaskOptions {
    pub(super) errback_with_request: bool,
    collected_args: Option<&'static str>,
    collected_kwargs: Option<&'static str>,
    ignore_result: Option<bool>,
    track_started: Option<bool>,
    autoretry: Option<bool>,
    default_retry_delay: Option<Duration>,
    rate_limit: Option<&'static str>,
    retry_jitter: Option<bool>,
}

impl TaskOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether results are ignored, unless the sender says.
    #[must_use]
    pub fn ignore_result(mut self, ignored: bool) -> Self {
        self.ignore_result = Some(ignored);
        self
    }

    /// Whether the state STARTED is stored.
    #[must_use]
    pub fn track_started(mut self, tracked: bool) -> Self {
        self.track_started = Some(tracked);
        self
    }

    /// Whether the task is retried when it fails (`autoretry_for = (Exception,)`). By default it is if the task macro has
    /// `max_retries`.
    #[must_use]
    pub fn autoretry(mut self, retried: bool) -> Self {
        self.autoretry = Some(retried);
        self
    }

    /// Celery's `default_retry_delay`: how long a requested retry waits that does not say; 180 seconds by default.
    #[must_use]
    pub fn default_retry_delay(mut self, delay: Duration) -> Self {
        self.default_retry_delay = Some(delay);
        self
    }

    /// Celery's `retry_jitter`: whether the wait before an automatic retry is random, up to the backoff; true by default.
    #[must_use]
    pub fn retry_jitter(mut self, jitter: bool) -> Self {
        self.retry_jitter = Some(jitter);
        self
    }

    /// Celery's `rate_limit`: `"100/m"`, `"2/h"`, `"0.5/s"`.
    #[must_use]
    pub fn rate_limit(mut self, limit: &'static str) -> Self {
        self.rate_limit = Some(limit);
        self
    }

    /// Collects further positional arguments in this parameter, like Python's `*args`.
    #[must_use]
    pub fn collect_args(mut self, parameter: &'static str) -> Self {
        self.collected_args = Some(parameter);
        self
    }

    /// Collects further keyword arguments in this parameter, like Python's `**kwargs`.
    #[must_use]
    pub fn collect_kwargs(mut self, parameter: &'static str) -> Self {
        self.collected_kwargs = Some(parameter);
        self
    }

    /// As an errback, the task gets the failed task's request, the exception and the traceback as its first arguments, and the
    /// failed task's worker calls it. Without this an errback runs as a separate task and gets the failed task's id.
    #[must_use]
    pub fn errback_with_request(mut self) -> Self {
        self.errback_with_request = true;
        self
    }
}

impl TaskSet {
    /// An empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a task.
    #[must_use]
    pub fn with<T>(self) -> Self
    where
        T: Task + 'static,
        T::Returns: Serialize,
    {
        self.with_options::<T>(TaskOptions::default())
    }

    /// Adds a task with options.
    #[must_use]
    pub fn with_options<T>(mut self, options: TaskOptions) -> Self
    where
        T: Task + 'static,
        T::Returns: Serialize,
    {
        let mut policy = managed::policy::<T>();
        policy.ignore_result = options.ignore_result;
        policy.track_started = options.track_started;
        policy.retry.autoretry = options.autoretry.unwrap_or(policy.retry.autoretry);
        policy.retry.jitter = options.retry_jitter.unwrap_or(policy.retry.jitter);
        let entry = RegisteredTask {
            parameters: T::ARGS,
            options,
            call: local_calls::function::<T>,
            decode: |parameters| Ok(Box::new(serde_json::from_value::<T::Params>(parameters)?)),
            register: |app| Box::pin(app.register_task::<Managed<T>>()),
            policy,
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

    /// The rate limits that tasks declare, by their names.
    pub(crate) fn rate_limits(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let limit =
            |(name, entry): (&&'static str, &RegisteredTask)| Some((*name, entry.options.rate_limit?));
        self.entries.iter().filter_map(limit)
    }

    /// A task by its name.
    pub(super) fn get(&self, task: &str) -> Option<&RegisteredTask> {
        self.entries.get(task)
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
    /// The parameters that positional arguments set, in their order.
    pub(super) fn positional(&self) -> &'static [&'static str] {
        let collected = [self.options.collected_args, self.options.collected_kwargs];
        let is_collected = |name: &&'static str| collected.contains(&Some(*name));
        let end = self.parameters.iter().position(is_collected);
        &self.parameters[..end.unwrap_or(self.parameters.len())]
    }

    /// How long a requested retry waits that does not say.
    pub(super) fn retry_delay(&self) -> Duration {
        self.options.default_retry_delay.unwrap_or(DEFAULT_RETRY_DELAY)
    }

    fn bind(&self, function: &str, body: &Body) -> Result<Map<String, Value>, String> {
        let positional = self.positional();
        let (collected_args, collected_kwargs) = (self.options.collected_args, self.options.collected_kwargs);
        if body.args.len() > positional.len() && collected_args.is_none() {
            let (taken, given) = (positional.len(), body.args.len());
            return Err(format!(
                "{function}() takes {taken} positional argument{} but {given} {} given",
                if taken == 1 { "" } else { "s" },
                if given == 1 { "was" } else { "were" },
            ));
        }
        let mut bound: Map<String, Value> = positional
            .iter()
            .zip(&body.args)
            .map(|(name, value)| ((*name).into(), value.clone()))
            .collect();
        if let Some(name) = collected_args {
            let rest = body.args.get(positional.len()..).unwrap_or_default();
            bound.insert(name.into(), Value::Array(rest.to_vec()));
        }
        let mut rest = Map::new();
        for (name, value) in &body.kwargs {
            let is_known = self.parameters.contains(&name.as_str())
                && ![collected_args, collected_kwargs].contains(&Some(name.as_str()));
            if !is_known && collected_kwargs.is_some() {
                rest.insert(name.clone(), value.clone());
                continue;
            }
            if !is_known {
                return Err(format!(
                    "{function}() got an unexpected keyword argument '{name}'"
                ));
            }
            if bound.insert(name.clone(), value.clone()).is_some() {
                return Err(format!("{function}() got multiple values for argument '{name}'"));
            }
        }
        if let Some(name) = collected_kwargs {
            bound.insert(name.into(), Value::Object(rest));
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
