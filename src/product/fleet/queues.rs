//! The depth of the queues, and the broker's totals.

use std::collections::BTreeMap;

use serde::Serialize;

use super::FleetReader;
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::keys::PRIORITY_STEPS;

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
        let lists = |name: &String| PRIORITY_STEPS.map(|step| reader.keys.list(name, step));
        let keys: Vec<String> = names.iter().flat_map(lists).collect();
        let (mut types, mut lengths) = (redis::pipe(), redis::pipe());
        for key in &keys {
            types.cmd("TYPE").arg(key);
        }
        let types: Vec<String> = reader.broker_pipeline(&types).await?;
        // LLEN on another type is an error that fails the whole pipeline.
        for (key, _) in keys.iter().zip(&types).filter(|(_, found)| *found == "list") {
            lengths.llen(key);
        }
        let mut lengths: Vec<u64> = reader.broker_pipeline(&lengths).await?;
        lengths.reverse();
        let mut lists = keys.into_iter().zip(types);
        Ok(names
            .iter()
            .map(|name| {
                let mut depth = Self {
                    name: name.clone(),
                    messages: 0,
                    next_list: None,
                    wrong_type: None,
                };
                for (key, found) in lists.by_ref().take(PRIORITY_STEPS.len()) {
                    match &*found {
                        "none" => {}
                        "list" => {
                            depth.messages += lengths.pop().unwrap_or_default();
                            depth.next_list.get_or_insert(key);
                        }
                        _ => depth.wrong_type = Some(found),
                    }
                }
                depth
            })
            .collect())
    }
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
        let (unacked, unacked_index, parked, waiting_for_others) = reader.broker.pipeline(&totals).await?;
        Ok(Self {
            unacked,
            unacked_index,
            parked,
            waiting_for_others,
        })
    }
}
