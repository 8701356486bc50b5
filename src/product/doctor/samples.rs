//! What earlier looks left behind, so that a single look can tell a trend and an age.
//!
//! Two keys, kept for a day after the last look: the counters of an earlier look beside the lists, and since when
//! the oldest message of each queue has been the oldest beside the queues. Messages carry no time of their own.

use std::collections::BTreeMap;

use redis::cmd;
use serde::{Deserialize, Serialize};

use super::{Trouble, ask};
use tradebot_base::connection::Connection;

const KEPT_SECONDS: u64 = 86_400;
/// How long a sample stands before the next look replaces it.
const SAMPLE_SECONDS: i64 = 300;
/// From what distance on two looks tell a trend.
const APART_SECONDS: i64 = 30;

/// Counters of one market.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Reads that found the list.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Refreshes that succeeded.
    pub successes: u64,
    /// Refreshes that failed.
    pub errors: u64,
}

/// What was counted since an earlier look.
#[derive(Debug, Clone, Serialize)]
pub struct Recent {
    /// How long ago that look was.
    pub seconds: i64,
    /// What was added since.
    pub counts: Counts,
}

impl Counts {
    /// Share of reads that missed; `None` without reads.
    #[must_use]
    pub fn miss_ratio(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
        let ratio = |part: u64, whole: u64| part as f64 / whole as f64;
        let reads = self.hits + self.misses;
        (reads > 0).then(|| ratio(self.misses, reads))
    }

    /// What was added since `earlier`; `None` if a counter was set back.
    fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            hits: self.hits.checked_sub(earlier.hits)?,
            misses: self.misses.checked_sub(earlier.misses)?,
            successes: self.successes.checked_sub(earlier.successes)?,
            errors: self.errors.checked_sub(earlier.errors)?,
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    at: i64,
    counts: BTreeMap<String, Counts>,
}

/// Compares with an earlier look, and leaves this one behind when that is old enough.
pub(super) async fn compare(
    connection: &Connection,
    now: i64,
    counts: &BTreeMap<String, Counts>,
) -> Result<BTreeMap<String, Recent>, Trouble> {
    const KEY: &str = "tradebot-symbols:doctor:counters";
    let text: Option<String> = ask(connection, cmd("GET").arg(KEY)).await?;
    let earlier: Option<Sample> = text.and_then(|text| serde_json::from_str(&text).ok());
    let age = earlier.as_ref().map(|sample| now - sample.at);
    if age.is_none_or(|age| !(0..SAMPLE_SECONDS).contains(&age)) {
        let sample = Sample {
            at: now,
            counts: counts.clone(),
        };
        let text = serde_json::to_string(&sample).expect("numbers are JSON");
        let mut set = cmd("SET");
        ask::<()>(connection, set.arg(KEY).arg(text).arg("EX").arg(KEPT_SECONDS)).await?;
    }
    let mut recent = BTreeMap::new();
    if let (Some(sample), Some(seconds)) = (earlier, age.filter(|age| *age >= APART_SECONDS)) {
        for (market, now) in counts {
            let added = sample.counts.get(market).and_then(|then| now.since(then));
            if let Some(counts) = added {
                recent.insert(market.clone(), Recent { seconds, counts });
            }
        }
    }
    Ok(recent)
}

/// For how many seconds each of these lists has had this oldest message, as far as looks tell.
pub(super) async fn waiting(
    connection: &Connection,
    prefix: &str,
    now: i64,
    oldest: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, i64>, Trouble> {
    let key = format!("{prefix}tradebot-symbols:doctor:oldest");
    let text: Option<String> = ask(connection, cmd("GET").arg(&key)).await?;
    let earlier: BTreeMap<String, (String, i64)> = text
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let seen: BTreeMap<&String, (&String, i64)> = oldest
        .iter()
        .map(|(list, message)| {
            let since = earlier.get(list).filter(|(known, _)| known == message);
            (list, (message, since.map_or(now, |(_, since)| *since)))
        })
        .collect();
    let text = serde_json::to_string(&seen).expect("texts and numbers are JSON");
    let mut set = cmd("SET");
    ask::<()>(connection, set.arg(&key).arg(text).arg("EX").arg(KEPT_SECONDS)).await?;
    Ok(seen
        .into_iter()
        .map(|(list, (_, since))| (list.clone(), now - since))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_was_set_back_tells_no_trend() {
        let counts = |hits, misses| Counts {
            hits,
            misses,
            ..Counts::default()
        };
        assert_eq!(counts(5, 3).since(&counts(1, 1)), Some(counts(4, 2)));
        assert_eq!(counts(5, 0).since(&counts(1, 1)), None);
        assert_eq!(counts(3, 1).miss_ratio(), Some(0.25));
        assert_eq!(Counts::default().miss_ratio(), None);
    }
}
