//! The counters of reads and refreshes, which all processes of a deployment share.

use redis::cmd;
use serde::{Deserialize, Serialize};

use super::FleetReader;
use crate::product::symbols::cache::CacheKeys;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::market::{Market, PerMarket};

/// The counters of one market.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MarketCounters {
    /// Reads that found the list.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Refreshes that succeeded.
    pub successes: u64,
    /// Refreshes that failed.
    pub errors: u64,
}

impl MarketCounters {
    /// Reads the counters of both markets. A value that is not a number counts as zero.
    pub(crate) async fn read_all(reader: &FleetReader) -> Result<PerMarket<Self>, RedisTrouble> {
        let keys = Market::ALL.map(Self::keys).concat();
        let texts: Vec<Option<Vec<u8>>> = reader.cache.command(cmd("MGET").arg(keys)).await?;
        let (spot, futures) = texts.split_at(texts.len() / 2);
        Ok(PerMarket {
            spot: Self::of(spot),
            futures: Self::of(futures),
        })
    }

    /// Keys in the order of the fields.
    pub(super) fn keys(market: Market) -> [String; 4] {
        let keys = CacheKeys(market);
        [
            keys.hit_counter(),
            keys.miss_counter(),
            keys.success_counter(),
            keys.error_counter(),
        ]
    }

    pub(super) fn of(texts: &[Option<Vec<u8>>]) -> Self {
        let number = |field: usize| {
            let number = texts.get(field).and_then(|text| integer(text.as_deref()?));
            number.unwrap_or(0).max(0).unsigned_abs()
        };
        Self {
            hits: number(0),
            misses: number(1),
            successes: number(2),
            errors: number(3),
        }
    }
}

/// A number that Redis can increment: spelled as Redis spells it.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_without_a_number_is_zero() {
        let texts = ["7", "many", "-1"].map(|text| Some(text.as_bytes().to_vec()));
        let expected = MarketCounters {
            hits: 7,
            ..MarketCounters::default()
        };
        assert_eq!(MarketCounters::of(&texts), expected);
    }
}
