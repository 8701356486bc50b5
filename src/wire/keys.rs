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

    /// Sorted set of exchanges by the time until which their bindings are kept (kombu 5.7).
    #[must_use]
    pub fn binding_deadlines(&self) -> String {
        format!("{}_kombu.binding_deadlines", self.prefix)
    }

    /// The channel on which a fanout exchange's messages are published; pub/sub knows no databases.
    #[must_use]
    pub fn channel(&self, database: i64, exchange: &str) -> String {
        format!("{}/{database}.{exchange}", self.prefix)
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

    /// Hash of tasks that no worker of ours runs to the number of their messages on our queues.
    #[must_use]
    pub fn waiting(&self) -> String {
        format!("{}{OWN}:waiting", self.prefix)
    }

    /// Hash of the beat's entries to what was last sent of each.
    #[must_use]
    pub fn beat_slots(&self) -> String {
        format!("{}{OWN}:beat-slots", self.prefix)
    }

    /// Set of the beat's entries that are paused.
    #[must_use]
    pub fn beat_paused(&self) -> String {
        format!("{}{OWN}:beat-paused", self.prefix)
    }

    /// The beat that sends, while the others look on.
    #[must_use]
    pub fn beat_leader(&self) -> String {
        format!("{}{OWN}:beat-leader", self.prefix)
    }

    /// What a beat says of itself; there while it lives.
    #[must_use]
    pub fn beat(&self, instance: &str) -> String {
        format!("{}{OWN}:beat:{instance}", self.prefix)
    }

    /// List of messages set aside with the reason; see [`tradebot_core::transport`].
    #[must_use]
    pub fn parked(&self) -> String {
        format!("{}{OWN}:parked", self.prefix)
    }
}

/// Member of a binding set: messages with this routing key, or whose key matches the pattern, go to `queue`.
#[must_use]
pub fn binding_member(routing_key: &str, pattern: &str, queue: &str) -> String {
    format!("{routing_key}{SEP}{pattern}{SEP}{queue}")
}

/// Member of the binding set of a topic exchange, with the routing key as kombu's regular expression.
#[must_use]
pub fn topic_binding(routing_key: &str, queue: &str) -> String {
    let escape = |word: &str| -> String {
        let character = |c: char| match c {
            c if c.is_alphanumeric() => c.to_string(),
            c => format!("\\{c}"),
        };
        word.chars().map(character).collect()
    };
    let words = routing_key.split('.').map(|word| match word {
        "*" => r"[^\.]+".to_owned(),
        "#" => ".*?".to_owned(),
        word => escape(word),
    });
    let pattern = format!("^{}$", words.collect::<Vec<_>>().join(r"\."));
    binding_member(routing_key, &pattern, queue)
}

/// The queue that a member of a direct exchange's binding set leads messages of `routing_key` to.
#[must_use]
pub fn bound_queue<'m>(member: &'m str, routing_key: &str) -> Option<&'m str> {
    let mut parts = member.splitn(3, SEP);
    let key = parts.next()?;
    let queue = parts.nth(1)?;
    (key == routing_key && !queue.is_empty()).then_some(queue)
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
        let member = binding_member("celery", "", "celery");
        assert_eq!(member, "celery\u{6}\u{16}\u{6}\u{16}celery");
        assert_eq!(bound_queue(&member, "celery"), Some("celery"));
        assert_eq!(bound_queue(&member, "other"), None);
        assert_eq!(keys.channel(3, "celery.pidbox"), "/3.celery.pidbox");
        assert_eq!(task_meta("", "x"), "celery-task-meta-x");
        assert_eq!(task_meta("rpfx", "x"), "rpfx_celery-task-meta-x");
        assert_eq!(task_meta("rpfx:", "x"), "rpfx:celery-task-meta-x");
        assert_eq!(group_meta("", "g", ".j"), "celery-taskset-meta-g.j");
        assert_eq!(group_meta("rpfx", "g", ""), "rpfx_celery-taskset-meta-g");
    }
}
