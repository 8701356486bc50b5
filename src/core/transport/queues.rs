//! The queues that a worker serves, which remote control may change while it runs.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

use redis::Pipeline;
use tracing::warn;

use super::{Source, Transport};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_wire::keys::Keys;

/// A queue and the exchange that it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Name of the exchange.
    pub exchange: String,
    /// Type of the exchange: `direct` or `topic`.
    pub exchange_type: String,
    /// Routing key of the binding.
    pub routing_key: String,
}

impl Queue {
    /// A queue as Celery makes it from a name alone: bound to the direct exchange of the same name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            exchange: name.to_owned(),
            exchange_type: "direct".to_owned(),
            routing_key: name.to_owned(),
        }
    }

    fn binding(&self, keys: &Keys) -> String {
        if self.exchange_type == "topic" {
            keys.topic_binding(&self.routing_key, &self.name)
        } else {
            keys.binding_member(&self.routing_key, "", &self.name)
        }
    }
}

/// Queues and their lists, shared by the transports of one worker.
#[derive(Debug)]
pub(super) struct Served(RwLock<Lists>);

#[derive(Debug, Clone)]
struct Lists {
    queues: Vec<Queue>,
    /// Their names in the order in which they are served next.
    turns: Vec<String>,
    /// All queues at one priority step before any at the next.
    sources: Arc<[Source]>,
}

impl Served {
    pub(super) fn new(keys: &Keys, queues: Vec<Queue>) -> Self {
        Self(RwLock::new(Lists::new(keys, queues)))
    }

    /// The lists to serve, in order.
    pub(super) fn sources(&self) -> Arc<[Source]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).sources)
    }

    fn queues(&self) -> Vec<Queue> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .queues
            .clone()
    }

    /// Serves this queue after all others from now on, as kombu's `round_robin_cycle` does after each delivery.
    pub(super) fn note_delivery(&self, keys: &Keys, name: &str) {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let place = lists.turns.iter().position(|queue| queue == name);
        if let Some(place) = place.filter(|place| place + 1 < lists.turns.len()) {
            lists.turns[place..].rotate_left(1);
            lists.sources = sources(keys, &lists.turns);
        }
    }

    /// Changes the queues; `change` returns whether it did.
    fn change(&self, keys: &Keys, change: impl FnOnce(&mut Vec<Queue>) -> bool) -> bool {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut queues = lists.queues.clone();
        let changed = change(&mut queues);
        if changed {
            *lists = Lists::new(keys, queues);
        }
        changed
    }
}

impl Lists {
    fn new(keys: &Keys, queues: Vec<Queue>) -> Self {
        let turns: Vec<String> = queues.iter().map(|queue| queue.name.clone()).collect();
        Self {
            sources: sources(keys, &turns),
            queues,
            turns,
        }
    }
}

fn sources(keys: &Keys, queues: &[String]) -> Arc<[Source]> {
    keys.steps()
        .iter()
        .flat_map(|step| queues.iter().map(|queue| (queue, *step)))
        .map(|(queue, step)| Source {
            queue: queue.clone(),
            list: keys.list(queue, step),
        })
        .collect()
}

impl Transport {
    /// The queues, in the order in which they were named.
    #[must_use]
    pub fn queues(&self) -> Vec<Queue> {
        self.served.queues()
    }

    /// Names of the queues, in the order in which they were named.
    #[must_use]
    pub fn queue_names(&self) -> Vec<String> {
        self.queues().into_iter().map(|queue| queue.name).collect()
    }

    /// Serves one more queue from now on; `false` if it was served already.
    pub fn add_queue(&self, queue: Queue) -> bool {
        let added = self.served.change(&self.keys, |queues| {
            let is_new = queues.iter().all(|known| known.name != queue.name);
            if is_new {
                queues.push(queue);
            }
            is_new
        });
        self.look_again();
        added
    }

    /// Stops serving a queue; `false` if it was not served. Messages already claimed still run.
    pub fn remove_queue(&self, name: &str) -> bool {
        self.served.change(&self.keys, |queues| {
            let before = queues.len();
            queues.retain(|queue| queue.name != name);
            queues.len() < before
        })
    }

    /// Binds the queues to their exchanges, as every kombu consumer does at start. Clients that publish through an
    /// exchange find the queue by its binding; kombu 5.7 reads the second set.
    ///
    /// # Errors
    /// [`RedisTrouble`].
    pub async fn bind_queues(&self) -> Result<(), RedisTrouble> {
        for queue in self.queues() {
            let member = queue.binding(&self.keys);
            bind(
                &self.connection,
                &self.keys,
                &queue.exchange,
                &[false, true],
                &member,
            )
            .await?;
        }
        Ok(())
    }
}

/// Adds a member to an exchange's sets of bindings, permanent or not, unless that would be in a form that other clients of
/// the exchange do not read; `false` then.
///
/// # Errors
/// [`RedisTrouble`].
pub async fn bind(
    connection: &Connection,
    keys: &Keys,
    exchange: &str,
    sets: &[bool],
    member: &str,
) -> Result<bool, RedisTrouble> {
    let sets: Vec<String> = sets
        .iter()
        .map(|permanent| keys.binding(exchange, *permanent))
        .collect();
    let (mut read, mut add) = (Pipeline::new(), Pipeline::new());
    for set in &sets {
        read.cmd("SMEMBERS").arg(set);
        add.cmd("SADD").arg(set).arg(member).ignore();
    }
    let members: Vec<Vec<Vec<u8>>> = connection.pipeline(&read).await?;
    let members = members.iter().flatten().map(|one| String::from_utf8_lossy(one));
    let strange = members
        .chain([Cow::Borrowed(member)])
        .find(|one| !keys.is_readable_binding(one));
    if let Some(strange) = strange {
        warn!(
            exchange,
            binding = &*strange,
            sep = keys.sep(),
            "did not bind a queue, because clients with one `sep` cannot read bindings with another; set CELERY_SEP to \
             the `sep` of the Python side"
        );
        return Ok(false);
    }
    connection.pipeline::<()>(&add).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_follow_the_queues() {
        let keys = Keys::default();
        let served = Served::new(&keys, vec![Queue::named("a")]);
        let names = |served: &Served| -> Vec<String> {
            served
                .sources()
                .iter()
                .map(|source| source.list.clone())
                .collect()
        };
        assert_eq!(names(&served)[..2], ["a", "a\u{6}\u{16}3"]);
        served.change(&keys, |queues| {
            queues.push(Queue::named("b"));
            true
        });
        assert_eq!(names(&served)[..3], ["a", "b", "a\u{6}\u{16}3"]);
        served.change(&keys, |queues| {
            queues.push(Queue::named("c"));
            true
        });
        served.note_delivery(&keys, "b");
        served.note_delivery(&keys, "a");
        assert_eq!(names(&served)[..4], ["c", "b", "a", "c\u{6}\u{16}3"]);
        assert_eq!(served.queues()[0], Queue::named("a"));
    }

    #[test]
    fn a_topic_binding_carries_its_pattern() {
        let queue = Queue {
            exchange_type: "topic".into(),
            routing_key: "a.#.b.*".into(),
            ..Queue::named("q")
        };
        assert_eq!(
            queue.binding(&Keys::default()),
            "a.#.b.*\u{6}\u{16}^a\\..*?\\.b\\.[^\\.]+$\u{6}\u{16}q"
        );
        let keys = Keys::default();
        assert_eq!(
            Queue::named("q").binding(&keys),
            keys.binding_member("q", "", "q")
        );
    }
}
