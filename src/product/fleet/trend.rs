//! Samples that one reading stores so that the next can compute trends and ages.
//!
//! Two keys, kept for a day: the counters beside the lists, and beside the queues when each oldest message was first
//! seen, because messages carry no time.

use std::collections::BTreeMap;

use redis::cmd;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::counters::MarketCounters;
use tradebot_base::connection::{Connection, RedisTrouble};

const KEPT_SECONDS: u64 = 86_400;
/// The age at which a reading replaces a sample.
const SAMPLE_SECONDS: i64 = 300;
/// The minimum interval of two readings for a trend.
const APART_SECONDS: i64 = 30;

/// The counts since an earlier reading.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Recent {
    /// How long ago that reading was.
    pub seconds: i64,
    /// The difference of the counters.
    pub counts: MarketCounters,
}

#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    at: i64,
    counts: BTreeMap<String, MarketCounters>,
}

/// Compares the counters with an earlier sample, by market, and replaces that sample if it is old enough.
pub(super) async fn counters(
    connection: &Connection,
    now: i64,
    counts: &BTreeMap<String, MarketCounters>,
) -> Result<BTreeMap<String, Recent>, RedisTrouble> {
    const KEY: &str = "tradebot-symbols:doctor:counters";
    let earlier: Option<Sample> = load(connection, KEY).await?;
    let age = earlier.as_ref().map(|sample| now.saturating_sub(sample.at));
    if age.is_none_or(|age| !(0..SAMPLE_SECONDS).contains(&age)) {
        let counts = counts.clone();
        store(connection, KEY, &Sample { at: now, counts }).await?;
    }
    let (Some(sample), Some(seconds)) = (earlier, age.filter(|age| *age >= APART_SECONDS)) else {
        return Ok(BTreeMap::new());
    };
    let recent = counts.iter().filter_map(|(market, now)| {
        let counts = now.since(sample.counts.get(market)?)?;
        Some((market.clone(), Recent { seconds, counts }))
    });
    Ok(recent.collect())
}

/// Seconds since a reading first found the current message at the head of each queue. `heads` are message ids by queue.
pub(super) async fn heads(
    connection: &Connection,
    prefix: &str,
    now: i64,
    heads: BTreeMap<String, String>,
) -> Result<BTreeMap<String, i64>, RedisTrouble> {
    let key = format!("{prefix}tradebot-symbols:doctor:oldest");
    let earlier: Option<BTreeMap<String, (String, i64)>> = load(connection, &key).await?;
    let earlier = earlier.unwrap_or_default();
    let since = |queue: &str, id: &str| earlier.get(queue).filter(|(known, _)| known == id);
    let heads: BTreeMap<String, (String, i64)> = heads
        .into_iter()
        .map(|(queue, id)| {
            let since = since(&queue, &id).map_or(now, |(_, since)| *since);
            (queue, (id, since))
        })
        .collect();
    store(connection, &key, &heads).await?;
    Ok(heads
        .into_iter()
        .map(|(queue, (_, since))| (queue, now.saturating_sub(since)))
        .collect())
}

impl MarketCounters {
    /// Share of reads that missed; `None` without reads.
    #[must_use]
    pub(crate) fn miss_ratio(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = |part: u64, whole: u64| part as f64 / whole as f64;
        let reads = self.hits + self.misses;
        (reads > 0).then(|| ratio(self.misses, reads))
    }

    /// The difference to `earlier`; `None` if a counter was reset.
    fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            hits: self.hits.checked_sub(earlier.hits)?,
            misses: self.misses.checked_sub(earlier.misses)?,
            successes: self.successes.checked_sub(earlier.successes)?,
            errors: self.errors.checked_sub(earlier.errors)?,
        })
    }
}

/// A value that is not a sample counts as missing.
async fn load<T: DeserializeOwned>(connection: &Connection, key: &str) -> Result<Option<T>, RedisTrouble> {
    // MGET returns nil for a key of another type, where GET would fail.
    let texts: Vec<Option<Vec<u8>>> = connection.command(cmd("MGET").arg(key)).await?;
    let text = texts.into_iter().next().flatten();
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

async fn store<T: Serialize>(connection: &Connection, key: &str, value: &T) -> Result<(), RedisTrouble> {
    let text = serde_json::to_string(value).expect("texts and numbers are JSON");
    connection
        .command(cmd("SET").arg(key).arg(text).arg("EX").arg(KEPT_SECONDS))
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_was_set_back_gives_no_trend() {
        let counts = |hits, misses| MarketCounters {
            hits,
            misses,
            ..MarketCounters::default()
        };
        assert_eq!(counts(5, 3).since(&counts(1, 1)), Some(counts(4, 2)));
        assert_eq!(counts(5, 0).since(&counts(1, 1)), None);
        assert_eq!(counts(3, 1).miss_ratio(), Some(0.25));
        assert_eq!(MarketCounters::default().miss_ratio(), None);
    }
}
