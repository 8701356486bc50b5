//! The queues that a worker serves, which remote control may change while it runs.

use std::borrow::Cow;
use std::sync::{Arc, PoisonError, RwLock};

use redis::Pipeline;
use tracing::{debug, error, info, warn};

use super::{LeftOut, Passes, Source, Transport, Wish};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
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
#[derive(Debug, Default)]
pub(super) struct Served(RwLock<Lists>);

#[derive(Debug, Default)]
struct Lists {
    queues: Vec<Queue>,
    /// Their names in the order in which they are served next.
    turns: Vec<String>,
    /// Those that the server refuses.
    refused: Vec<String>,
    /// The lists of the others: all queues at one priority step before any at the next.
    sources: Arc<[Source]>,
}

impl Served {
    pub(super) fn new(keys: &Keys, queues: Vec<Queue>) -> Self {
        let served = Self::default();
        served.change(keys, |none| {
            *none = queues;
            true
        });
        served
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

    /// The queues that the server refuses, or the others.
    fn queues_that_are(&self, refused: bool) -> Vec<Queue> {
        let lists = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let chosen = |queue: &&Queue| lists.refused.contains(&queue.name) == refused;
        lists.queues.iter().filter(chosen).cloned().collect()
    }

    /// Stops serving a queue because the server refuses it, or serves it again.
    fn set_refused(&self, keys: &Keys, name: &str, refused: bool) {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        lists.refused.retain(|queue| queue != name);
        if refused {
            lists.refused.push(name.to_owned());
        }
        lists.list_sources(keys);
    }

    /// Serves this queue after all others from now on, as kombu's `round_robin_cycle` does after each delivery.
    pub(super) fn note_delivery(&self, keys: &Keys, name: &str) {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let place = lists.turns.iter().position(|queue| queue == name);
        if let Some(place) = place.filter(|place| place + 1 < lists.turns.len()) {
            lists.turns[place..].rotate_left(1);
            lists.list_sources(keys);
        }
    }

    /// Changes the queues; `change` returns whether it did.
    fn change(&self, keys: &Keys, change: impl FnOnce(&mut Vec<Queue>) -> bool) -> bool {
        let mut lists = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut lists.queues);
        if changed {
            lists.turns = lists.queues.iter().map(|queue| queue.name.clone()).collect();
            let Lists { turns, refused, .. } = &mut *lists;
            refused.retain(|name| turns.contains(name));
            lists.list_sources(keys);
        }
        changed
    }
}

impl Lists {
    fn list_sources(&mut self, keys: &Keys) {
        let served = |step: u8| {
            let served = self.turns.iter().filter(|queue| !self.refused.contains(queue));
            served.map(move |queue| Source {
                queue: queue.clone(),
                list: keys.list(queue, step),
            })
        };
        self.sources = keys.steps().iter().flat_map(|step| served(*step)).collect();
    }
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
        for queue in self.served.queues_that_are(false) {
            self.bind_queue(&queue).await?;
        }
        Ok(())
    }

    async fn bind_queue(&self, queue: &Queue) -> Result<(), RedisTrouble> {
        let (exchange, member) = (&queue.exchange, queue.binding(&self.keys));
        bind(&self.connection, &self.keys, exchange, &[false, true], &member).await?;
        Ok(())
    }

    /// After a refusal: stops serving the queues to which it is due, and returns whether others are left.
    /// [`try_refused_queues`](Self::try_refused_queues) serves them again.
    pub async fn leave_refused_queues(&self) -> bool {
        let queues = self.served.queues_that_are(false);
        let mut refused = Vec::new();
        for queue in &queues {
            match self.try_queue(queue).await {
                Ok(()) => {}
                Err(trouble) if trouble.needs_an_operator() => refused.push((queue, trouble)),
                Err(_) => return false,
            }
        }
        if refused.is_empty() || refused.len() == queues.len() {
            return false;
        }
        for (queue, trouble) in refused {
            error!(
                queue = queue.name,
                error = %error_chain(&trouble),
                "the broker refuses a queue, this worker serves only its other queues until that is mended"
            );
            self.served.set_refused(&self.keys, &queue.name, true);
        }
        true
    }

    /// Serves those refused queues again that the server does not refuse any more.
    ///
    /// # Errors
    /// [`RedisTrouble`] of another kind than a refusal.
    pub async fn try_refused_queues(&self) -> Result<(), RedisTrouble> {
        for queue in self.served.queues_that_are(true) {
            match self.try_queue(&queue).await {
                Ok(()) => {
                    info!(queue = queue.name, "serves a queue again");
                    self.served.set_refused(&self.keys, &queue.name, false);
                    self.look_again();
                }
                Err(trouble) if trouble.needs_an_operator() => {
                    debug!(queue = queue.name, error = %error_chain(&trouble), "the broker still refuses a queue");
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(())
    }

    /// Binds a queue and claims no message from it: the server refuses that as it refuses a claim.
    async fn try_queue(&self, queue: &Queue) -> Result<(), RedisTrouble> {
        self.bind_queue(queue).await?;
        let nothing = Wish {
            messages: 0,
            tasks: &[],
            not_now: &[],
            left_out: &LeftOut::default(),
            leave_etas: false,
        };
        let lists = self.keys.lists(&queue.name).map(|list| Source {
            queue: queue.name.clone(),
            list,
        });
        let lists: Vec<Source> = lists.collect();
        self.claim_from(&lists, &nothing, &Passes::default()).await?;
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
        served.set_refused(&keys, "b", true);
        assert_eq!(names(&served)[..3], ["c", "a", "c\u{6}\u{16}3"]);
        assert_eq!(served.queues_that_are(true), [Queue::named("b")]);
        served.change(&keys, |queues| {
            queues.swap(0, 2);
            true
        });
        assert_eq!(names(&served)[..3], ["c", "a", "c\u{6}\u{16}3"]);
        served.set_refused(&keys, "b", false);
        assert_eq!(names(&served)[..3], ["c", "b", "a"]);
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
