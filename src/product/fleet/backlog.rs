//! The backlog: messages that wait, are not acknowledged, or are parked.

use std::collections::{BTreeMap, BTreeSet};

use redis::cmd;
use serde::Serialize;
use serde_json::Value;

use super::queues::{BrokerTotals, QueueDepth, list_lengths};
use super::{FleetReader, trend};
use tradebot_base::connection::RedisTrouble;
use tradebot_wire::envelope::Envelope;
use tradebot_wire::keys::SEP;

/// How many of the oldest deliveries to read: a Python worker holds those with an `eta`.
const DELIVERIES: usize = 50;

/// One queue.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct QueueFacts {
    /// Its name.
    pub name: String,
    /// Messages that wait.
    pub messages: u64,
    /// The message that is served next.
    pub oldest: Option<OldestMessage>,
    /// The type of a key that should be a list.
    pub wrong_type: Option<String>,
    /// Whether clients find it through its exchange.
    pub bound: bool,
    /// A binding of its exchange that was written with another separator.
    pub unreadable_binding: Option<String>,
    /// Lists with messages of other priority steps or with another separator, which none of our workers reads.
    pub unread: BTreeMap<String, u64>,
}

/// The message that has waited longest.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OldestMessage {
    /// Its task.
    pub task: String,
    /// Its id.
    pub id: String,
    /// Seconds since a reading first found it at the head.
    pub waiting_seconds: i64,
    /// Seconds since it expired, negative while it is valid; absent without expiry.
    pub expired_seconds: Option<i64>,
}

/// Everything that waits on the broker.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Backlog {
    /// The requested queues.
    pub queues: Vec<QueueFacts>,
    /// Age of the oldest delivery that does not wait for its `eta`, in seconds.
    pub oldest_delivery_seconds: Option<i64>,
    /// The totals.
    #[serde(flatten)]
    pub totals: BrokerTotals,
}

impl Backlog {
    /// Reads these queues and the totals, and stores the oldest messages for comparison with the next reading. `prefix` is
    /// that of the broker's keys.
    pub(crate) async fn read(
        reader: &FleetReader,
        prefix: &str,
        names: &[String],
    ) -> Result<Self, RedisTrouble> {
        let (now, _): (i64, i64) = reader.broker.command(&cmd("TIME")).await?;
        let mut queues = Vec::new();
        let mut heads = BTreeMap::new();
        for depth in QueueDepth::read_all(reader, names).await? {
            let message = match &depth.next_list {
                Some(list) => head(reader, list).await?,
                None => None,
            };
            if let Some(message) = &message {
                let id = message.publisher_tag().unwrap_or(message.id());
                heads.insert(depth.name.clone(), id.to_owned());
            }
            let bindings = bindings(reader, &depth.name).await?;
            let member = reader.keys.binding_member(&depth.name, "", &depth.name);
            queues.push(QueueFacts {
                bound: bindings.contains(&member),
                unread: unread(reader, &depth.name, &bindings).await?,
                unreadable_binding: bindings
                    .into_iter()
                    .find(|binding| !reader.keys.is_readable_binding(binding)),
                name: depth.name,
                messages: depth.messages,
                oldest: message.map(|message| OldestMessage {
                    task: message.task().to_owned(),
                    id: message.id().to_owned(),
                    waiting_seconds: 0,
                    expired_seconds: message.expires().ok().flatten().map(|at| now - at.timestamp()),
                }),
                wrong_type: depth.wrong_type,
            });
        }
        // Without write access ages are unknown; the server's write probe reports why.
        let waiting = trend::heads(&reader.broker, prefix, now, heads).await;
        let waiting = waiting.unwrap_or_default();
        for queue in &mut queues {
            if let Some(oldest) = &mut queue.oldest {
                oldest.waiting_seconds = waiting.get(&queue.name).copied().unwrap_or_default();
            }
        }
        Ok(Self {
            queues,
            totals: BrokerTotals::read(reader).await?,
            oldest_delivery_seconds: oldest_delivery(reader, now).await?,
        })
    }
}

/// The message at the end that is served next.
async fn head(reader: &FleetReader, list: &str) -> Result<Option<Envelope>, RedisTrouble> {
    let raw: Option<Vec<u8>> = reader.broker.command(cmd("LINDEX").arg(list).arg(-1)).await?;
    Ok(raw.and_then(|raw| Envelope::parse(&raw).ok()))
}

async fn bindings(reader: &FleetReader, queue: &str) -> Result<Vec<String>, RedisTrouble> {
    let mut members = cmd("SMEMBERS");
    members.arg(reader.keys.binding(queue, false));
    let members: Vec<Vec<u8>> = reader.broker.command(&members).await?;
    Ok(members
        .iter()
        .map(|member| String::from_utf8_lossy(member).into_owned())
        .collect())
}

/// Lists that clients with other priority steps or another separator fill: the separator of kombu, a usual one, and the one
/// that a binding shows.
async fn unread(
    reader: &FleetReader,
    queue: &str,
    bindings: &[String],
) -> Result<BTreeMap<String, u64>, RedisTrouble> {
    let keys = &reader.keys;
    // A binding of the queue to its own exchange: its name, nothing and its name, with separators between.
    let shown = bindings.iter().filter_map(|binding| {
        let twice = binding.strip_prefix(queue)?.strip_suffix(queue)?;
        let half = twice.get(..twice.len() / 2)?;
        (!half.is_empty() && half.repeat(2) == twice).then_some(half)
    });
    let seps: BTreeSet<&str> = [keys.sep(), SEP, ":"].into_iter().chain(shown).collect();
    let of = |sep: &str| -> Vec<String> {
        let naming = keys.with_sep(sep);
        (0..=9).map(|priority| naming.list(queue, priority)).collect()
    };
    let mut lists: BTreeSet<String> = seps.into_iter().flat_map(of).collect();
    for read in keys.lists(queue) {
        lists.remove(&read);
    }
    let lists: Vec<String> = lists.into_iter().collect();
    let lengths = list_lengths(reader, &lists).await?;
    let found = lists.into_iter().zip(lengths);
    Ok(found
        .filter_map(|(list, length)| Some((list, length.ok()?)).filter(|(_, length)| *length > 0))
        .collect())
}

/// Age of the oldest delivery that does not wait for its `eta`: Python workers do not renew those that do.
async fn oldest_delivery(reader: &FleetReader, now: i64) -> Result<Option<i64>, RedisTrouble> {
    let keys = &reader.keys;
    let mut range = cmd("ZRANGE");
    range
        .arg(keys.unacked_index())
        .arg(0)
        .arg(DELIVERIES - 1)
        .arg("WITHSCORES");
    let oldest: Vec<(String, f64)> = reader.broker.command(&range).await?;
    for (tag, score) in oldest {
        let mut get = cmd("HGET");
        let record: Option<Vec<u8>> = reader.broker.command(get.arg(keys.unacked()).arg(&tag)).await?;
        let has_eta = record
            .and_then(|record| serde_json::from_slice::<Value>(&record).ok())
            .is_some_and(|record| record[0]["headers"]["eta"].is_string());
        if !has_eta {
            #[expect(clippy::cast_possible_truncation, reason = "seconds since 1970")]
            return Ok(Some(now - score as i64));
        }
    }
    Ok(None)
}
