//! Query parameters: the filter of a list and the range of changes.

use url::form_urlencoded;

use crate::product::binance::exchange_info::Symbol;
use crate::product::symbols::changes::is_stream_id;

/// Maximum characters in a parameter value.
const LONGEST: usize = 512;
const TRADING: &str = "TRADING";

/// The assets a filter selects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum AssetSet {
    /// Every asset.
    All,
    /// These, sorted.
    Named(Vec<String>),
}

/// `?quote=` and `?base=` of a list.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ListFilter {
    quote: AssetSet,
    base: AssetSet,
}

/// `?since=` and `?limit=` of the changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangesQuery {
    pub(crate) since: Option<String>,
    pub(crate) limit: usize,
}

/// What is wrong with a query, as shown to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InvalidQuery(pub(crate) String);

impl ListFilter {
    /// Reads a query and ignores other parameters. `None` means the unfiltered list.
    pub(crate) fn read(query: &str, default_quote: &str) -> Result<Option<Self>, InvalidQuery> {
        if query.is_empty() {
            return Ok(None);
        }
        let (quote, base) = (values(query, "quote")?, values(query, "base")?);
        if quote.is_none() && base.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            quote: quote.unwrap_or_else(|| AssetSet::Named(vec![default_quote.to_owned()])),
            base: base.unwrap_or(AssetSet::All),
        }))
    }

    /// Whether the filter selects a symbol. It only selects symbols that trade.
    pub(crate) fn selects(&self, symbol: &Symbol) -> bool {
        symbol.status == TRADING
            && self.quote.contains(&symbol.quote_asset)
            && self.base.contains(&symbol.base_asset)
    }

    /// Whether the list of one quote asset contains everything the filter can select.
    pub(crate) fn is_within(&self, quote: &str) -> bool {
        matches!(&self.quote, AssetSet::Named(names) if names.iter().all(|name| name == quote))
    }
}

impl AssetSet {
    fn contains(&self, asset: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.binary_search_by(|name| name.as_str().cmp(asset)).is_ok(),
        }
    }
}

/// A parameter that is a comma-separated list, or `*`.
fn values(query: &str, name: &str) -> Result<Option<AssetSet>, InvalidQuery> {
    let Some(text) = value(query, name)? else {
        return Ok(None);
    };
    if text == "*" {
        return Ok(Some(AssetSet::All));
    }
    let mut names: Vec<String> = text.split(',').map(str::to_owned).collect();
    if names.iter().any(String::is_empty) {
        return Err(InvalidQuery(format!(
            "{name}: expected names separated by commas, or *"
        )));
    }
    names.sort();
    names.dedup();
    Ok(Some(AssetSet::Named(names)))
}

/// A parameter that may be given once.
fn value(query: &str, name: &str) -> Result<Option<String>, InvalidQuery> {
    let mut found = form_urlencoded::parse(query.as_bytes()).filter(|(known, _)| known == name);
    let Some((_, text)) = found.next() else {
        return Ok(None);
    };
    if found.next().is_some() {
        return Err(InvalidQuery(format!("{name}: given more than once")));
    }
    if text.chars().count() > LONGEST {
        return Err(InvalidQuery(format!("{name}: longer than {LONGEST} characters")));
    }
    Ok(Some(text.into_owned()))
}

impl ChangesQuery {
    /// Maximum changes in one response.
    const MOST: usize = 1000;

    /// Reads a query.
    pub(crate) fn read(query: &str) -> Result<Self, InvalidQuery> {
        let limit = match value(query, "limit")? {
            None => 100,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=Self::MOST).contains(limit) && text.bytes().all(|b| b.is_ascii_digit()))
                .ok_or_else(|| InvalidQuery(format!("limit: expected a number from 1 to {}", Self::MOST)))?,
        };
        let since = value(query, "since")?;
        if since.as_deref().is_some_and(|id| !is_stream_id(id)) {
            return Err(InvalidQuery(
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
        let filter = ListFilter::read(query, "USDT").unwrap().unwrap();
        let symbols = [
            symbol("BTC", "USDT", TRADING),
            symbol("BTC", "USDC", TRADING),
            symbol("ETH", "USDC", "BREAK"),
            symbol("ETH", "FDUSD", TRADING),
            symbol("币安人生", "USDT", TRADING),
        ];
        let taken = symbols.iter().filter(|symbol| filter.selects(symbol));
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
        assert_eq!(ListFilter::read("_=1&quotes=USDC", "USDT"), Ok(None));
        let within = |query| {
            ListFilter::read(query, "USDT")
                .unwrap()
                .unwrap()
                .is_within("USDT")
        };
        assert!(
            within("base=BTC") && within("quote=USDT") && !within("quote=USDT,USDC") && !within("quote=*")
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let (long, longest) = ("A".repeat(513), "A".repeat(512));
        assert!(ListFilter::read(&format!("quote={longest}"), "USDT").is_ok());
        let long = format!("quote={long}");
        for query in ["quote=", "quote=A,,B", "base=,", "quote=A&quote=B", long.as_str()] {
            assert!(ListFilter::read(query, "USDT").is_err(), "{query}");
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
            assert!(ChangesQuery::read(query).is_err(), "{query}");
        }
        let span = ChangesQuery::read("since=1700000000000-3&limit=7").unwrap();
        assert_eq!((span.since.as_deref(), span.limit), (Some("1700000000000-3"), 7));
        let longest = ChangesQuery::read("since=9223372036854775807").unwrap();
        assert_eq!(longest.since.as_deref(), Some("9223372036854775807"));
        assert_eq!(ChangesQuery::read("").unwrap().limit, 100);
    }
}
