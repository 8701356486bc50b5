//! Every Redis key of the broker and the result backend, written once.
//!
//! Names are kombu's and Celery's; those that begin with [`OWN`] are ours and unknown to Python.

use super::envelope::Priority;

/// What separates the parts of a priority list's name and of a binding (kombu's `sep`).
pub const SEP: &str = "\u{6}\u{16}";

/// Prefix of the keys that only this system writes.
pub const OWN: &str = "tradebot-symbols";

/// kombu's `priority_steps`: the lists of one queue, in the order in which they are served.
pub const PRIORITY_STEPS: [u8; 4] = [0, 3, 6, 9];

/// The keys of one broker database, with kombu's `global_keyprefix`.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// Keys that all begin with `prefix`, which is kombu's transport option `global_keyprefix`.
    #[must_use]
    pub fn with_prefix(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    /// The list that holds messages of `queue` at a priority step: the plain name for step 0.
    #[must_use]
    pub fn list(&self, queue: &str, step: u8) -> String {
        if step == 0 {
            format!("{}{queue}", self.prefix)
        } else {
            format!("{}{queue}{SEP}{step}", self.prefix)
        }
    }

    /// The list a message of this priority is pushed to.
    #[must_use]
    pub fn list_for(&self, queue: &str, priority: Priority) -> String {
        self.list(queue, priority.step())
    }

    /// Hash of messages that are delivered and not acknowledged.
    #[must_use]
    pub fn unacked(&self) -> String {
        format!("{}unacked", self.prefix)
    }

    /// Sorted set of delivery tags by the time of their delivery.
    #[must_use]
    pub fn unacked_index(&self) -> String {
        format!("{}unacked_index", self.prefix)
    }

    /// Set of the queues bound to an exchange. `permanent` is the second set that kombu 5.7 keeps.
    #[must_use]
    pub fn binding(&self, exchange: &str, permanent: bool) -> String {
        let infix = if permanent { "binding_permanent" } else { "binding" };
        format!("{}_kombu.{infix}.{exchange}", self.prefix)
    }

    /// What the channels of events begin with, the event's routing key follows; `database` is the broker's.
    #[must_use]
    pub fn event_channels(&self, database: i64) -> String {
        format!("{}/{database}.celeryev/", self.prefix)
    }

    /// kombu's lock around the restore of timed-out deliveries.
    #[must_use]
    pub fn unacked_mutex(&self) -> String {
        format!("{}unacked_mutex", self.prefix)
    }

    /// A worker's lease: there while the worker lives.
    #[must_use]
    pub fn lease(&self, worker: &str) -> String {
        format!("{}{OWN}:lease:{worker}", self.prefix)
    }

    /// Hash of the workers of this system: id to node name.
    #[must_use]
    pub fn workers(&self) -> String {
        format!("{}{OWN}:workers", self.prefix)
    }

    /// Sorted set of workers without a lease, by when that was first noticed.
    #[must_use]
    pub fn suspects(&self) -> String {
        format!("{}{OWN}:suspects", self.prefix)
    }

    /// Hash of how often a message was running when its worker died.
    #[must_use]
    pub fn crashes(&self) -> String {
        format!("{}{OWN}:crashes", self.prefix)
    }

    /// Set of the delivery tags that a worker has started after they waited.
    #[must_use]
    pub fn started(&self, worker: &str) -> String {
        format!("{}{OWN}:started:{worker}", self.prefix)
    }

    /// List of messages set aside with the reason; see [`crate::core::transport`].
    #[must_use]
    pub fn parked(&self) -> String {
        format!("{}{OWN}:parked", self.prefix)
    }
}

/// Member of a binding set that routes `queue` to itself.
#[must_use]
pub fn direct_binding(queue: &str) -> String {
    format!("{queue}{SEP}{SEP}{queue}")
}

/// Key of a task's result, and channel on which it is announced.
///
/// `prefix` is the result backend's own `global_keyprefix`; as in Celery an underscore follows it unless it
/// ends in one of `: _ - .`.
#[must_use]
pub fn task_meta(prefix: &str, task_id: &str) -> String {
    format!("{prefix}{}celery-task-meta-{task_id}", joint(prefix))
}

/// Key of what the result backend keeps for a group: its saved result with an empty `suffix`; for a chord's
/// header the parts `.j`, the number of added tasks `.t`, the size `.s`, and since Celery 5.7 the parts counted
/// `.d` and who publishes the body `.c`.
#[must_use]
pub fn group_meta(prefix: &str, group_id: &str, suffix: &str) -> String {
    format!("{prefix}{}celery-taskset-meta-{group_id}{suffix}", joint(prefix))
}

fn joint(prefix: &str) -> &'static str {
    if prefix.is_empty() || prefix.ends_with([':', '_', '-', '.']) {
        ""
    } else {
        "_"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kombus() {
        let keys = Keys::default();
        assert_eq!(keys.list("celery", 0), "celery");
        assert_eq!(keys.list("celery", 3), "celery\u{6}\u{16}3");
        assert_eq!(keys.list_for("celery", Priority(12)), "celery\u{6}\u{16}9");
        assert_eq!(keys.list_for("celery", Priority(-1)), "celery");
        assert_eq!(Keys::with_prefix("pfx:").unacked_index(), "pfx:unacked_index");
        assert_eq!(keys.binding("celery", true), "_kombu.binding_permanent.celery");
        assert_eq!(Keys::with_prefix("p:").event_channels(3), "p:/3.celeryev/");
        assert_eq!(direct_binding("celery"), "celery\u{6}\u{16}\u{6}\u{16}celery");
        assert_eq!(task_meta("", "x"), "celery-task-meta-x");
        assert_eq!(task_meta("rpfx", "x"), "rpfx_celery-task-meta-x");
        assert_eq!(task_meta("rpfx:", "x"), "rpfx:celery-task-meta-x");
        assert_eq!(group_meta("", "g", ".j"), "celery-taskset-meta-g.j");
        assert_eq!(group_meta("rpfx", "g", ""), "rpfx_celery-taskset-meta-g");
    }
}
