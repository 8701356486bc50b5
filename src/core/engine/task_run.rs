//! What a running task can ask of its worker: who it is, states to store, messages to send.
//!
//! Messages that a task sends leave with its outcome, in one step with the acknowledgement. A worker that dies before has
//! sent nothing, so the task's next run sends each message once.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use super::{Engine, Job};
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::body::Body;
use tradebot_wire::canvas::{self, CanvasContext, Ids, SendError, Sending, Signature, SuccessorPlan};
use tradebot_wire::envelope::Envelope;
use tradebot_wire::result::TaskState;

/// Headers that are not a program's own: what Celery 5.7 leaves out of `request.headers` (`Context._get_custom_headers`).
const CELERY_HEADERS: [&str; 40] = [
    "args",
    "argsrepr",
    "callbacks",
    "called_directly",
    "chain",
    "chord",
    "compression",
    "correlation_id",
    "delivery_info",
    "errbacks",
    "eta",
    "expires",
    "group",
    "group_index",
    "headers",
    "hostname",
    "id",
    "ignore_result",
    "is_eager",
    "kwargs",
    "kwargsrepr",
    "lang",
    "logfile",
    "loglevel",
    "origin",
    "parent_id",
    "properties",
    "replaced_task_nesting",
    "reply_to",
    "retries",
    "root_id",
    "shadow",
    "soft_time_limit",
    "stamped_headers",
    "stamps",
    "task",
    "taskset",
    "time_limit",
    "timelimit",
    "utc",
];

/// What a task leaves behind for its settlement, and its soft time limit.
#[derive(Debug, Default)]
pub(super) struct LeftBehind {
    plan: Mutex<SuccessorPlan>,
    /// How many signatures it has sent.
    sent: AtomicUsize,
    soft_limit: SoftLimit,
}

/// The soft time limit of a task that catches it.
#[derive(Debug, Default)]
struct SoftLimit {
    /// The task waits for it, or has waited.
    caught: AtomicBool,
    reached: Notify,
}

impl LeftBehind {
    /// What the task has sent.
    pub(super) fn take(&self) -> SuccessorPlan {
        std::mem::take(&mut *self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes a task that catches the soft time limit; false if it does not.
    pub(super) fn soft_limit_reached(&self) -> bool {
        self.soft_limit.reached.notify_one();
        self.soft_limit.caught.load(Ordering::Acquire)
    }
}

/// A running task. Clones are the same task.
#[derive(Clone)]
pub struct TaskRun {
    engine: Arc<Engine>,
    message: Arc<Envelope>,
    body: Arc<Body>,
    left: Arc<LeftBehind>,
}

/// Celery's `task.request`: the message of a running task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskInfo {
    /// Registered name.
    pub task: String,
    /// Task id.
    pub id: String,
    /// First task of the workflow.
    pub root_id: Option<String>,
    /// Task that sent this one.
    pub parent_id: Option<String>,
    /// Group it is a member of.
    pub group: Option<String>,
    /// Its place in the group.
    pub group_index: Option<u64>,
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Keyword arguments.
    pub kwargs: Map<String, Value>,
    /// Retries so far.
    pub retries: u32,
    /// `exchange`, `routing_key`, `priority` and `redelivered`.
    pub delivery_info: Map<String, Value>,
    /// Headers that its sender added.
    pub headers: Option<Map<String, Value>>,
    /// Properties of the message.
    pub properties: Map<String, Value>,
    /// Hard and soft time limit of the message, in seconds.
    pub timelimit: (Option<f64>, Option<f64>),
    /// Earliest time to run.
    pub eta: Option<DateTime<Utc>>,
    /// Time after which it must not start.
    pub expires: Option<DateTime<Utc>>,
    /// Node name of this worker.
    pub hostname: String,
    /// Who sent it: `gen<pid>@<host>`.
    pub origin: Option<String>,
    /// The sender's reply queue.
    pub reply_to: Option<String>,
    /// The sender's correlation id.
    pub correlation_id: Option<String>,
    /// Name to show instead of the task's.
    pub shadow: Option<String>,
    /// How many replacements led to this task.
    pub replaced_task_nesting: u64,
    /// Whether its result is ignored.
    pub ignore_result: bool,
    /// Names of its stamps.
    pub stamped_headers: Vec<String>,
    /// Its stamps.
    pub stamps: Map<String, Value>,
}

impl TaskInfo {
    /// False: a worker runs the task. Celery tells by it whether a program called the function itself.
    pub const CALLED_DIRECTLY: bool = false;
    /// False: the task is not emulated by its sender.
    pub const IS_EAGER: bool = false;
}

impl Job {
    /// The task's side of this job.
    #[must_use]
    pub fn task_run(&self, engine: &Arc<Engine>) -> TaskRun {
        TaskRun {
            engine: Arc::clone(engine),
            message: Arc::clone(&self.message),
            body: Arc::clone(&self.body),
            left: Arc::clone(&self.left),
        }
    }
}

impl TaskRun {
    /// The message that the task runs for.
    #[must_use]
    pub fn info(&self) -> TaskInfo {
        let message = &self.message;
        let text = |name: &str| message.text(name).map(str::to_owned);
        let object = |value: Option<Value>| match value {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        };
        let mut delivery_info = object(message.property("delivery_info"));
        delivery_info.insert("priority".into(), json!(message.priority().0));
        delivery_info.insert("redelivered".into(), json!(message.redelivered()));
        let mut headers = message.headers();
        headers.retain(|name, _| !CELERY_HEADERS.contains(&name.as_str()));
        let number = |name: &str| message.header(name).and_then(|number| number.as_u64());
        let stamped = message.header("stamped_headers");
        let stamped = stamped.as_ref().and_then(Value::as_array).into_iter().flatten();
        TaskInfo {
            task: message.task().to_owned(),
            id: message.id().to_owned(),
            root_id: text("root_id"),
            parent_id: text("parent_id"),
            group: text("group"),
            group_index: number("group_index"),
            args: self.body.args.clone(),
            kwargs: self.body.kwargs.clone(),
            retries: message.retries(),
            delivery_info,
            headers: Some(headers).filter(|headers| !headers.is_empty()),
            properties: message.properties(),
            timelimit: message.timelimit(),
            eta: message.eta().ok().flatten(),
            expires: message.expires().ok().flatten(),
            hostname: self.engine.settings.hostname.clone(),
            origin: text("origin"),
            reply_to: message.property_text("reply_to").map(str::to_owned),
            correlation_id: message.property_text("correlation_id").map(str::to_owned),
            shadow: text("shadow"),
            replaced_task_nesting: number("replaced_task_nesting").unwrap_or(0),
            ignore_result: message.ignore_result().unwrap_or(false),
            stamped_headers: stamped.filter_map(Value::as_str).map(str::to_owned).collect(),
            stamps: object(message.header("stamps")),
        }
    }

    /// The message's arguments, and what follows it.
    #[must_use]
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// Sends a signature together with the task's outcome. The result becomes a child of the task's. A [`Client`] sends at
    /// once.
    ///
    /// [`Client`]: crate::client::Client
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&self, signature: Signature) -> Result<SentResult, SendError> {
        let (context, ids) = self.sender();
        Ok(self.leave(canvas::send(context, ids, signature)?))
    }

    /// Sends a signature in the task's place, see [`canvas::replace`].
    ///
    /// # Errors
    /// [`SendError`].
    pub fn replace(&self, signature: Signature) -> Result<SentResult, SendError> {
        let sender = self.sender();
        Ok(self.leave(canvas::replace(sender, &self.message, &self.body, signature)?))
    }

    /// Sends a signature as one more member of the task's chord.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn add_to_chord(&self, signature: Signature) -> Result<SentResult, SendError> {
        let sender = self.sender();
        Ok(self.leave(canvas::add_to_chord(
            sender,
            &self.message,
            &self.body,
            signature,
        )?))
    }

    /// The context of what the task sends, and where it gets its ids: the same in each run of this try.
    fn sender(&self) -> (CanvasContext<'_>, Ids) {
        let nth = self.left.sent.fetch_add(1, Ordering::Relaxed);
        let try_tag = self.message.publisher_tag().unwrap_or_default();
        let ids = Ids::Derived {
            from: format!("{}:{try_tag}:{nth}", self.message.id()),
            count: 0,
        };
        (self.engine.settlement.canvas_context(&self.message), ids)
    }

    fn leave(&self, sending: Sending) -> SentResult {
        let Sending { id, result, plan } = sending;
        self.left
            .plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(plan);
        SentResult { id, result }
    }

    /// Stores a state of the task's own, such as `PROGRESS`, for `AsyncResult.state` and `AsyncResult.info`.
    ///
    /// # Errors
    /// [`RedisTrouble`]. The task goes on.
    pub async fn update_state(&self, state: &str, meta: Value) -> Result<(), RedisTrouble> {
        let name = state.to_owned();
        let children = {
            let plan = self.left.plan.lock().unwrap_or_else(PoisonError::into_inner);
            plan.children.clone()
        };
        let results = &self.engine.settlement.results;
        if let Some(document) = results.document(&self.message, &TaskState::Custom { name, meta }, &children)
        {
            results.store(&document).await?;
        }
        Ok(())
    }

    /// Waits for the soft time limit. A task that has called it is not ended by that limit: it may finish until the hard
    /// one.
    pub async fn soft_time_limit(&self) {
        let limit = &self.left.soft_limit;
        limit.caught.store(true, Ordering::Release);
        limit.reached.notified().await;
    }
}

/// A signature that a task has sent.
#[derive(Debug, Clone, PartialEq)]
pub struct SentResult {
    /// The id of its result.
    pub id: String,
    /// Its result as `AsyncResult.as_tuple` writes it.
    pub result: Value,
}
