//! The sandbox's markets: a full-size `exchangeInfo` document for each.
//!
//! Every run generates the same symbols. Members, statuses and sizes follow the real answers of late 2026; names are made
//! up, except for the popular bases and the quote assets. A captured answer of the real exchange may replace either
//! document and is served byte for byte. Nothing changes over time: no symbol is listed, halted or delisted.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{SandboxError, SpotQuery, now_ms, read_capture};

/// `deliveryDate` of a contract that never expires, as the exchange writes it.
const NEVER_MS: u64 = 4_133_404_800_000;
/// 2026-10-07T00:00:00Z, the day that the markets are modelled on.
const MODELLED_MS: u64 = 1_791_331_200_000;

const POPULAR: [&str; 10] = [
    "BTC", "ETH", "BNB", "SOL", "ADA", "AVAX", "DOT", "MATIC", "LINK", "UNI",
];
/// Each starts with a consonant and a vowel, so that every pair of them is a different name.
const SYLLABLES: [&str; 31] = [
    "BA", "BEN", "CO", "DAR", "DEX", "FI", "GO", "HEL", "JU", "KA", "KIN", "LO", "LUM", "MA", "MIR", "NA",
    "NOV", "PA", "POL", "RA", "RIN", "SA", "SUN", "TA", "TEK", "VE", "VOX", "WA", "XE", "YO", "ZIR",
];
/// Quote assets, and how many bases have a spot pair with each.
const QUOTES: [(&str, usize); 11] = [
    ("USDT", 640),
    ("BTC", 550),
    ("TRY", 380),
    ("BUSD", 370),
    ("BNB", 330),
    ("USDC", 330),
    ("ETH", 300),
    ("FDUSD", 190),
    ("EUR", 120),
    ("BRL", 60),
    ("JPY", 45),
];
/// Spot pairs with names beyond ASCII.
const BEYOND_ASCII: [(&str, &str); 2] = [("币安人生", "USDT"), ("这是测试币", "456")];
/// Contract type, status, and symbol suffix of contracts in BTC and ETH that expire.
const DATED: [(&str, &str, &str); 3] = [
    ("CURRENT_QUARTER DELIVERING", "DELIVERED", "_260925"),
    ("CURRENT_QUARTER", "TRADING", "_261225"),
    ("NEXT_QUARTER", "TRADING", "_270326"),
];
/// Contract type and status of a few perpetuals. The exchange sends `TRADING_HALT` but does not document it. The last one is
/// made up, so that clients meet an unknown status.
const ODD_PERPETUALS: [(&str, &str); 8] = [
    ("", "PENDING_TRADING"),
    ("PERPETUAL", "PRE_DELIVERING"),
    ("PERPETUAL_DELIVERING", "DELIVERING"),
    ("PERPETUAL", "PRE_SETTLE"),
    ("PERPETUAL", "CLOSE"),
    ("PERPETUAL", "TRADING_HALT"),
    ("TRADIFI_PERPETUAL", "TRADING"),
    ("PERPETUAL", "SANDBOX_UNHEARD_OF"),
];

/// The sandbox's `exchangeInfo` documents.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    spot: Document,
    futures: Document,
}

/// One market's document.
#[derive(Clone, Debug)]
enum Document {
    /// Served as it is.
    Captured(Bytes),
    /// Its members after `serverTime` and before `symbols`, and the symbols with their statuses.
    Generated(String, Arc<[(&'static str, String)]>),
}

impl Catalog {
    /// Generates both documents. Every call makes the same symbols.
    #[must_use]
    pub(crate) fn generate() -> Self {
        Self {
            spot: spot(),
            futures: futures(),
        }
    }

    /// Reads captured answers, and generates the documents for which no file is given. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read, or is not a JSON object with a `symbols` array.
    pub(crate) fn from_files(spot: Option<&Path>, futures: Option<&Path>) -> Result<Self, SandboxError> {
        let mut catalog = Self::generate();
        if let Some(path) = spot {
            catalog.spot = Document::Captured(read_capture(path)?);
        }
        if let Some(path) = futures {
            catalog.futures = Document::Captured(read_capture(path)?);
        }
        Ok(catalog)
    }

    /// The body of a spot answer. A capture is served whole, whatever the query.
    pub(super) fn spot_answer(&self, query: SpotQuery) -> Bytes {
        self.spot.answer(query)
    }

    /// The body of a futures answer.
    pub(super) fn futures_answer(&self) -> Bytes {
        self.futures.answer(SpotQuery::EVERYTHING)
    }
}

impl Document {
    fn answer(&self, query: SpotQuery) -> Bytes {
        let (members, symbols) = match self {
            Self::Captured(body) => return body.clone(),
            Self::Generated(members, symbols) => (members, symbols),
        };
        let wanted = symbols.iter().filter(|(status, _)| query.wants(status));
        let mut symbols = wanted
            .map(|(_, symbol)| symbol.as_str())
            .collect::<Vec<_>>()
            .join(",");
        if query.permission_sets {
            symbols = symbols.replace(NO_PERMISSION_SETS, &permission_sets());
        }
        let time = now_ms();
        Bytes::from(format!(
            r#"{{"timezone":"UTC","sandbox":true,"serverTime":{time},{members},"symbols":[{symbols}]}}"#
        ))
    }
}

/// `permissionSets` in an answer without them.
const NO_PERMISSION_SETS: &str = r#""permissionSets":[]"#;

/// Most of a real answer: the same 222 names with every symbol.
fn permission_sets() -> String {
    let groups: Vec<String> = (16..236).map(|group| format!("TRD_GRP_{group:03}")).collect();
    format!(
        r#""permissionSets":[["SPOT","MARGIN","{}"]]"#,
        groups.join(r#"",""#)
    )
}

fn spot() -> Document {
    let mut symbols = Vec::new();
    for (quote, pairs) in QUOTES {
        // A popular base has no pair with those after it.
        let popular = POPULAR.iter().position(|base| *base == quote);
        let first = popular.map_or(0, |own| own + 1);
        for index in first..first + pairs {
            let status = match index {
                _ if quote == "BUSD" => "BREAK",
                _ if index < POPULAR.len() => "TRADING",
                // The pairs of every fourth base are closed.
                _ if index % 4 == 0 => "BREAK",
                _ => match (index + pairs) % 150 {
                    1 => "HALT",
                    2 => "END_OF_DAY",
                    3 => "CANCEL_ONLY",
                    _ => "TRADING",
                },
            };
            symbols.push((status, spot_symbol(&asset(index), quote, status)));
        }
    }
    for (base, quote) in BEYOND_ASCII {
        symbols.push(("TRADING", spot_symbol(base, quote, "TRADING")));
    }
    let members = rate_limits(&[("REQUEST_WEIGHT", 6_000), ("RAW_REQUESTS", 300_000)]);
    Document::Generated(members, symbols.into())
}

fn spot_symbol(base: &str, quote: &str, status: &str) -> String {
    let filters = json!([
        {"filterType": "PRICE_FILTER", "minPrice": "0.00010000", "maxPrice": "100000.00000000", "tickSize": "0.00010000"},
        {"filterType": "LOT_SIZE", "minQty": "0.01000000", "maxQty": "9000000.00000000", "stepSize": "0.01000000"},
        {"filterType": "ICEBERG_PARTS", "limit": 100},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.00000000", "maxQty": "8432.00050000", "stepSize": "0.00000000"},
        {"filterType": "TRAILING_DELTA", "minTrailingAboveDelta": 10, "maxTrailingAboveDelta": 2000,
            "minTrailingBelowDelta": 10, "maxTrailingBelowDelta": 2000},
        {"filterType": "PERCENT_PRICE_BY_SIDE", "bidMultiplierUp": "5", "bidMultiplierDown": "0.2",
            "askMultiplierUp": "5", "askMultiplierDown": "0.2", "avgPriceMins": 5},
        {"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": true,
            "maxNotional": "9000000.00000000", "applyMaxToMarket": false, "avgPriceMins": 5},
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
    ]);
    json!({
        "symbol": format!("{base}{quote}"), "status": status, "baseAsset": base, "baseAssetPrecision": 8,
        "quoteAsset": quote, "quotePrecision": 8, "quoteAssetPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": true, "ocoAllowed": true, "otoAllowed": true, "quoteOrderQtyMarketAllowed": true,
        "allowTrailingStop": true, "cancelReplaceAllowed": true, "amendAllowed": true,
        "isSpotTradingAllowed": true, "isMarginTradingAllowed": status == "TRADING",
        "filters": filters, "permissions": [], "permissionSets": [],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "DECREMENT"],
    })
    .to_string()
}

fn futures() -> Document {
    let mut symbols = Vec::new();
    let mut add = |base: &str, quote: &str, (kind, status): (&str, &'static str), suffix: &str| {
        symbols.push((status, contract(base, quote, (kind, status), suffix)));
    };
    for (quote, contracts) in [("USDT", 830_usize), ("USDC", 70)] {
        for index in 0..contracts {
            let odd = index.checked_sub(100).and_then(|place| ODD_PERPETUALS.get(place));
            let state = odd.copied().unwrap_or(match index % 4 {
                0 if index >= POPULAR.len() => ("PERPETUAL", "SETTLING"),
                _ => ("PERPETUAL", "TRADING"),
            });
            add(&asset(index), quote, state, "");
        }
    }
    for (kind, status, suffix) in DATED {
        for base in ["BTC", "ETH"] {
            add(base, "USDT", (kind, status), suffix);
        }
    }
    add("币安人生", "USDT", ("PERPETUAL", "TRADING"), "");
    let limits = rate_limits(&[("REQUEST_WEIGHT", 2_400), ("ORDERS", 1_200)]);
    Document::Generated(format!(r#""futuresType":"U_MARGINED",{limits}"#), symbols.into())
}

fn contract(base: &str, quote: &str, (kind, status): (&str, &str), suffix: &str) -> String {
    // A delisted contract stays on the list long after its last day.
    let delivery = if status == "SETTLING" {
        MODELLED_MS
    } else {
        NEVER_MS
    };
    let pair = format!("{base}{quote}");
    let filters = json!([
        {"filterType": "PRICE_FILTER", "minPrice": "0.001", "maxPrice": "200000", "tickSize": "0.001"},
        {"filterType": "LOT_SIZE", "minQty": "0.1", "maxQty": "50000", "stepSize": "0.1"},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.1", "maxQty": "5000", "stepSize": "0.1"},
        {"filterType": "MAX_NUM_ORDERS", "limit": 200},
        {"filterType": "MIN_NOTIONAL", "notional": "5"},
        {"filterType": "PERCENT_PRICE", "multiplierUp": "1.0500", "multiplierDown": "0.9500", "multiplierDecimal": "4"},
    ]);
    json!({
        "symbol": format!("{pair}{suffix}"), "pair": pair, "contractType": kind, "deliveryDate": delivery,
        "onboardDate": 1_567_965_300_000_u64, "status": status, "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000", "baseAsset": base, "quoteAsset": quote, "marginAsset": quote,
        "pricePrecision": 3, "quantityPrecision": 1, "baseAssetPrecision": 8, "quotePrecision": 8,
        "underlyingType": "COIN", "underlyingSubType": ["DeFi"], "triggerProtect": "0.0500",
        "liquidationFee": "0.012500", "marketTakeBound": "0.05", "maxMoveOrderLimit": 10_000, "filters": filters,
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"], "permissionSets": ["GRID", "COPY"],
    })
    .to_string()
}

fn rate_limits(limits: &[(&str, u32)]) -> String {
    let limit = |(kind, limit): &(&str, u32)| json!({"rateLimitType": kind, "interval": "MINUTE", "intervalNum": 1, "limit": limit});
    let limits: Value = limits.iter().map(limit).collect();
    format!(r#""rateLimits":{limits},"exchangeFilters":[]"#)
}

/// The name of asset `index`: the popular ones, then made-up names.
fn asset(index: usize) -> String {
    let Some(made_up) = index.checked_sub(POPULAR.len()) else {
        return POPULAR[index].to_owned();
    };
    let (row, first) = (made_up / SYLLABLES.len(), made_up % SYLLABLES.len());
    // The shift mixes the endings; each pair of syllables occurs once.
    let second = (row + 3 * first) % SYLLABLES.len();
    format!("{}{}", SYLLABLES[first], SYLLABLES[second])
}
