//! The shortest way to a worker: tasks, and settings from the environment or from code.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use super::{PoolKind, TaskSet, WorkerArgs, WorkerError, WorkerSettings};
use tradebot_base::config::{ConfigError, ProcessEnvironment, Reader, Vars};
use tradebot_base::telemetry::{self, LogConfig};

/// A worker to be set up and run.
///
/// Every setting is a variable of the environment; [`Worker::set`] goes before it.
pub struct Worker {
    args: WorkerArgs,
    tasks: TaskSet,
    state: Arc<dyn Any + Send + Sync>,
    variables: Variables,
}

/// Variables set in code, before those of the process.
#[derive(Default)]
struct Variables(BTreeMap<String, String>);

impl Vars for Variables {
    fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned().or_else(|| ProcessEnvironment.get(name))
    }
}

/// Why a worker did not start, or ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The system provides no threads or no event queue.
    #[error("cannot start the worker's threads")]
    Threads(#[from] std::io::Error),
    /// The worker ended.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl Worker {
    /// A worker with these tasks on the queue `celery`.
    #[must_use]
    pub fn new(tasks: TaskSet) -> Self {
        Self {
            args: WorkerArgs::default(),
            tasks,
            state: Arc::new(()),
            variables: Variables::default(),
        }
    }

    /// Sets a variable of the environment for this worker, such as `CELERY_BROKER_URL`.
    #[must_use]
    pub fn set(mut self, variable: &str, value: impl Into<String>) -> Self {
        self.variables.0.insert(variable.to_owned(), value.into());
        self
    }

    /// The queues to consume.
    #[must_use]
    pub fn queues<Q: Into<String>>(mut self, queues: impl IntoIterator<Item = Q>) -> Self {
        self.args.queues = queues.into_iter().map(Into::into).collect();
        self
    }

    /// How many tasks run at a time; by default the number of CPUs.
    #[must_use]
    pub fn concurrency(mut self, tasks: usize) -> Self {
        self.args.concurrency = Some(tasks);
        self
    }

    /// Runs tasks on one thread for each CPU, for tasks that compute.
    #[must_use]
    pub fn threads(mut self) -> Self {
        self.args.pool = PoolKind::Threads;
        self
    }

    /// The node name; `%h` stands for the machine's name.
    #[must_use]
    pub fn hostname(mut self, hostname: &str) -> Self {
        hostname.clone_into(&mut self.args.hostname);
        self
    }

    /// What tasks get from [`state`](super::state).
    #[must_use]
    pub fn state<S: Send + Sync + 'static>(mut self, state: S) -> Self {
        self.state = Arc::new(state);
        self
    }

    /// Runs the worker until SIGTERM, with its log on stderr. A log that the program has set up stays.
    ///
    /// # Errors
    /// [`RunError`]. An unreachable Redis is not an error: the worker waits for it.
    pub fn run(self) -> Result<(), RunError> {
        let mut reader = Reader::new(&self.variables);
        let logs = LogConfig::read(&mut reader, self.args.loglevel.as_deref());
        let settings = WorkerSettings::read(&mut reader, &self.args);
        reader.finish()?;
        // The level was checked when it was read.
        let _ = telemetry::init("tradebot-symbols", &logs);
        let runtime = self.args.pool.runtime()?;
        runtime.block_on(super::run(settings, self.tasks, self.state))?;
        Ok(())
    }
}
