//! Reads `exchangeInfo`: tolerant of each entry, strict about the document.
//!
//! Four members of each symbol are kept, the rest is skipped. An entry that is not an object, or in which one of the
//! four is absent or not a string, is counted as malformed and left out: one odd symbol must not cost the list. A status
//! may be any string.

mod document;
mod entry;

use std::collections::HashMap;

use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use entry::SymbolEntry;

/// One pair, with its members in the order in which the cache stores them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Symbol {
    /// The pair's name, unique within a market.
    pub symbol: String,
    /// The asset that is traded.
    #[serde(rename = "baseAsset")]
    pub base_asset: String,
    /// The asset that it is priced in.
    #[serde(rename = "quoteAsset")]
    pub quote_asset: String,
    /// `TRADING`, `BREAK`, or any other status the exchange sends.
    pub status: String,
}

/// An `exchangeInfo` answer, without the members that are not used.
#[derive(Debug, Default, PartialEq)]
pub struct Listing {
    /// Symbols in the exchange's order, each name once.
    pub symbols: Vec<Symbol>,
    /// Entries that could not be read and were left out.
    pub malformed: usize,
    /// Entries left out because an earlier one has the same name.
    pub repeated: usize,
    /// Whether the answer is the sandbox's, with made-up symbols.
    pub sandbox: bool,
    /// The exchange's clock, Unix milliseconds.
    pub server_time: Option<i64>,
    /// Signs of its market and network.
    pub marks: Marks,
}

/// Signs of an answer's market and network: how many entries have members that only one kind has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// `isSpotTradingAllowed`.
    pub spot: usize,
    /// `contractType`; counts every entry if the document has a `futuresType`.
    pub futures: usize,
    /// The `deliveryDate` that perpetual contracts have only on the futures testnet.
    pub testnet: usize,
    /// Whether the rate limit is the one of the futures testnet.
    pub testnet_weight: bool,
}

/// Why an answer is not a listing.
#[derive(Debug, Error)]
pub enum ListingError {
    /// Not a JSON object: HTML, an array, or empty.
    #[error("the answer is not a JSON object, it begins with `{0}`")]
    NotAnObject(String),
    /// It starts as a JSON object, but is cut off, damaged or of another shape.
    #[error("the answer is not an exchangeInfo document: {0}")]
    NotJson(#[from] serde_json::Error),
    /// An entry has a longer member than any real one.
    #[error("the answer is not an exchangeInfo document: an entry is too long")]
    TooLong,
    /// An error object of the exchange.
    #[error("the exchange answered with error {code}: {message}")]
    Api {
        /// The exchange's error code; 0 for a restricted location.
        code: i64,
        /// Its message, cut to 200 characters.
        message: String,
    },
    /// An object without a `symbols` list.
    #[error("the answer has no `symbols`")]
    NoSymbols,
    /// Too many malformed entries for a few oddities.
    #[error("{malformed} of {total} entries of the answer cannot be read")]
    TooManyMalformed {
        /// Entries that could not be read.
        malformed: usize,
        /// All entries.
        total: usize,
    },
}

/// Reads the body of an answer.
///
/// # Errors
/// [`ListingError`]. An empty list is not an error.
pub(crate) fn parse(body: &[u8]) -> Result<Listing, ListingError> {
    let body = body
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(body)
        .trim_ascii_start();
    if body.first() != Some(&b'{') {
        let beginning = String::from_utf8_lossy(&body[..body.len().min(80)]);
        return Err(ListingError::NotAnObject(
            beginning.chars().filter(|c| !c.is_control()).take(40).collect(),
        ));
    }
    document::read(std::str::from_utf8(body).map_err(serde_json::Error::custom)?)
}

/// Reads the symbols of a JSON array, leaving out elements that are not symbols.
///
/// # Errors
/// When the text is not a JSON array.
pub(crate) fn symbols_of(json: &[u8]) -> Result<Vec<Symbol>, serde_json::Error> {
    let elements: Vec<&RawValue> = serde_json::from_slice(json)?;
    let entries = elements.into_iter().map(SymbolEntry::from);
    Ok(entries.filter_map(|entry| entry.symbol()).collect())
}

impl Listing {
    /// Adds an entry, or counts it as malformed.
    fn take(&mut self, entry: &SymbolEntry<'_>, places: &mut HashMap<String, usize>) {
        self.marks.spot += usize::from(entry.is_spot);
        self.marks.futures += usize::from(entry.is_futures);
        self.marks.testnet += usize::from(entry.is_testnet());
        match entry.symbol() {
            None => self.malformed += 1,
            Some(symbol) => self.add(symbol, places),
        }
    }

    /// Adds a symbol. A repeated name is listed once, and as not trading if any of its entries is not.
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
            r#"{"symbol": "X", "status": 1e999, "baseAsset": "X", "quoteAsset": "USDT"}"#,
            r#"{"symbol": "\ud800", "status": "TRADING", "baseAsset": "X", "quoteAsset": "USDT"}"#,
            r#"{"\udfff": 1}"#,
            r#""\ud800""#,
            "1e999",
            "-1e999",
        ] {
            let read = listing(&format!("{GOOD}, {strange}, {other}")).unwrap();
            let beginning: String = strange.chars().take(100).collect();
            assert_eq!((read.symbols.len(), read.malformed), (2, 1), "{beginning}");
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

    #[test]
    fn only_the_list_of_the_outermost_object_is_read() {
        let quoted = GOOD.replace("[{}]", r#"["\\\"]}", {"symbols": [null]}, "\\\\"]"#);
        let names: Vec<_> = (0..400).map(|n| GOOD.replace("BTC", &format!("C{n}"))).collect();
        let names = names.join(",");
        let body = format!(
            "\u{feff} {{\"a\": \"symbols\", \"b\": {{\"symbols\": [7]}}, \"serverTime\": 5, \"symbols\" : [ {GOOD} , {names},{quoted},null,\"]\", 7 ] , \"z\": \"\\\"\"}} \n",
        );
        let read = parse(body.as_bytes()).unwrap();
        assert_eq!((read.symbols.len(), read.malformed, read.repeated), (401, 3, 1));
        assert_eq!(read.server_time, Some(5));
        let escaped = body.replace("\"symbols\" :", "\"s\\u0079mbols\" :");
        assert_eq!(parse(escaped.as_bytes()).unwrap(), read);
    }

    #[test]
    fn a_list_that_is_not_written_as_one_is_refused() {
        for entries in [
            "1 2", "1,", ",1", "1,,2", "{} {}", "{\"a\":1", "tru", "\"x", "[}", "{]",
        ] {
            assert!(listing(entries).is_err(), "{entries}");
        }
        for endless in [
            format!("\"{}\"", "x".repeat(2 << 20)),
            GOOD.replace("BTCUSDT", &"X".repeat(2 << 20)),
            GOOD.replace("[{}]", &"7".repeat(2 << 20)),
        ] {
            assert!(matches!(listing(&endless), Err(ListingError::TooLong)));
        }
        assert!(
            parse(br#"{"symbols": [], "symbols": []}"#).is_err(),
            "which of the two?"
        );
    }

    #[test]
    fn an_answer_tells_its_origin() {
        let entry = GOOD.replace(
            "\"x\"",
            "\"contractType\": \"PERPETUAL\", \"deliveryDate\": 4133404802000, \"x\"",
        );
        let marks = listing(&format!("{entry}, {GOOD}")).unwrap().marks;
        assert_eq!((marks.spot, marks.futures, marks.testnet), (0, 1, 1));
        let entry = GOOD.replace("\"x\"", "\"contractType\": \"\", \"deliveryDate\": 1e999, \"x\"");
        assert_eq!(
            listing(&entry).unwrap().marks.futures,
            1,
            "that number is not needed"
        );
        let entry = GOOD.replace("\"x\"", "\"isSpotTradingAllowed\": true, \"x\"");
        assert_eq!(listing(&entry).unwrap().marks.spot, 1);
    }

    #[test]
    fn odd_members_beside_a_list_do_no_harm() {
        for odd in [
            r#""code": "000000", "msg": null"#,
            r#""code": 0, "msg": 7"#,
            r#""code": -1003, "msg": [1e999]"#,
            r#""sandbox": "no", "serverTime": 1e999"#,
            r#""timezone": "\ud800", "rateLimits": {"a": -1e999}"#,
        ] {
            let read = parse(format!(r#"{{{odd}, "symbols": [{GOOD}]}}"#).as_bytes()).unwrap();
            assert_eq!((read.symbols.len(), read.sandbox), (1, false), "{odd}");
        }
        let error = parse(br#"{"code": "000000"}"#).unwrap_err();
        assert!(matches!(error, ListingError::NoSymbols), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_as_an_element_panic(element: Vec<u8>) {
            let _ = parse(&[b"{\"symbols\": [".as_slice(), &element, b"]}"].concat());
        }

        #[test]
        fn no_bytes_panic(body: Vec<u8>) {
            let _ = parse(&body);
        }
    }
}
