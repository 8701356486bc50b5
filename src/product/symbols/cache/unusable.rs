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

/// Keys with what they hold.
type Found = BTreeMap<String, String>;

/// A market's unusable keys, each with what it holds.
pub(crate) async fn unusable_keys(connection: &Connection, market: Market) -> Result<Found, RedisTrouble> {
    let keys = CacheKeys(market);
    let mut found = of_other_types(connection, keys).await?;
    // The type is the better reason.
    for (key, what) in lasting_too_long(connection, keys).await? {
        found.entry(key).or_insert(what);
    }
    found.extend(malformed(connection, keys).await?);
    let (is_hash, is_stream) = (!found.contains_key(&keys.fence()), !found.contains_key(STREAM));
    if is_hash && !has_numbers(connection, &keys.fence()).await? {
        found.insert(keys.fence(), "a field that is no number of a lease".to_owned());
    }
    if is_stream && has_ended(connection).await? {
        found.insert(STREAM.to_owned(), "the last possible id".to_owned());
    }
    Ok(found)
}

async fn of_other_types(connection: &Connection, keys: CacheKeys) -> Result<Found, RedisTrouble> {
    let texts = [
        keys.source(),
        keys.held_back(),
        keys.not_trading(),
        keys.everything(),
        keys.accepted(),
    ];
    let texts = texts.into_iter().chain(lifetimes(keys).map(|(key, _)| key));
    let mut typed: Vec<(String, &str)> = texts.map(|key| (key, "string")).collect();
    let hashes = [keys.fence(), keys.refreshes(), keys.refused()];
    typed.extend(hashes.map(|key| (key, "hash")));
    typed.push((STREAM.to_owned(), "stream"));
    let mut ask = redis::pipe();
    for (key, _) in &typed {
        ask.cmd("TYPE").arg(key);
    }
    let held: Vec<String> = connection.pipeline(&ask).await?;
    let typed = typed.into_iter().zip(held);
    let others = typed.filter(|((_, wanted), held)| held != "none" && held != wanted);
    Ok(others
        .map(|((key, _), held)| (key, format!("a {held}")))
        .collect())
}

/// Keys that expire, and the longest time until then.
fn lifetimes(keys: CacheKeys) -> [(String, Duration); 4] {
    [
        // A script takes a lock that lasts longer.
        (keys.lock(), 2 * LEASE),
        (keys.failure(), LONGEST_PAUSE),
        (keys.ban(Network::Mainnet), LONGEST_BAN),
        (keys.ban(Network::Testnet), LONGEST_BAN),
    ]
}

async fn lasting_too_long(connection: &Connection, keys: CacheKeys) -> Result<Found, RedisTrouble> {
    let mut ask = redis::pipe();
    for (key, _) in lifetimes(keys) {
        ask.pttl(key);
    }
    let left: Vec<i64> = connection.pipeline(&ask).await?;
    let lasting = lifetimes(keys).into_iter().zip(left);
    // -2: there is no such key. -1: it never expires.
    let too_long = lasting.filter(|((_, longest), left)| match u64::try_from(*left) {
        Ok(left) => Duration::from_millis(left) > *longest,
        Err(_) => *left == -1,
    });
    let named = too_long.map(|((key, longest), _)| {
        let what = format!("a value that does not expire within {} s", longest.as_secs());
        (key, what)
    });
    Ok(named.collect())
}

/// Keys whose text cannot be read.
async fn malformed(connection: &Connection, keys: CacheKeys) -> Result<Found, RedisTrouble> {
    let names = [keys.source(), keys.held_back(), keys.not_trading()];
    // MGET returns nil for a key of another type, where GET would fail.
    let texts: [Option<Vec<u8>>; 3] = connection.command(cmd("MGET").arg(&names)).await?;
    let [source, held_back, not_trading] = &texts;
    let readable = [
        is::<ListSource>(source),
        is::<HeldBackList>(held_back),
        is::<NotTrading>(not_trading),
    ];
    let unreadable = names.into_iter().zip(readable).filter(|(_, readable)| !readable);
    Ok(unreadable
        .map(|(key, _)| (key, "a text of another form".to_owned()))
        .collect())
}

fn is<T: DeserializeOwned>(text: &Option<Vec<u8>>) -> bool {
    text.as_ref()
        .is_none_or(|text| serde_json::from_slice::<T>(text).is_ok())
}

/// Whether the fence has numbers that a script can count on from.
async fn has_numbers(connection: &Connection, fence: &str) -> Result<bool, RedisTrouble> {
    let mut ask = redis::pipe();
    ask.hget(fence, "issued").hget(fence, "written");
    let numbers: Vec<Option<Vec<u8>>> = connection.pipeline(&ask).await?;
    let is_number =
        |text: &Vec<u8>| (1..=LEASE_DIGITS).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    Ok(numbers.iter().flatten().all(is_number))
}

/// Whether nothing can be added to the stream any more.
async fn has_ended(connection: &Connection) -> Result<bool, RedisTrouble> {
    let ask = cmd("XRANGE")
        .arg(&[STREAM, LAST_ID, "+", "COUNT", "1"])
        .to_owned();
    let last: Vec<redis::Value> = connection.command(&ask).await?;
    Ok(!last.is_empty())
}
