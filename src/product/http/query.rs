//! What may follow the question mark, and the part of a list that it asks for.

use url::form_urlencoded;

use crate::product::binance::exchange_info::Symbol;
use crate::product::symbols::changes::is_stream_id;

/// The longest value of a parameter, in characters.
const LONGEST: usize = 512;
const TRADING: &str = "TRADING";

/// Assets that a list is narrowed to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Assets {
    /// Any.
    All,
    /// These, sorted.
    Named(Vec<String>),
}

/// `?quote=` and `?base=` of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Filter {
    quote: Assets,
    base: Assets,
}

/// `?since=` and `?limit=` of the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) since: Option<String>,
    pub(super) limit: usize,
}

/// Why a query is not understood, for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadQuery(pub(super) String);

impl Filter {
    /// Reads a query; parameters of other names are nobody's business. `None` asks for the list as it is.
    pub(super) fn read(query: &str, default_quote: &str) -> Result<Option<Self>, BadQuery> {
        if query.is_empty() {
            return Ok(None);
        }
        let (quote, base) = (values(query, "quote")?, values(query, "base")?);
        if quote.is_none() && base.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            quote: quote.unwrap_or_else(|| Assets::Named(vec![default_quote.to_owned()])),
            base: base.unwrap_or(Assets::All),
        }))
    }

    /// Whether a symbol is asked for. Only trading ones are.
    pub(super) fn takes(&self, symbol: &Symbol) -> bool {
        symbol.status == TRADING && self.quote.have(&symbol.quote_asset) && self.base.have(&symbol.base_asset)
    }

    /// Whether the list of one quote asset has all that is asked for.
    pub(super) fn is_within(&self, quote: &str) -> bool {
        matches!(&self.quote, Assets::Named(names) if names.iter().all(|name| name == quote))
    }
}

impl Assets {
    fn have(&self, asset: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.binary_search_by(|name| name.as_str().cmp(asset)).is_ok(),
        }
    }
}

/// The values of a parameter that is a list, or `*`.
fn values(query: &str, name: &str) -> Result<Option<Assets>, BadQuery> {
    let Some(text) = value(query, name)? else {
        return Ok(None);
    };
    if text == "*" {
        return Ok(Some(Assets::All));
    }
    let mut names: Vec<String> = text.split(',').map(str::to_owned).collect();
    if names.iter().any(String::is_empty) {
        return Err(BadQuery(format!(
            "{name}: expected names separated by commas, or *"
        )));
    }
    names.sort();
    names.dedup();
    Ok(Some(Assets::Named(names)))
}

/// The value of a parameter that comes at most once.
fn value(query: &str, name: &str) -> Result<Option<String>, BadQuery> {
    let mut found = form_urlencoded::parse(query.as_bytes()).filter(|(known, _)| known == name);
    let Some((_, text)) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(BadQuery(format!("{name}: given more than once")));
    }
    if text.chars().count() > LONGEST {
        return Err(BadQuery(format!("{name}: longer than {LONGEST} characters")));
    }
    Ok(Some(text.into_owned()))
}

impl Span {
    /// The most changes in one answer.
    const MOST: usize = 1000;

    /// Reads a query.
    pub(super) fn read(query: &str) -> Result<Self, BadQuery> {
        let limit = match value(query, "limit")? {
            None => 100,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=Self::MOST).contains(limit) && text.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| BadQuery(format!("limit: expected a number from 1 to {}", Self::MOST)))?,
        };
        let since = value(query, "since")?;
        if since.as_deref().is_some_and(|place| !is_stream_id(place)) {
            return Err(BadQuery(
                "since: expected the id of a change, or milliseconds since 1970".to_owned(),
            ));
        }
        Ok(Self { since, limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbol(base: &str, quote: &str, status: &str) -> Symbol {
        Symbol {
            symbol: format!("{base}{quote}"),
            base_asset: base.into(),
            quote_asset: quote.into(),
            status: status.into(),
        }
    }

    fn taken(query: &str) -> Vec<String> {
        let filter = Filter::read(query, "USDT").unwrap().unwrap();
        let symbols = [
            symbol("BTC", "USDT", TRADING),
            symbol("BTC", "USDC", TRADING),
            symbol("ETH", "USDC", "BREAK"),
            symbol("ETH", "FDUSD", TRADING),
            symbol("币安人生", "USDT", TRADING),
        ];
        let taken = symbols.iter().filter(|symbol| filter.takes(symbol));
        taken.map(|symbol| symbol.symbol.clone()).collect()
    }

    #[test]
    fn a_filter_takes_trading_symbols_of_the_assets_that_are_named() {
        for (query, names) in [
            ("quote=USDC,FDUSD", &["BTCUSDC", "ETHFDUSD"][..]),
            ("quote=*", &["BTCUSDT", "BTCUSDC", "ETHFDUSD", "币安人生USDT"]),
            ("quote=%2A&base=BTC", &["BTCUSDT", "BTCUSDC"]),
            (
                "base=%E5%B8%81%E5%AE%89%E4%BA%BA%E7%94%9F,ETH&x=y",
                &["币安人生USDT"],
            ),
            ("quote=usdc", &[]),
        ] {
            assert_eq!(taken(query), names, "{query}");
        }
        assert_eq!(Filter::read("_=1&quotes=USDC", "USDT"), Ok(None));
        let within = |query| Filter::read(query, "USDT").unwrap().unwrap().is_within("USDT");
        assert!(
            within("base=BTC") && within("quote=USDT") && !within("quote=USDT,USDC") && !within("quote=*")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let long = format!("quote={}", "A".repeat(LONGEST + 1));
        for query in ["quote=", "quote=A,,B", "base=,", "quote=A&quote=B", long.as_str()] {
            assert!(Filter::read(query, "USDT").is_err(), "{query}");
        }
        for query in [
            "limit=0",
            "limit=1001",
            "limit=+5",
            "limit=",
            "limit=x",
            "since=",
            "since=-1",
            "since=1-2-3",
            "since=1234567890123456789012",
        ] {
            assert!(Span::read(query).is_err(), "{query}");
        }
        let longest = Span::read("since=9223372036854775807").unwrap();
        assert_eq!(longest.since.as_deref(), Some("9223372036854775807"));
        let span = Span::read("since=1700000000000-3&limit=7").unwrap();
        assert_eq!((span.since.as_deref(), span.limit), (Some("1700000000000-3"), 7));
        assert_eq!(Span::read("").unwrap().limit, 100);
    }
}
