//! One element of `symbols`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Symbol;

/// `deliveryDate` of a perpetual contract on the futures testnet: two seconds after the one in production.
const TESTNET_NEVER_MS: &str = "4133404802000";
/// Longest member of an entry, in bytes. Real ones have at most a few thousand.
const LONGEST_MEMBER: usize = 1 << 20;

/// The members of an element that are used, undecoded.
///
/// [`SymbolEntry::symbol`] decodes them, so a value of the wrong type costs only its own entry.
#[derive(Debug, Default)]
pub(super) struct SymbolEntry<'a> {
    symbol: Option<&'a RawValue>,
    base_asset: Option<&'a RawValue>,
    quote_asset: Option<&'a RawValue>,
    status: Option<&'a RawValue>,
    delivery_date: Option<&'a RawValue>,
    /// Whether it has `isSpotTradingAllowed`.
    pub(super) is_spot: bool,
    /// Whether it has `contractType`.
    pub(super) is_futures: bool,
    /// Whether a member is longer than any real one.
    pub(super) is_too_long: bool,
}

impl SymbolEntry<'_> {
    /// The symbol, if all four members are strings and the name is not empty.
    pub(super) fn symbol(&self) -> Option<Symbol> {
        let symbol = text(self.symbol)?;
        (!symbol.is_empty()).then_some(Symbol {
            symbol,
            base_asset: text(self.base_asset)?,
            quote_asset: text(self.quote_asset)?,
            status: text(self.status)?,
        })
    }

    /// Whether only the futures testnet lists contracts like this.
    pub(super) fn is_testnet(&self) -> bool {
        self.is_futures
            && self
                .delivery_date
                .is_some_and(|date| date.get() == TESTNET_NEVER_MS)
    }
}

/// Reads an element alone. One that cannot be read becomes an entry without members, which is not a symbol.
impl<'a> From<&'a RawValue> for SymbolEntry<'a> {
    fn from(element: &'a RawValue) -> Self {
        serde_json::from_str(element.get()).unwrap_or_else(|_| Self {
            is_too_long: element.get().len() > LONGEST_MEMBER,
            ..Self::default()
        })
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for SymbolEntry<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = SymbolEntry<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a symbol")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entry = SymbolEntry::default();
        while let Some(name) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            entry.is_too_long |= value.get().len() > LONGEST_MEMBER;
            // A repeated member overwrites the earlier one, as in Python.
            match name {
                MemberName::Symbol => entry.symbol = Some(value),
                MemberName::BaseAsset => entry.base_asset = Some(value),
                MemberName::QuoteAsset => entry.quote_asset = Some(value),
                MemberName::Status => entry.status = Some(value),
                MemberName::DeliveryDate => entry.delivery_date = Some(value),
                MemberName::IsSpotTradingAllowed => entry.is_spot = true,
                MemberName::ContractType => entry.is_futures = true,
                MemberName::Other => {}
            }
        }
        Ok(entry)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum MemberName {
    Symbol,
    BaseAsset,
    QuoteAsset,
    Status,
    DeliveryDate,
    IsSpotTradingAllowed,
    ContractType,
    #[serde(other)]
    Other,
}

fn text(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}
