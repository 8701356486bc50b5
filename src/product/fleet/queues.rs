//! The depth of the queues, and the broker's totals.

use std::collections::BTreeMap;

use serde::Serialize;

use super::FleetReader;
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::keys::{MAX_WAITING_TASKS, OTHER_TASKS};

/// The depth of one queue.
#[derive(Debug, Clone)]
pub(crate) struct QueueDepth {
    pub(crate) name: String,
    /// Messages on all its priority lists.
    pub(crate) messages: u64,
    /// The list that is served next.
    pub(super) next_list: Option<String>,
    /// The type of a key that should be a list.
    pub(super) wrong_type: Option<String>,
}

impl QueueDepth {
    /// Reads the depth of these queues.
    pub(crate) async fn read_all(reader: &FleetReader, names: &[String]) -> Result<Vec<Self>, RedisTrouble> {
        let keys: Vec<String> = names.iter().flat_map(|name| reader.keys.lists(name)).collect();
        let mut lists = list_lengths(reader, &keys).await?.into_iter().zip(keys);
        Ok(names
            .iter()
            .map(|name| {
                let mut depth = Self {
                    name: name.clone(),
                    messages: 0,
                    next_list: None,
                    wrong_type: None,
                };
                for (found, key) in lists.by_ref().take(reader.keys.steps().len()) {
                    match found {
                        Ok(0) => {}
                        Ok(length) => {
                            depth.messages += length;
                            depth.next_list.get_or_insert(key);
                        }
                        Err(held) => depth.wrong_type = Some(held),
                    }
                }
                depth
            })
            .collect())
    }
}

/// The lengths of these lists, or the type of what is no list.
pub(super) async fn list_lengths(
    reader: &FleetReader,
    keys: &[String],
) -> Result<Vec<Result<u64, String>>, RedisTrouble> {
    let (mut types, mut lengths) = (redis::pipe(), redis::pipe());
    for key in keys {
        types.cmd("TYPE").arg(key);
    }
    let types: Vec<String> = reader.broker_pipeline(&types).await?;
    // LLEN on another type is an error that fails the whole pipeline.
    for (key, _) in keys.iter().zip(&types).filter(|(_, found)| *found == "list") {
        lengths.llen(key);
    }
    let mut lengths = reader.broker_pipeline(&lengths).await?.into_iter();
    let lengths = types.into_iter().map(|found| match &*found {
        "none" => Ok(0),
        "list" => Ok(lengths.next().unwrap_or_default()),
        _ => Err(found),
    });
    Ok(lengths.collect())
}

/// The broker's totals, over all queues.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct BrokerTotals {
    /// Deliveries that are not acknowledged.
    pub unacked: u64,
    /// Of these, the indexed ones, which can be restored.
    pub unacked_index: u64,
    /// Parked messages.
    pub parked: u64,
    /// Number of messages that wait for other workers, by task.
    pub waiting_for_others: BTreeMap<String, u64>,
}

impl BrokerTotals {
    /// Reads all totals in one transaction.
    pub(crate) async fn read(reader: &FleetReader) -> Result<Self, RedisTrouble> {
        let keys = &reader.keys;
        let mut totals = redis::pipe();
        totals.atomic().hlen(keys.unacked()).zcard(keys.unacked_index());
        totals.llen(keys.parked()).hgetall(keys.waiting());
        let (unacked, unacked_index, parked, waiting) = reader.broker.pipeline(&totals).await?;
        Ok(Self {
            unacked,
            unacked_index,
            parked,
            waiting_for_others: capped(waiting),
        })
    }
}

/// The tasks with the most messages; the others are summed up. Other programs may write more than a worker does.
fn capped(mut waiting: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    if waiting.len() <= MAX_WAITING_TASKS + 1 {
        return waiting;
    }
    let mut others = waiting.remove(OTHER_TASKS).unwrap_or_default();
    let mut tasks: Vec<(String, u64)> = waiting.into_iter().collect();
    tasks.sort_by_key(|(_, messages)| std::cmp::Reverse(*messages));
    others += tasks[MAX_WAITING_TASKS..].iter().map(|(_, n)| n).sum::<u64>();
    tasks.truncate(MAX_WAITING_TASKS);
    tasks.push((OTHER_TASKS.to_owned(), others));
    tasks.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_beyond_a_hundred_are_summed_up() {
        let waiting: BTreeMap<String, u64> = (0..150).map(|n| (format!("task-{n:03}"), n)).collect();
        let shown = capped(waiting.clone());
        assert_eq!(shown.len(), 101);
        assert_eq!((shown["task-149"], shown["others"]), (149, (0..50).sum::<u64>()));
        assert_eq!(capped(shown.clone()), shown);
    }
}
