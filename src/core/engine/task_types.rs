//! A worker's tasks with their counters, and the limits that remote control may change.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::execution::{Limits, TaskPolicy};
use super::outcomes::Outcomes;
use super::rate_limits::RateGate;

/// One task by its name.
#[derive(Debug)]
pub struct TaskType {
    name: String,
    policy: Option<TaskPolicy>,
    runs: AtomicU64,
    outcomes: Outcomes,
    limits: Mutex<Option<Limits>>,
    rate: RateGate,
}

impl TaskType {
    /// A task; `policy` is what it was registered with, for `inspect`.
    #[must_use]
    pub fn new(name: &str, policy: Option<TaskPolicy>) -> Self {
        Self {
            name: name.to_owned(),
            policy,
            runs: AtomicU64::new(0),
            outcomes: Outcomes::default(),
            limits: Mutex::default(),
            rate: RateGate::default(),
        }
    }

    /// The registered name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was registered with.
    #[must_use]
    pub fn policy(&self) -> Option<&TaskPolicy> {
        self.policy.as_ref()
    }

    /// How often it was started.
    #[must_use]
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// How its executions ended.
    #[must_use]
    pub fn outcomes(&self) -> &Outcomes {
        &self.outcomes
    }

    /// Limits set while the worker runs, which replace those the task was registered with.
    #[must_use]
    pub fn limits(&self) -> Option<Limits> {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the task's limits for executions that begin from now on; the worker's apply where it has none.
    pub fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
    }

    /// Its rate limit.
    #[must_use]
    pub fn rate(&self) -> &RateGate {
        &self.rate
    }

    pub(super) fn count(&self) {
        self.runs.fetch_add(1, Ordering::Relaxed);
    }
}

/// All tasks of a worker by name.
pub(super) fn by_name(
    names: &[String],
    policies: &BTreeMap<String, TaskPolicy>,
) -> BTreeMap<String, Arc<TaskType>> {
    let task = |name: &String| Arc::new(TaskType::new(name, policies.get(name).copied()));
    names.iter().map(|name| (name.clone(), task(name))).collect()
}
