//! The document: the list of symbols, and the members around it.

use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::entry::SymbolEntry;
use super::{Listing, ListingError};

/// Request weight per minute that the futures testnet allows; production allows 2,400.
const TESTNET_WEIGHT: u32 = 6_000;
/// Longest `rateLimits` that is read, in bytes. Real ones have a few hundred.
const LONGEST_RATE_LIMITS: usize = 64 << 10;

/// An `exchangeInfo` document, with each element of `symbols` read as `E`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[serde(bound(deserialize = "E: Deserialize<'de> + Into<SymbolEntry<'de>>"))]
pub(super) struct ExchangeInfo<'a, E> {
    symbols: Option<Elements<E>>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    msg: Option<&'a RawValue>,
    #[serde(borrow)]
    sandbox: Option<&'a RawValue>,
    #[serde(borrow)]
    server_time: Option<&'a RawValue>,
    #[serde(borrow)]
    rate_limits: Option<&'a RawValue>,
    futures_type: Option<IgnoredAny>,
}

/// Reads a document.
///
/// Nearly always in one pass. If that fails, a second pass delimits each element before it is read, so that an element
/// that serde_json cannot read (a lone surrogate, `1e999`, a bare `null`) costs only itself.
pub(super) fn read(body: &str) -> Result<Listing, ListingError> {
    match serde_json::from_str::<ExchangeInfo<'_, SymbolEntry<'_>>>(body) {
        Ok(answer) => answer.listing(),
        Err(_) => serde_json::from_str::<ExchangeInfo<'_, &RawValue>>(body)?.listing(),
    }
}

impl<E> ExchangeInfo<'_, E> {
    fn listing(self) -> Result<Listing, ListingError> {
        let Some(elements) = self.symbols else {
            // Some gateways send their own code as text, beside a good list too.
            return Err(match value::<i64>(self.code) {
                None => ListingError::NoSymbols,
                Some(code) => ListingError::Api {
                    code,
                    message: value::<String>(self.msg)
                        .unwrap_or_default()
                        .chars()
                        .take(200)
                        .collect(),
                },
            });
        };
        if elements.has_too_long {
            return Err(ListingError::TooLong);
        }
        let (mut listing, total) = (elements.listing, elements.total);
        listing.sandbox = value(self.sandbox).unwrap_or_default();
        listing.server_time = value(self.server_time);
        listing.marks.testnet_weight = self.rate_limits.is_some_and(allows_testnet_weight);
        if self.futures_type.is_some() {
            listing.marks.futures = total;
        }
        // One odd entry is normal; if 1 % are odd, this is a different kind of document.
        if listing.malformed > 1 && listing.malformed * 100 > total {
            return Err(ListingError::TooManyMalformed {
                malformed: listing.malformed,
                total,
            });
        }
        Ok(listing)
    }
}

/// A member's value, unless it is of another type.
fn value<'a, T: Deserialize<'a>>(member: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(member?.get()).ok()
}

fn allows_testnet_weight(rate_limits: &RawValue) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct WeightLimit {
        rate_limit_type: String,
        limit: u32,
    }
    if rate_limits.get().len() > LONGEST_RATE_LIMITS {
        return false;
    }
    let limits: Vec<&RawValue> = serde_json::from_str(rate_limits.get()).unwrap_or_default();
    let mut limits = limits
        .into_iter()
        .filter_map(|limit| serde_json::from_str::<WeightLimit>(limit.get()).ok());
    limits.any(|it| it.rate_limit_type == "REQUEST_WEIGHT" && it.limit == TESTNET_WEIGHT)
}

/// `symbols`, folded into a listing while it is read: millions of nulls must not take memory.
struct Elements<E> {
    listing: Listing,
    total: usize,
    has_too_long: bool,
    element: PhantomData<E>,
}

impl<'de, E: Deserialize<'de> + Into<SymbolEntry<'de>>> Deserialize<'de> for Elements<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ElementsVisitor(PhantomData))
    }
}

struct ElementsVisitor<E>(PhantomData<E>);

impl<'de, E: Deserialize<'de> + Into<SymbolEntry<'de>>> Visitor<'de> for ElementsVisitor<E> {
    type Value = Elements<E>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of symbols")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut listing = Listing::default();
        let mut places = HashMap::new();
        let (mut total, mut has_too_long) = (0, false);
        while let Some(element) = seq.next_element::<E>()? {
            let entry = element.into();
            total += 1;
            has_too_long |= entry.is_too_long;
            listing.take(&entry, &mut places);
        }
        Ok(Elements {
            listing,
            total,
            has_too_long,
            element: PhantomData,
        })
    }
}
