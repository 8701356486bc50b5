//! What is sent: schedule entries and their options.

use std::time::Duration;

use serde_json::{Map, Value};
use tradebot_base::config::ScheduleConfig;
use tradebot_base::market::Market;
use tradebot_core::trace;
use tradebot_core::wire::body::Body;
use tradebot_core::wire::envelope::Priority;
use tradebot_core::wire::task_message::TaskMessage;
use uuid::Uuid;

use crate::slots::{Micros, Plan, time};

/// The namespace of task ids; never to be changed, or a slot has two ids during an upgrade.
const IDS: Uuid = Uuid::from_u128(0x8f5a_31c4_6f0e_5b7c_9d0c_2f6b_9a4e_7d11);

/// What happens to slots that passed while nothing could be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CatchUp {
    /// Nothing: the next slot is the next one sent.
    Skip,
    /// One message, for the last of them.
    One,
    /// One message each, for the last so many.
    All(usize),
}

/// How long a message is valid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Expires {
    /// Until the following slot.
    NextSlot,
    /// For so long.
    After(Duration),
    Never,
}

/// One task on the schedule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// The entry's name; its slots are recorded under it.
    pub(crate) name: String,
    /// The task's registered name.
    pub(crate) task: String,
    pub(crate) args: Vec<Value>,
    pub(crate) kwargs: Map<String, Value>,
    pub(crate) queue: String,
    pub(crate) priority: Priority,
    pub(crate) expires: Expires,
    pub(crate) plan: Plan,
    pub(crate) enabled: bool,
    pub(crate) catch_up: CatchUp,
    /// Each message is sent by a part of this after its slot, the same for every beat.
    pub(crate) jitter: Duration,
    /// Not sent while the previous message has no result, for at most so long.
    pub(crate) unless_pending: Option<Duration>,
}

impl Entry {
    /// An entry with everything that can be left out left out.
    pub(crate) fn new(name: impl Into<String>, task: impl Into<String>, queue: &str, plan: Plan) -> Self {
        Self {
            name: name.into(),
            task: task.into(),
            args: Vec::new(),
            kwargs: Map::new(),
            queue: queue.to_owned(),
            priority: Priority::default(),
            expires: Expires::NextSlot,
            plan,
            enabled: true,
            catch_up: CatchUp::One,
            jitter: Duration::ZERO,
            unless_pending: None,
        }
    }

    /// The id of a slot's task: the same whoever sends it.
    pub(crate) fn task_id(&self, slot: Micros) -> String {
        self.slot_id(slot).to_string()
    }

    fn slot_id(&self, slot: Micros) -> Uuid {
        Uuid::new_v5(&IDS, format!("{}@{slot}", self.name).as_bytes())
    }

    /// When a slot's message is due: at the slot, or later by its jitter.
    pub(crate) fn due(&self, slot: Micros) -> Micros {
        let most = self.jitter.as_micros();
        if most == 0 {
            return slot;
        }
        let drawn = self.slot_id(slot).as_u128() % most;
        slot.saturating_add(Micros::try_from(drawn).unwrap_or(0))
    }

    /// The message of a slot, sent at `now`; `anchor` is that of the entry's grid.
    pub(crate) fn message(
        &self,
        id: String,
        slot: Micros,
        anchor: Micros,
        now: Micros,
        origin: &str,
    ) -> String {
        let valid = match self.expires {
            Expires::NextSlot => self.plan.gap(anchor, slot),
            Expires::After(time) => Some(time),
            Expires::Never => None,
        };
        let valid = valid.and_then(|valid| Micros::try_from(valid.as_micros()).ok());
        let message = TaskMessage {
            task: self.task.clone(),
            id,
            body: Body {
                args: self.args.clone(),
                kwargs: self.kwargs.clone(),
                ..Body::default()
            },
            queue: self.queue.clone(),
            // A message that nobody took before the next one has a successor: it must not pile up.
            expires: valid.map(|valid| time(now.saturating_add(valid))),
            priority: self.priority,
            ..TaskMessage::default()
        };
        let mut message = message.into_envelope(origin, time(now));
        trace::produced(&mut message, &self.queue);
        message.to_json()
    }
}

/// The warm-ups of the markets that have an interval.
pub(crate) fn warmups(config: &ScheduleConfig, queue: &str) -> Vec<Entry> {
    let entry = |market: Market| {
        let every = (*config.warmup_interval.get(market))?;
        Some(Entry::new(
            market.schedule_entry(),
            market.warmup_task(),
            queue,
            Plan::every(every),
        ))
    };
    Market::ALL.into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use tradebot_base::market::PerMarket;
    use tradebot_core::wire::envelope::Envelope;

    use super::*;

    fn minutely() -> Entry {
        Entry::new("e", "t", "celery", Plan::every(Duration::from_secs(60)))
    }

    #[test]
    fn markets_without_an_interval_are_left_out() {
        let config = ScheduleConfig {
            warmup_interval: PerMarket {
                spot: None,
                futures: Some(Duration::from_secs(60)),
            },
            file: None,
            metrics_listen: None,
        };
        let entries = warmups(&config, "q");
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].name, "warmup-futures-symbols-cache");
        assert_eq!(
            entries[0].task,
            "app.core.cache_warmup_tasks.warmup_futures_symbols_cache"
        );
        assert_eq!(
            (entries[0].queue.as_str(), &entries[0].plan),
            ("q", &Plan::Interval(60_000_000))
        );
    }

    #[test]
    fn ids_name_entry_and_slot_and_stay_the_same_in_every_release() {
        let mut entry = minutely();
        let id = entry.task_id(1_764_000_000_000_000);
        assert_eq!(
            id, "74b1ad4c-faf6-5e35-aaee-46b71e95e923",
            "an upgrade would send slots twice"
        );
        assert_ne!(id, entry.task_id(1_764_000_060_000_000));
        entry.name = "f".into();
        assert_ne!(id, entry.task_id(1_764_000_000_000_000));
    }

    #[test]
    fn jitter_delays_each_slot_by_a_part_of_it_that_is_always_the_same() {
        let mut entry = minutely();
        assert_eq!(entry.due(7), 7);
        entry.jitter = Duration::from_secs(10);
        let delays: Vec<Micros> = (0..1000)
            .map(|slot| entry.due(slot * 60_000_000) - slot * 60_000_000)
            .collect();
        assert!(delays.iter().all(|delay| (0..10_000_000).contains(delay)));
        let mean = delays.iter().sum::<Micros>() / 1000;
        assert!((4_500_000..5_500_000).contains(&mean), "{mean}");
        assert_eq!(entry.due(60_000_000), entry.clone().due(60_000_000));
    }

    #[test]
    fn messages_expire_with_the_next_slot_unless_told_otherwise() {
        let mut entry = minutely();
        let now = 1_764_000_003_000_000;
        let slot = 1_764_000_000_000_000;
        let expires = |entry: &Entry| {
            let message = entry.message("id".into(), slot, slot, now, "gen1@h");
            let envelope = Envelope::parse(message.as_bytes()).unwrap();
            envelope.text("expires").map(str::to_owned)
        };
        assert_eq!(expires(&entry).as_deref(), Some("2025-11-24T16:01:03+00:00"));
        entry.expires = Expires::After(Duration::from_secs(5));
        assert_eq!(expires(&entry).as_deref(), Some("2025-11-24T16:00:08+00:00"));
        entry.expires = Expires::Never;
        assert_eq!(expires(&entry), None);
    }
}
