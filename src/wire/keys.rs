//! The Redis keys and channels of the broker and the result backend.
//!
//! The names are kombu's and Celery's. Python does not know those that begin with [`OWN`].

use super::envelope::Priority;

pub use super::envelope::PRIORITY_STEPS;

/// The default of kombu's `sep`: the separator in names of priority lists and in bindings.
pub const SEP: &str = "\u{6}\u{16}";

/// Prefix of our own keys.
pub const OWN: &str = "tradebot-symbols";

/// How many tasks the hash [`Keys::waiting`] names, and the name under which the others are summed up.
pub const MAX_WAITING_TASKS: usize = 100;
/// See [`MAX_WAITING_TASKS`].
pub const OTHER_TASKS: &str = "others";

/// The keys of a broker database.
#[derive(Debug, Clone)]
pub struct Keys {
    prefix: String,
    sep: String,
    steps: Vec<u8>,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new("", SEP, &PRIORITY_STEPS)
    }
}

impl Keys {
    /// Keys with a prefix, a separator and the priority steps in ascending order: kombu's transport options
    /// `global_keyprefix`, `sep` and `priority_steps`.
    #[must_use]
    pub fn new(prefix: &str, sep: &str, steps: &[u8]) -> Self {
        Self {
            prefix: prefix.to_owned(),
            sep: sep.to_owned(),
            steps: steps.to_owned(),
        }
    }

    /// Keys with a prefix, and kombu's defaults for the rest.
    #[must_use]
    pub fn with_prefix(prefix: &str) -> Self {
        Self::new(prefix, SEP, &PRIORITY_STEPS)
    }

    /// The same keys with another separator.
    #[must_use]
    pub fn with_sep(&self, sep: &str) -> Self {
        Self::new(&self.prefix, sep, &self.steps)
    }

    /// The separator.
    #[must_use]
    pub fn sep(&self) -> &str {
        &self.sep
    }

    /// The priority steps.
    #[must_use]
    pub fn steps(&self) -> &[u8] {
        &self.steps
    }

    /// All lists of a queue, in the order in which they are served.
    pub fn lists(&self, queue: &str) -> impl Iterator<Item = String> {
        self.steps.iter().map(move |step| self.list(queue, *step))
    }

    /// List of a queue's messages at a priority step. Step 0 has the plain name.
    #[must_use]
    pub fn list(&self, queue: &str, step: u8) -> String {
        if step == 0 {
            format!("{}{queue}", self.prefix)
        } else {
            format!("{}{queue}{}{step}", self.prefix, self.sep)
        }
    }

    /// List for messages of this priority.
    #[must_use]
    pub fn list_for(&self, queue: &str, priority: Priority) -> String {
        self.list(queue, priority.step(&self.steps))
    }

    /// Hash of deliveries that are not acknowledged, by delivery tag.
    #[must_use]
    pub fn unacked(&self) -> String {
        format!("{}unacked", self.prefix)
    }

    /// Sorted set of delivery tags by time of delivery.
    #[must_use]
    pub fn unacked_index(&self) -> String {
        format!("{}unacked_index", self.prefix)
    }

    /// Set of an exchange's bindings. `permanent` selects the second set that kombu 5.7 keeps.
    #[must_use]
    pub fn binding(&self, exchange: &str, permanent: bool) -> String {
        let infix = if permanent { "binding_permanent" } else { "binding" };
        format!("{}_kombu.{infix}.{exchange}", self.prefix)
    }

    /// Prefix of the event channels; the event's routing key follows. `database` is the broker's.
    #[must_use]
    pub fn event_channels(&self, database: i64) -> String {
        format!("{}/{database}.celeryev/", self.prefix)
    }

    /// Sorted set of exchanges by the time when their bindings expire (kombu 5.7).
    #[must_use]
    pub fn binding_deadlines(&self) -> String {
        format!("{}_kombu.binding_deadlines", self.prefix)
    }

    /// Channel of a fanout exchange. The name has the database because pub/sub spans all of them.
    #[must_use]
    pub fn channel(&self, database: i64, exchange: &str) -> String {
        format!("{}/{database}.{exchange}", self.prefix)
    }

    /// kombu's lock while it restores timed-out deliveries.
    #[must_use]
    pub fn unacked_mutex(&self) -> String {
        format!("{}unacked_mutex", self.prefix)
    }

    /// A worker's lease, which exists while the worker is alive.
    #[must_use]
    pub fn lease(&self, worker: &str) -> String {
        format!("{}{OWN}:lease:{worker}", self.prefix)
    }

    /// Hash of our workers: id to node name.
    #[must_use]
    pub fn workers(&self) -> String {
        format!("{}{OWN}:workers", self.prefix)
    }

    /// Sorted set of workers without a lease, by the time this was first noticed.
    #[must_use]
    pub fn suspects(&self) -> String {
        format!("{}{OWN}:suspects", self.prefix)
    }

    /// Hash of messages to how many workers died while running them.
    #[must_use]
    pub fn crashes(&self) -> String {
        format!("{}{OWN}:crashes", self.prefix)
    }

    /// Set of delivery tags that a worker started after holding them for a while.
    #[must_use]
    pub fn started(&self, worker: &str) -> String {
        format!("{}{OWN}:started:{worker}", self.prefix)
    }

    /// Hash of tasks that none of our workers runs to the number of their messages on our queues.
    #[must_use]
    pub fn waiting(&self) -> String {
        format!("{}{OWN}:waiting", self.prefix)
    }

    /// Hash of beat entries to the last slot sent.
    #[must_use]
    pub fn beat_slots(&self) -> String {
        format!("{}{OWN}:beat-slots", self.prefix)
    }

    /// Set of paused beat entries.
    #[must_use]
    pub fn beat_paused(&self) -> String {
        format!("{}{OWN}:beat-paused", self.prefix)
    }

    /// The leading beat: it sends, the others stand by.
    #[must_use]
    pub fn beat_leader(&self) -> String {
        format!("{}{OWN}:beat-leader", self.prefix)
    }

    /// A beat's status, which exists while the beat is alive.
    #[must_use]
    pub fn beat(&self, instance: &str) -> String {
        format!("{}{OWN}:beat:{instance}", self.prefix)
    }

    /// List of parked messages, each with the reason.
    #[must_use]
    pub fn parked(&self) -> String {
        format!("{}{OWN}:parked", self.prefix)
    }
}

impl Keys {
    /// Member of a binding set: routes messages with this routing key, or with one that matches the pattern, to `queue`.
    #[must_use]
    pub fn binding_member(&self, routing_key: &str, pattern: &str, queue: &str) -> String {
        [routing_key, pattern, queue].join(&self.sep)
    }

    /// Member of a topic exchange's binding set, with the routing key as the regular expression kombu makes of it.
    #[must_use]
    pub fn topic_binding(&self, routing_key: &str, queue: &str) -> String {
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
        self.binding_member(routing_key, &pattern, queue)
    }

    /// The queue to which a member of a binding set directly routes messages of `routing_key`. Only kombu routes by
    /// pattern.
    #[must_use]
    pub fn bound_queue<'m>(&self, member: &'m str, routing_key: &str) -> Option<&'m str> {
        let mut parts = member.splitn(3, &self.sep);
        let (key, pattern, queue) = (parts.next()?, parts.next()?, parts.next()?);
        (key == routing_key && pattern.is_empty() && !queue.is_empty()).then_some(queue)
    }

    /// Whether kombu, with this separator, can read the member of a binding set. One that it cannot read makes each of its
    /// clients that publishes through the exchange raise `ValueError`.
    #[must_use]
    pub fn is_readable_binding(&self, member: &str) -> bool {
        member.split(&self.sep).count() == 3
    }
}

/// Key of a task's result, also the channel that announces it.
///
/// `prefix` is the result backend's own `global_keyprefix`. As in Celery, an underscore follows it unless it ends
/// in one of `: _ - .`.
#[must_use]
pub fn task_meta(prefix: &str, task_id: &str) -> String {
    format!("{prefix}{}celery-task-meta-{task_id}", joint(prefix))
}

/// Celery's `task_default_queue`. Signatures that name no queue go here, whichever queues a worker consumes.
pub const DEFAULT_QUEUE: &str = "celery";

/// Key of a group in the result backend. An empty `suffix` is the saved result of the group. A chord's header has
/// its results under `.j`, the number of added tasks under `.t` and its size under `.s`; since Celery 5.7 also the
/// counted tasks under `.d` and the claim to publish the body under `.c`.
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
    fn separator_and_steps_are_used_everywhere() {
        let keys = Keys::new("p:", ":", &[1, 2, 9]);
        assert_eq!(keys.lists("q").collect::<Vec<_>>(), ["p:q:1", "p:q:2", "p:q:9"]);
        // As `steps[bisect(steps, n) - 1]`, below the first step too.
        let lists = [0, 1, 8, 9, 12].map(|priority| keys.list_for("q", Priority(priority)));
        assert_eq!(lists, ["p:q:9", "p:q:1", "p:q:2", "p:q:9", "p:q:9"]);
        let member = keys.binding_member("k", "", "q");
        assert_eq!((&*member, keys.bound_queue(&member, "k")), ("k::q", Some("q")));
        assert!(keys.is_readable_binding(&member));
        for unreadable in ["k", "a:b::q", &Keys::default().binding_member("k", "", "q")] {
            assert!(!keys.is_readable_binding(unreadable), "{unreadable}");
        }
    }

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
        let member = keys.binding_member("celery", "", "celery");
        assert_eq!(member, "celery\u{6}\u{16}\u{6}\u{16}celery");
        assert_eq!(keys.bound_queue(&member, "celery"), Some("celery"));
        assert_eq!(keys.bound_queue(&member, "other"), None);
        assert_eq!(keys.bound_queue(&keys.topic_binding("a.*", "q"), "a.*"), None);
        assert_eq!(
            keys.bound_queue(&keys.binding_member("celery", "", ""), "celery"),
            None
        );
        assert_eq!(keys.channel(3, "celery.pidbox"), "/3.celery.pidbox");
        assert_eq!(task_meta("", "x"), "celery-task-meta-x");
        assert_eq!(task_meta("rpfx", "x"), "rpfx_celery-task-meta-x");
        assert_eq!(task_meta("rpfx:", "x"), "rpfx:celery-task-meta-x");
        assert_eq!(group_meta("", "g", ".j"), "celery-taskset-meta-g.j");
        assert_eq!(group_meta("rpfx", "g", ""), "rpfx_celery-taskset-meta-g");
    }
}
