//! What is to be enqueued, and when. Pure: time comes in as an argument.

use std::time::Duration;

use tokio::time::Instant;
use tradebot_symbols::config::ScheduleConfig;
use tradebot_symbols::market::Market;

/// A schedule without entries: a beat with nothing to do is a mistake, not a quiet success.
#[derive(Debug)]
pub(crate) struct EmptySchedule;

impl std::fmt::Display for EmptySchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "the schedule is empty: set SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS or \
             FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS to a number of seconds above zero",
        )
    }
}

impl std::error::Error for EmptySchedule {}

/// One task that is enqueued at an interval.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Name of the entry.
    pub(crate) name: &'static str,
    /// Name of the task.
    pub(crate) task: &'static str,
    /// Destination.
    pub(crate) queue: String,
    /// The interval, which is also how long a message stays valid.
    pub(crate) every: Duration,
}

/// All entries; never empty.
#[derive(Debug)]
pub(crate) struct Schedule {
    entries: Vec<Entry>,
}

impl Schedule {
    /// The warm-ups of the markets that have an interval.
    pub(crate) fn warmups(config: &ScheduleConfig, queue: &str) -> Result<Self, EmptySchedule> {
        let entries: Vec<Entry> = Market::ALL
            .into_iter()
            .filter_map(|market| {
                let every = (*config.warmup_interval.get(market))?;
                let queue = queue.to_owned();
                Some(Entry {
                    name: market.schedule_entry(),
                    task: market.warmup_task(),
                    queue,
                    every,
                })
            })
            .collect();
        if entries.is_empty() {
            Err(EmptySchedule)
        } else {
            Ok(Self { entries })
        }
    }

    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// The next slot of an interval that began at `anchor`, strictly after `now`. Slots lie on the anchor's grid
/// however late a run was, so intervals do not drift; slots that passed meanwhile are not made up for.
pub(crate) fn next_slot(anchor: Instant, every: Duration, now: Instant) -> Instant {
    let passed = now.saturating_duration_since(anchor);
    let slots = passed.as_nanos() / every.as_nanos().max(1) + 1;
    let ahead = every.as_nanos().saturating_mul(slots);
    anchor + Duration::from_nanos(u64::try_from(ahead).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tradebot_symbols::market::PerMarket;

    #[test]
    fn markets_without_an_interval_are_left_out_and_none_at_all_is_refused() {
        let minute = Some(Duration::from_secs(60));
        let config = ScheduleConfig {
            warmup_interval: PerMarket {
                spot: None,
                futures: minute,
            },
        };
        let schedule = Schedule::warmups(&config, "celery").unwrap();
        assert_eq!(schedule.entries().len(), 1);
        assert_eq!(
            schedule.entries()[0].task,
            "app.core.cache_warmup_tasks.warmup_futures_symbols_cache"
        );
        let config = ScheduleConfig {
            warmup_interval: PerMarket {
                spot: None,
                futures: None,
            },
        };
        assert!(
            Schedule::warmups(&config, "celery")
                .unwrap_err()
                .to_string()
                .contains("schedule is empty")
        );
    }

    #[test]
    fn slots_lie_on_the_grid_whatever_the_delay() {
        let anchor = Instant::now();
        let every = Duration::from_secs(300);
        let after = |millis| next_slot(anchor, every, anchor + Duration::from_millis(millis)) - anchor;
        assert_eq!(after(0), every);
        assert_eq!(after(299_999), every);
        assert_eq!(after(300_000), 2 * every);
        assert_eq!(after(1_000_000), 4 * every);
    }
}
