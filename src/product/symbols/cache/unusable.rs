//! Finds the keys beside the lists that hold something else than they should, for the doctor.
//!
//! A refresh replaces them or passes them over, so they cost at most what they are for: a change in the stream, a lock.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::cmd;
use serde::de::DeserializeOwned;

use super::{CacheKeys, LEASE, LONGEST_PAUSE, ListSource};
use crate::product::binance::error::LONGEST_PAUSE as LONGEST_BAN;
use crate::product::symbols::changes::{NotTrading, STREAM};
use crate::product::symbols::guard::HeldBackList;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::market::{Market, Network};

/// A number of digits that a script can count on from.
const LEASE_DIGITS: usize = 15;
/// The last id of a stream: nothing can be added after it.
const LAST_ID: &str = "18446744073709551615-18446744073709551615";

/// A market's unusable keys, each with what it holds.
pub(crate) async fn unusable_keys(
    connection: &Connection,
    market: Market,
) -> Result<BTreeMap<String, String>, RedisTrouble> {
    let keys = CacheKeys(market);
    let documents: [(String, fn(&[u8]) -> bool); 3] = [
        (keys.source(), is::<ListSource>),
        (keys.held_back(), is::<HeldBackList>),
        (keys.not_trading(), is::<NotTrading>),
    ];
    let lasting = [
        (keys.lock(), 2 * LEASE),
        (keys.failure(), LONGEST_PAUSE),
        (keys.ban(Network::Mainnet), LONGEST_BAN),
        (keys.ban(Network::Testnet), LONGEST_BAN),
    ];
    let mut typed = vec![
        (keys.everything(), "string"),
        (keys.fence(), "hash"),
        (STREAM.to_owned(), "stream"),
    ];
    typed.extend(documents.iter().map(|(key, _)| (key.clone(), "string")));
    typed.extend(lasting.iter().map(|(key, _)| (key.clone(), "string")));

    let mut found = BTreeMap::new();
    let mut types = redis::pipe();
    for (key, _) in &typed {
        types.cmd("TYPE").arg(key);
    }
    let types: Vec<String> = connection.pipeline(&types).await?;
    for ((key, wanted), held) in typed.iter().zip(types) {
        if held != "none" && held != *wanted {
            found.insert(key.clone(), format!("a {held}"));
        }
    }

    let mut values = redis::pipe();
    // MGET returns nil for a key of another type, where GET would fail.
    values
        .cmd("MGET")
        .arg(&documents.each_ref().map(|(key, _)| key.as_str()));
    for (key, _) in &lasting {
        values.pttl(key);
    }
    let (texts, lock, failure, mainnet, testnet): (Vec<Option<Vec<u8>>>, i64, i64, i64, i64) =
        connection.pipeline(&values).await?;
    for ((key, is_readable), text) in documents.iter().zip(texts) {
        if text.is_some_and(|text| !is_readable(&text)) {
            found.insert(key.clone(), "a text that is not what it should be".to_owned());
        }
    }
    for ((key, longest), left) in lasting.iter().zip([lock, failure, mainnet, testnet]) {
        // -2: there is no such key. -1: it never expires.
        let left = (left != -2).then(|| u64::try_from(left).map_or(Duration::MAX, Duration::from_millis));
        if left.is_some_and(|left| left > *longest) {
            let what = format!("a value that does not expire within {} s", longest.as_secs());
            found.entry(key.clone()).or_insert(what);
        }
    }

    let fence = keys.fence();
    if !found.contains_key(&fence) {
        let numbers: Vec<Option<Vec<u8>>> = connection
            .command(cmd("HMGET").arg(&fence).arg("issued").arg("written"))
            .await?;
        let is_number =
            |text: &Vec<u8>| (1..=LEASE_DIGITS).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
        if !numbers.iter().flatten().all(is_number) {
            found.insert(fence, "a field that is no number of a lease".to_owned());
        }
    }
    if !found.contains_key(STREAM) {
        let last: Vec<redis::Value> = connection
            .command(
                cmd("XRANGE")
                    .arg(STREAM)
                    .arg(LAST_ID)
                    .arg("+")
                    .arg("COUNT")
                    .arg(1),
            )
            .await?;
        if !last.is_empty() {
            found.insert(STREAM.to_owned(), "the last possible id".to_owned());
        }
    }
    Ok(found)
}

fn is<T: DeserializeOwned>(text: &[u8]) -> bool {
    serde_json::from_slice::<T>(text).is_ok()
}
