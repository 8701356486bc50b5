//! A client: sends tasks from any program, and waits for their results.
//!
//! Results are polled, at first every few milliseconds and later four times a second: that needs no subscription, and no
//! right but to read the result's key.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::control::Inquiry;
use crate::events::LamportClock;
use crate::results::{ResultOptions, Results};
use tradebot_base::clock::{SharedClock, SystemClock};
use tradebot_base::config::{ConfigError, Reader, RedisConfig, Vars};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::node;
use tradebot_wire::canvas::{self, CanvasContext, Ids, SendError, Signature};
use tradebot_wire::keys::{DEFAULT_QUEUE, Keys};
use tradebot_wire::result::Exception;
use tradebot_wire::task_message;

/// The first and the longest pause between two looks at a result.
const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// The longest wait for a result, so that any timeout can be added to the time.
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long workers may take to confirm a revocation.
const REVOKE_PATIENCE: Duration = Duration::from_secs(1);

/// The servers and prefixes that a client shares with the workers.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    redis: RedisConfig,
    default_queue: String,
}

impl ClientSettings {
    /// Reads `CELERY_BROKER_URL`, `CELERY_RESULT_BACKEND` and the other variables that concern queues and results.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake.
    pub fn read(variables: &dyn Vars) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(variables);
        let redis = RedisConfig::read(&mut reader);
        reader.finish()?;
        Ok(Self {
            redis,
            default_queue: DEFAULT_QUEUE.to_owned(),
        })
    }

    /// Sends signatures that name no queue to this one, instead of `celery`.
    #[must_use]
    pub fn default_queue(mut self, queue: &str) -> Self {
        queue.clone_into(&mut self.default_queue);
        self
    }
}

/// Sends tasks and reads their results. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    broker: Connection,
    keys: Keys,
    results: Results,
    clock: SharedClock,
    mailbox: LamportClock,
    origin: String,
    default_queue: String,
}

/// Why a task could not be sent.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The signature cannot be sent.
    #[error(transparent)]
    Signature(#[from] SendError),
    /// Redis failed. If only its answer was lost, the task was sent all the same.
    #[error(transparent)]
    Redis(#[from] RedisTrouble),
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum ResultError {
    /// The task has failed or was revoked, with this exception.
    #[error("task {id} has ended as {state}: {}", exception.line())]
    Task {
        /// Id of the task.
        id: String,
        /// `FAILURE` or `REVOKED`.
        state: String,
        /// What Python would raise.
        exception: Exception,
    },
    /// The task has not ended in time.
    #[error("task {0} has no result yet")]
    Timeout(String),
    /// Redis failed.
    #[error(transparent)]
    Redis(#[from] RedisTrouble),
}

impl Client {
    /// A client of these servers, which know it as `name`. Connects with the first command.
    ///
    /// # Errors
    /// [`RedisTrouble`] if a URL is invalid.
    pub fn new(settings: &ClientSettings, name: &str) -> Result<Self, RedisTrouble> {
        let redis = &settings.redis;
        let clock = SystemClock::shared();
        let options = ResultOptions {
            key_prefix: redis.result_key_prefix.clone(),
            expires_seconds: redis.result_expires.as_secs(),
            ..ResultOptions::default()
        };
        let results = Connection::new(&redis.results, &format!("{name}-results"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                broker: Connection::new(&redis.broker, name)?,
                keys: Keys::new(&redis.key_prefix, &redis.sep, &redis.priority_steps),
                results: Results::new(results, options, Arc::clone(&clock)),
                clock,
                mailbox: LamportClock::default(),
                origin: task_message::origin(&node::machine()),
                default_queue: settings.default_queue.clone(),
            }),
        })
    }

    /// Sends a signature. All its messages go to Redis in one step.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send(&self, signature: Signature) -> Result<AsyncResult, ClientError> {
        let shared = &self.shared;
        let context = CanvasContext {
            task_id: "",
            root: None,
            origin: &shared.origin,
            default_queue: &shared.default_queue,
            now: shared.clock.now(),
        };
        let sending = canvas::send(context, Ids::Random, signature)?;
        for preparation in &sending.plan.preparations {
            shared.results.chords().prepare(preparation).await?;
        }
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for next in &sending.plan.successors {
            let list = shared.keys.list_for(&next.queue, next.message.priority());
            pipeline
                .cmd("LPUSH")
                .arg(list)
                .arg(next.message.to_json())
                .ignore();
        }
        if !sending.plan.successors.is_empty() {
            shared.broker.pipeline::<()>(&pipeline).await?;
        }
        Ok(AsyncResult {
            client: self.clone(),
            id: sending.id,
            tree: sending.result,
        })
    }

    /// The result of a task by its id.
    #[must_use]
    pub fn result(&self, id: &str) -> AsyncResult {
        AsyncResult {
            client: self.clone(),
            id: id.to_owned(),
            tree: json!([[id, null], null]),
        }
    }

    /// Revokes a task: workers drop it when they receive it. With `terminate` a worker that runs it ends it.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn revoke(&self, id: &str, terminate: bool) -> Result<(), RedisTrouble> {
        let shared = &self.shared;
        let inquiry = Inquiry {
            connection: &shared.broker,
            keys: &shared.keys,
            mailbox: &shared.mailbox,
            method: "revoke",
            arguments: json!({"task_id": id, "terminate": terminate, "signal": "SIGTERM"}),
            expires: shared.clock.unix_seconds() + REVOKE_PATIENCE.as_secs_f64(),
            patience: REVOKE_PATIENCE,
            wanted: None,
        };
        inquiry.send().await.map(drop)
    }

    async fn document(&self, id: &str) -> Result<Option<Value>, RedisTrouble> {
        let documents = self.shared.results.documents(&[id.to_owned()]).await?;
        Ok(documents.into_iter().next())
    }
}

/// The result of a task that was sent, or of a group.
#[derive(Clone)]
pub struct AsyncResult {
    client: Client,
    id: String,
    /// `[[id, parent], members]`.
    tree: Value,
}

impl AsyncResult {
    /// The id of the task, of a chain's last task, of a chord's body, or of a group.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The results of a group's members; `None` if this is the result of a task.
    #[must_use]
    pub fn members(&self) -> Option<Vec<Self>> {
        let members = self.tree.get(1)?.as_array()?;
        Some(members.iter().filter_map(|member| self.of_tree(member)).collect())
    }

    /// The result of the step before this one in a chain, or of a chord's header.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.of_tree(self.tree.get(0)?.get(1)?)
    }

    fn of_tree(&self, tree: &Value) -> Option<Self> {
        Some(Self {
            client: self.client.clone(),
            id: tree.get(0)?.get(0)?.as_str()?.to_owned(),
            tree: tree.clone(),
        })
    }

    /// The state of the task: `PENDING` if nothing is stored.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn state(&self) -> Result<String, RedisTrouble> {
        let document = self.client.document(&self.id).await?;
        let state = document
            .as_ref()
            .and_then(|document| document.get("status")?.as_str());
        Ok(state.unwrap_or("PENDING").to_owned())
    }

    /// What is stored for the task's state: the result, the exception, or a running task's `meta`.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn info(&self) -> Result<Option<Value>, RedisTrouble> {
        let document = self.client.document(&self.id).await?;
        Ok(document.and_then(|mut document| Some(document.get_mut("result")?.take())))
    }

    /// Waits for the result: of a group, the list of its members' results.
    ///
    /// # Errors
    /// [`ResultError`]. A group fails with the first of its members that has failed.
    pub async fn get(&self, timeout: Duration) -> Result<Value, ResultError> {
        let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
        let mut values = Vec::new();
        let Some(members) = self.members() else {
            return self.wait(deadline).await;
        };
        for member in members {
            let left = deadline.saturating_duration_since(Instant::now());
            values.push(Box::pin(member.get(left)).await?);
        }
        Ok(Value::Array(values))
    }

    async fn wait(&self, deadline: Instant) -> Result<Value, ResultError> {
        let mut pause = FIRST_PAUSE;
        loop {
            if let Some(mut document) = self.client.document(&self.id).await? {
                let state = document.get("status").and_then(Value::as_str).unwrap_or_default();
                let state = state.to_owned();
                let result = document.get_mut("result").map(Value::take).unwrap_or_default();
                match state.as_str() {
                    "SUCCESS" => return Ok(result),
                    "FAILURE" | "REVOKED" => {
                        return Err(ResultError::Task {
                            id: self.id.clone(),
                            state,
                            exception: Exception::from_value(&result),
                        });
                    }
                    _ => {}
                }
            }
            if Instant::now() >= deadline {
                return Err(ResultError::Timeout(self.id.clone()));
            }
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Revokes the task, see [`Client::revoke`].
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn revoke(&self, terminate: bool) -> Result<(), RedisTrouble> {
        self.client.revoke(&self.id, terminate).await
    }
}

/// The same for programs without an async runtime. Its methods must not be called from within a tokio runtime.
pub mod blocking {
    use std::time::Duration;

    use serde_json::Value;
    use tokio::runtime::{Builder, Runtime};

    use super::{AsyncResult, ClientError, ClientSettings, ResultError};
    use tradebot_base::connection::RedisTrouble;
    use tradebot_wire::canvas::Signature;

    /// Blocking form of [`Client`](super::Client).
    pub struct Client {
        client: super::Client,
        runtime: Runtime,
    }

    /// Why a client cannot start.
    #[derive(Debug, thiserror::Error)]
    pub enum StartError {
        /// A Redis URL is invalid.
        #[error(transparent)]
        Redis(#[from] RedisTrouble),
        /// The thread cannot be started.
        #[error("cannot start the thread that talks to Redis")]
        Thread(#[from] std::io::Error),
    }

    impl Client {
        /// As [`super::Client::new`], with a thread that does the work.
        ///
        /// # Errors
        /// [`StartError`].
        pub fn new(settings: &ClientSettings, name: &str) -> Result<Self, StartError> {
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?;
            let client = super::Client::new(settings, name)?;
            Ok(Self { client, runtime })
        }

        /// As [`super::Client::send`].
        ///
        /// # Errors
        /// [`ClientError`].
        pub fn send(&self, signature: Signature) -> Result<AsyncResult, ClientError> {
            self.runtime.block_on(self.client.send(signature))
        }

        /// The result of a task by its id.
        #[must_use]
        pub fn result(&self, id: &str) -> AsyncResult {
            self.client.result(id)
        }

        /// As [`AsyncResult::state`].
        ///
        /// # Errors
        /// [`RedisTrouble`].
        pub fn state(&self, result: &AsyncResult) -> Result<String, RedisTrouble> {
            self.runtime.block_on(result.state())
        }

        /// As [`AsyncResult::get`].
        ///
        /// # Errors
        /// [`ResultError`].
        pub fn get(&self, result: &AsyncResult, timeout: Duration) -> Result<Value, ResultError> {
            self.runtime.block_on(result.get(timeout))
        }

        /// As [`super::Client::revoke`].
        ///
        /// # Errors
        /// [`RedisTrouble`].
        pub fn revoke(&self, id: &str, terminate: bool) -> Result<(), RedisTrouble> {
            self.runtime.block_on(self.client.revoke(id, terminate))
        }
    }
}
