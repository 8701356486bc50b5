//! Reading `exchangeInfo`: tolerant of every entry, strict about the whole.
//!
//! Four members of each symbol are read, everything else is skipped without being stored. An entry that is
//! no object, or lacks one of the four, or has it as something else than text, is counted and left out: one
//! strange symbol must not cost the list. Statuses are open strings.

use std::collections::HashMap;
use std::fmt;

use serde::de::{self, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// One tradable pair, with the members and the order in which readers find them in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Symbol {
    /// Name of the pair, unique within a market.
    pub symbol: String,
    /// What is traded.
    #[serde(rename = "baseAsset")]
    pub base_asset: String,
    /// What it is paid with.
    #[serde(rename = "quoteAsset")]
    pub quote_asset: String,
    /// `TRADING`, `BREAK`, or whatever else the exchange says.
    pub status: String,
}

/// An `exchangeInfo` answer.
#[derive(Debug, Default, PartialEq)]
pub struct Listing {
    /// Symbols in upstream order, each name once.
    pub symbols: Vec<Symbol>,
    /// Entries that could not be read.
    pub malformed: usize,
    /// Further entries of a name that was there already.
    pub repeated: usize,
    /// The answer says of itself that it is made up.
    pub sandbox: bool,
}

/// Why an answer is no listing.
#[derive(Debug, Error)]
pub enum ListingError {
    /// Not a JSON object: HTML, an array, nothing at all.
    #[error("the answer is not a JSON object, it begins with `{0}`")]
    NotAnObject(String),
    /// A JSON object begins, but it is cut or damaged.
    #[error("the answer is not an exchangeInfo document: {0}")]
    NotJson(#[from] serde_json::Error),
    /// A well-formed error object.
    #[error("the exchange answered with error {code}: {message}")]
    Api {
        /// The exchange's error code; 0 for a restricted location.
        code: i64,
        /// Its text, cut to 200 characters.
        message: String,
    },
    /// An object without a `symbols` list.
    #[error("the answer has no `symbols`")]
    NoSymbols,
    /// More entries were malformed than a few oddities explain.
    #[error("{malformed} of {total} entries of the answer cannot be read")]
    TooManyMalformed {
        /// Entries that could not be read.
        malformed: usize,
        /// All entries.
        total: usize,
    },
}

/// Reads an answer's body.
///
/// # Errors
/// [`ListingError`]; a list without any entry is a listing.
pub fn parse(body: &[u8]) -> Result<Listing, ListingError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        let beginning = String::from_utf8_lossy(&body[..body.len().min(80)]);
        return Err(ListingError::NotAnObject(
            beginning.chars().filter(|c| !c.is_control()).take(40).collect(),
        ));
    }
    let document: Document = serde_json::from_slice(body)?;
    if let Some(code) = document.code
        && document.symbols.is_none()
    {
        let message = document.msg.unwrap_or_default().chars().take(200).collect();
        return Err(ListingError::Api { code, message });
    }
    let entries = document.symbols.ok_or(ListingError::NoSymbols)?.0;
    let total = entries.len();
    let mut listing = Listing {
        sandbox: document.sandbox,
        ..Listing::default()
    };
    let mut places: HashMap<String, usize> = HashMap::with_capacity(total);
    for entry in entries {
        match entry.0 {
            None => listing.malformed += 1,
            Some(symbol) => listing.add(symbol, &mut places),
        }
    }
    // One strange entry is normal; a hundredth of the list is a different document.
    if listing.malformed > 1 && listing.malformed * 100 > total {
        return Err(ListingError::TooManyMalformed {
            malformed: listing.malformed,
            total,
        });
    }
    Ok(listing)
}

/// The symbols of a JSON array, without the elements that are none.
///
/// # Errors
/// When the text is no JSON array.
pub fn symbols_of(json: &[u8]) -> Result<Vec<Symbol>, serde_json::Error> {
    let entries: Vec<Entry> = serde_json::from_slice(json)?;
    Ok(entries.into_iter().filter_map(|entry| entry.0).collect())
}

impl Listing {
    /// Adds a symbol. A name that comes twice is listed once, and is not trading if any copy is not.
    fn add(&mut self, symbol: Symbol, places: &mut HashMap<String, usize>) {
        if let Some(place) = places.get(&symbol.symbol) {
            self.repeated += 1;
            if symbol.status != "TRADING" {
                self.symbols[*place].status = symbol.status;
            }
            return;
        }
        places.insert(symbol.symbol.clone(), self.symbols.len());
        self.symbols.push(symbol);
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    symbols: Option<Entries>,
    #[serde(default)]
    code: Option<i64>,
    #[serde(default)]
    msg: Option<String>,
    #[serde(default)]
    sandbox: bool,
}

struct Entries(Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Entry>::deserialize(deserializer).map(Self)
    }
}

/// An element of `symbols`, if it could be read.
struct Entry(Option<Symbol>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let [mut symbol, mut base, mut quote, mut status] = [const { None::<String> }; 4];
        while let Some(name) = map.next_key::<MemberName>()? {
            let place = match name {
                MemberName::Symbol => &mut symbol,
                MemberName::BaseAsset => &mut base,
                MemberName::QuoteAsset => &mut quote,
                MemberName::Status => &mut status,
                MemberName::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            // The last of a repeated member counts, as in Python.
            *place = map.next_value::<Text>()?.0;
        }
        let symbol = match (symbol, base, quote, status) {
            (Some(symbol), Some(base_asset), Some(quote_asset), Some(status)) if !symbol.is_empty() => {
                Some(Symbol {
                    symbol,
                    base_asset,
                    quote_asset,
                    status,
                })
            }
            _ => None,
        };
        Ok(Entry(symbol))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entry, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Entry(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Entry, E> {
        Ok(Entry(None))
    }

    fn visit_unit<E>(self) -> Result<Entry, E> {
        Ok(Entry(None))
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum MemberName {
    Symbol,
    BaseAsset,
    QuoteAsset,
    Status,
    #[serde(other)]
    Other,
}

/// A member's value, if it is text.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text(Some(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
        Ok(Text(None))
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "x": [{}]}"#;

    fn listing(entries: &str) -> Result<Listing, ListingError> {
        parse(format!(r#"{{"timezone": "UTC", "symbols": [{entries}], "sors": [[1e999]]}}"#).as_bytes())
    }

    #[test]
    fn strange_entries_are_counted_and_left_out() {
        let other = GOOD.replace("BTC", "AAA");
        for strange in [
            "null",
            "7",
            "-7",
            "1.5",
            "true",
            "\"x\"",
            "[1, [2]]",
            "{}",
            r#"{"symbol": "X", "status": "TRADING", "baseAsset": "X"}"#,
            r#"{"symbol": "X", "status": "TRADING", "baseAsset": "X", "quoteAsset": null}"#,
            r#"{"symbol": 123456, "status": "TRADING", "baseAsset": "X", "quoteAsset": "USDT"}"#,
            r#"{"symbol": "X", "status": 1, "baseAsset": {"a": [1]}, "quoteAsset": [[]]}"#,
            r#"{"symbol": "", "status": "TRADING", "baseAsset": "X", "quoteAsset": "USDT"}"#,
        ] {
            let read = listing(&format!("{GOOD}, {strange}, {other}")).unwrap();
            assert_eq!((read.symbols.len(), read.malformed), (2, 1), "{strange}");
        }
    }

    #[test]
    fn a_document_full_of_strange_entries_is_refused() {
        assert!(matches!(
            listing(&format!("{GOOD}, null, null")),
            Err(ListingError::TooManyMalformed {
                malformed: 2,
                total: 3
            })
        ));
    }

    #[test]
    fn a_repeated_name_is_listed_once_and_trades_only_if_every_copy_does() {
        let halted = GOOD.replace("TRADING", "BREAK");
        for entries in [format!("{GOOD},{halted}"), format!("{halted},{GOOD}")] {
            let read = listing(&entries).unwrap();
            assert_eq!(
                (read.symbols.len(), read.repeated, read.symbols[0].status.as_str()),
                (1, 1, "BREAK")
            );
        }
    }

    #[test]
    fn names_and_statuses_are_kept_as_they_are() {
        let entry = GOOD
            .replace("BTCUSDT", "币安人生USDT")
            .replace("TRADING", "CURRENT QUARTER?");
        let read = listing(&entry).unwrap();
        assert_eq!(read.symbols[0].symbol, "币安人生USDT");
        assert_eq!(read.symbols[0].status, "CURRENT QUARTER?");
    }

    #[test]
    fn what_is_no_listing_says_why() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for (body, reason) in [
            ("", "not a JSON object"),
            ("null", "not a JSON object"),
            ("[]", "not a JSON object"),
            ("<html>", "not a JSON object"),
            (
                &format!(r#"{{"symbols": [{GOOD}"#),
                "not an exchangeInfo document",
            ),
            (
                &format!(r#"{{"symbols": [{GOOD}]}} trailing"#),
                "not an exchangeInfo document",
            ),
            (r#"{"symbols": {}}"#, "not an exchangeInfo document"),
            ("{}", "no `symbols`"),
            (r#"{"symbols": null}"#, "no `symbols`"),
            (
                r#"{"code": -1003, "msg": "Too many requests"}"#,
                "error -1003: Too many requests",
            ),
            (
                r#"{"code": 0, "msg": "Service unavailable from a restricted location"}"#,
                "error 0",
            ),
            (deep.as_str(), "not a JSON object"),
        ] {
            let error = parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{}: {error}", &body[..body.len().min(40)]);
        }
        let mut bad_name = GOOD.as_bytes().to_vec();
        bad_name[13] = 0xff;
        let body = [b"{\"symbols\": [".as_slice(), &bad_name, b"]}"].concat();
        assert!(
            parse(&body).is_err(),
            "a name that is not UTF-8 must not be guessed at"
        );
    }

    #[test]
    fn a_byte_order_mark_and_white_space_do_no_harm() {
        let body = format!("\u{feff}{{\"symbols\": [{GOOD}]}}\r\n ");
        assert_eq!(parse(body.as_bytes()).unwrap().symbols.len(), 1);
    }

    #[test]
    fn skipped_values_may_nest_deeply() {
        let nested = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let entry = GOOD.replace("[{}]", &nested);
        assert_eq!(listing(&entry).unwrap().symbols.len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(body: Vec<u8>) {
            let _ = parse(&body);
        }
    }
}
