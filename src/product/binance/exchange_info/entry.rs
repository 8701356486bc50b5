//! One element of `symbols`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Symbol;

/// `deliveryDate` of a perpetual contract on the futures testnet: two seconds after the one in production.
const TESTNET_NEVER_MS: &str = "4133404802000";
/// Longest string that is kept, in bytes as written. Real names have at most about twenty.
const LONGEST_TEXT: usize = 1 << 10;

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
        serde_json::from_str(element.get()).unwrap_or_default()
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
            // A repeated member overwrites the earlier one, as in Python.
            let member = match name {
                MemberName::Symbol => &mut entry.symbol,
                MemberName::BaseAsset => &mut entry.base_asset,
                MemberName::QuoteAsset => &mut entry.quote_asset,
                MemberName::Status => &mut entry.status,
                MemberName::DeliveryDate => &mut entry.delivery_date,
                other => {
                    entry.is_spot |= other == MemberName::IsSpotTradingAllowed;
                    entry.is_futures |= other == MemberName::ContractType;
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *member = Some(map.next_value()?);
        }
        Ok(entry)
    }
}

#[derive(Deserialize, PartialEq)]
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
    let value = value.filter(|value| value.get().len() <= LONGEST_TEXT)?;
    serde_json::from_str(value.get()).ok()
}
