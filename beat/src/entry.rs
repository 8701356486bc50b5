//! Schedule entries: which task to send, when, and with which options.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use tradebot_base::config::ScheduleConfig;
use tradebot_base::market::Market;
use tradebot_core::trace;
use tradebot_core::wire::body::Body;
use tradebot_core::wire::envelope::Priority;
use tradebot_core::wire::task_message::TaskMessage;
use uuid::Uuid;

use crate::slots::{Micros, Plan, time};

/// The namespace of task ids. Never change it: during an upgrade a slot would have two ids and be sent twice.
const IDS: Uuid = Uuid::from_u128(0x8f5a_31c4_6f0e_5b7c_9d0c_2f6b_9a4e_7d11);

/// What to do about slots that passed while nothing could be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CatchUp {
    /// Send none of them.
    Skip,
    /// Send one message, for the last of them.
    One,
    /// Send one message each, for at most this many of the last ones.
    All(usize),
}

/// When a message expires.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Expires {
    /// When the next slot is due.
    NextSlot,
    /// This long after it was sent.
    After(Duration),
    /// At this instant.
    At(Micros),
    Never,
}

/// One task on the schedule.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScheduleEntry {
    /// The entry's name, under which its slots are recorded.
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
    /// The longest random delay of a message after its slot; all beats draw the same one.
    pub(crate) jitter: Duration,
    /// Send nothing while the previous message has no result, but wait for that no longer than this.
    pub(crate) unless_pending: Option<Duration>,
}

impl ScheduleEntry {
    /// An entry with the default options.
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

    /// The id of a slot's task, the same in every beat.
    pub(crate) fn task_id(&self, slot: Micros) -> String {
        self.slot_id(slot).to_string()
    }

    fn slot_id(&self, slot: Micros) -> Uuid {
        Uuid::new_v5(&IDS, format!("{}@{slot}", self.name).as_bytes())
    }

    /// When a slot's message is due: at the slot plus its jitter.
    pub(crate) fn due(&self, slot: Micros) -> Micros {
        let most = self.jitter.as_micros();
        if most == 0 {
            return slot;
        }
        let drawn = self.slot_id(slot).as_u128() % most;
        slot.saturating_add(Micros::try_from(drawn).unwrap_or(0))
    }

    /// When the message of a slot expires if it is sent at `now`; `anchor` is a point on the entry's grid.
    pub(crate) fn expiry(&self, anchor: Micros, slot: Micros, now: Micros) -> Option<DateTime<Utc>> {
        let valid = match self.expires {
            // A message that no worker takes before the next one comes must not pile up.
            Expires::NextSlot => self.plan.gap(anchor, slot),
            Expires::After(time) => Some(time),
            Expires::At(instant) => return Some(time(instant)),
            Expires::Never => None,
        };
        let valid = Micros::try_from(valid?.as_micros()).ok()?;
        Some(time(now.saturating_add(valid)))
    }

    /// The message to push, sent at `now`.
    pub(crate) fn message(
        &self,
        id: String,
        expires: Option<DateTime<Utc>>,
        now: Micros,
        origin: &str,
    ) -> String {
        let message = TaskMessage {
            task: self.task.clone(),
            id,
            body: Body {
                args: self.args.clone(),
                kwargs: self.kwargs.clone(),
                ..Body::default()
            },
            queue: self.queue.clone(),
            expires,
            priority: self.priority,
            ..TaskMessage::default()
        };
        let mut message = message.into_envelope(origin, time(now));
        trace::produced(&mut message, &self.queue);
        message.to_json()
    }
}

/// The warm-ups of the markets that have an interval.
pub(crate) fn warmups(config: &ScheduleConfig, queue: &str) -> Vec<ScheduleEntry> {
    let entry = |market: Market| {
        let every = (*config.warmup_interval.get(market))?;
        Some(ScheduleEntry::new(
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

    fn minutely() -> ScheduleEntry {
        ScheduleEntry::new("e", "t", "celery", Plan::every(Duration::from_secs(60)))
    }

    #[test]
    fn markets_without_an_interval_have_no_warmup() {
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
    fn ids_depend_on_entry_and_slot_alone_and_never_change() {
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
    fn jitter_delays_each_slot_by_a_fixed_random_part_of_it() {
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
    fn messages_expire_with_the_next_slot_by_default() {
        let mut entry = minutely();
        let now = 1_764_000_003_000_000;
        let slot = 1_764_000_000_000_000;
        let expires = |entry: &ScheduleEntry| {
            let message = entry.message("id".into(), entry.expiry(slot, slot, now), now, "gen1@h");
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
