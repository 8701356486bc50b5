//! The sandbox's markets: a full-size `exchangeInfo` document for each.
//!
//! Generated from a few tables, so every run serves the same bytes apart from `serverTime`. Fields, filters, statuses and
//! sizes follow the real answers of late 2026; names are made up, except for the popular bases and the quote assets. A
//! captured answer of the real exchange may replace either document and is served byte for byte. Nothing changes over
//! time: no symbol is listed, halted or delisted.

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};

use super::{GENERATED_AT_MS, HEAD, SandboxError, SpotQuery, now_ms, read_capture};

/// `deliveryDate` of a contract that never expires, as the exchange writes it.
const NEVER_MS: u64 = 4_133_404_800_000;
/// The earliest `onboardDate`.
const ONBOARD_FROM_MS: u64 = 1_567_965_300_000;
const DAY_MS: u64 = 86_400_000;

const POPULAR: [&str; 10] = [
    "BTC", "ETH", "BNB", "SOL", "ADA", "AVAX", "DOT", "MATIC", "LINK", "UNI",
];
/// Each starts with a consonant and a vowel, so that every pair of them is a different name.
const SYLLABLES: [&str; 31] = [
    "BA", "BEN", "CO", "DAR", "DEX", "FI", "GO", "HEL", "JU", "KA", "KIN", "LO", "LUM", "MA", "MIR", "NA",
    "NOV", "PA", "POL", "RA", "RIN", "SA", "SUN", "TA", "TEK", "VE", "VOX", "WA", "XE", "YO", "ZIR",
];
/// Share of made-up assets that still trade. The pairs of the others are listed, but closed.
const ALIVE_PERCENT: u16 = 76;

/// Quote asset, number of pairs, percentage of open pairs among bases that still trade (0 for a retired quote asset),
/// decimals of the coarsest tick, `minNotional`.
struct Quote(&'static str, usize, u16, u16, &'static str);

const QUOTES: [Quote; 11] = [
    Quote("BTC", 550, 33, 5, "0.00010000"),
    Quote("ETH", 300, 22, 5, "0.00100000"),
    Quote("BNB", 330, 25, 4, "0.01000000"),
    Quote("USDT", 640, 95, 2, "5.00000000"),
    Quote("BUSD", 370, 0, 2, "5.00000000"),
    Quote("USDC", 330, 80, 2, "5.00000000"),
    Quote("FDUSD", 190, 60, 2, "5.00000000"),
    Quote("TRY", 380, 85, 1, "10.00000000"),
    Quote("EUR", 120, 60, 2, "5.00000000"),
    Quote("BRL", 60, 60, 1, "10.00000000"),
    Quote("JPY", 45, 80, 0, "100.00000000"),
];
/// Pairs outside the rule: names beyond ASCII, and leveraged tokens, closed to spot trading.
const EXTRA_PAIRS: [(&str, &str, &str); 4] = [
    ("币安人生", "USDT", "TRADING"),
    ("这是测试币", "456", "TRADING"),
    ("BTCUP", "USDT", "BREAK"),
    ("BTCDOWN", "USDT", "BREAK"),
];
/// Trade groups that a base asset lacks, of those from 4 to 237; about 205 to 235 remain.
const LEFT_OUT_GROUPS: [Range<u16>; 5] = [7..8, 7..9, 5..8, 4..9, 7..38];
/// `permissionSets` in an answer without them.
const NO_PERMISSION_SETS: &str = r#""permissionSets":[]"#;

/// From this index on, perpetuals are quoted by the thousand.
const MEMES_FROM: usize = 745;
const EQUITIES: Range<usize> = 860..920;
const TRADIFI: &str = "TRADIFI_PERPETUAL";
const COLLATERAL: [&str; 7] = ["USDT", "BTC", "BNB", "ETH", "USDC", "FDUSD", "BFUSD"];
const SECTORS: [&str; 5] = ["Layer-1", "DeFi", "Meme", "AI", "Gaming"];
/// Contract type and status.
type ContractState = (&'static str, &'static str);
/// States of every seventh perpetual from the hundredth on. The exchange sends `TRADING_HALT` but does not document it. The
/// last one is made up, so that clients meet an unknown status.
const ODD_PERPETUALS: [ContractState; 8] = [
    ("", "PENDING_TRADING"),
    ("PERPETUAL", "PRE_DELIVERING"),
    ("PERPETUAL_DELIVERING", "DELIVERING"),
    ("PERPETUAL DELIVERING", "DELIVERING"),
    ("PERPETUAL", "PRE_SETTLE"),
    ("PERPETUAL", "CLOSE"),
    ("PERPETUAL", "TRADING_HALT"),
    ("PERPETUAL", "SANDBOX_UNHEARD_OF"),
];
/// Symbol tag, contract type, status and day of delivery (counted from 1970) of dated contracts.
const DATED: [(&str, &str, &str, u64); 5] = [
    ("_260925", "CURRENT_QUARTER DELIVERING", "DELIVERED", 20_721),
    ("_261030", "CURRENT_MONTH", "TRADING", 20_756),
    ("_261127", "NEXT_MONTH", "TRADING", 20_784),
    ("_261225", "CURRENT_QUARTER", "TRADING", 20_812),
    ("_270326", "NEXT_QUARTER", "TRADING", 20_903),
];

/// The sandbox's `exchangeInfo` documents.
#[derive(Clone, Debug)]
pub(crate) struct Catalog {
    /// The whole spot document: uncompressed JSON.
    pub spot: Bytes,
    /// The whole USD-M futures document: uncompressed JSON.
    pub futures: Bytes,
    spot_generated: bool,
    futures_generated: bool,
}

impl Catalog {
    /// Generates both documents. Every call returns the same bytes; the server replaces `serverTime` with the current time.
    #[must_use]
    pub(crate) fn generate() -> Self {
        Self::with(None, None)
    }

    /// Reads captured answers, and generates the documents for which no file is given. Blocks.
    ///
    /// # Errors
    /// When a file cannot be read, or is not a JSON object with a `symbols` array.
    pub(crate) fn from_files(spot: Option<&Path>, futures: Option<&Path>) -> Result<Self, SandboxError> {
        let spot = spot.map(read_capture).transpose()?;
        let futures = futures.map(read_capture).transpose()?;
        Ok(Self::with(spot, futures))
    }

    fn with(spot: Option<Bytes>, futures: Option<Bytes>) -> Self {
        Self {
            spot_generated: spot.is_none(),
            futures_generated: futures.is_none(),
            spot: spot.unwrap_or_else(|| spot_body(SpotQuery::EVERYTHING)),
            futures: futures.unwrap_or_else(futures_body),
        }
    }

    /// The body of a spot answer. A capture is served whole, whatever the query.
    pub(super) fn spot_answer(&self, query: SpotQuery) -> Bytes {
        match query {
            _ if !self.spot_generated => self.spot.clone(),
            SpotQuery::EVERYTHING => dated(&self.spot),
            filtered => dated(&spot_body(filtered)),
        }
    }

    /// The body of a futures answer.
    pub(super) fn futures_answer(&self) -> Bytes {
        if self.futures_generated {
            dated(&self.futures)
        } else {
            self.futures.clone()
        }
    }
}

/// A generated document with the current time as `serverTime`.
fn dated(document: &Bytes) -> Bytes {
    let rest = &document[HEAD.len() + GENERATED_AT_MS.to_string().len()..];
    Bytes::from([format!("{HEAD}{}", now_ms()).as_bytes(), rest].concat())
}

fn spot_body(query: SpotQuery) -> Bytes {
    let top = json!({
        "rateLimits": [
            rate_limit("REQUEST_WEIGHT", "MINUTE", 1, 6_000),
            rate_limit("ORDERS", "SECOND", 10, 100),
            rate_limit("ORDERS", "DAY", 1, 200_000),
            rate_limit("RAW_REQUESTS", "MINUTE", 5, 300_000),
        ],
        "exchangeFilters": [], "symbols": [],
    });
    let sets = LEFT_OUT_GROUPS.map(|left_out| permission_sets(&left_out));
    let mut records = Vec::new();
    let mut add = |base: &str, quote: &Quote, status: &str| {
        if query.wants(status) {
            let mut record = spot_record(base, quote, status).to_string();
            if query.permission_sets {
                let [plain, margin] = &sets[usize::from(roll(base, b'g', 5))];
                let set = if has_margin(base, status) { margin } else { plain };
                record = record.replacen(NO_PERMISSION_SETS, set, 1);
            }
            records.push(record);
        }
    };
    for quote in &QUOTES {
        let Quote(name, pairs, trading_percent, ..) = *quote;
        // A popular base has no pair with those after it.
        let popular = POPULAR.iter().position(|base| *base == name);
        let first = popular.map_or(0, |own| own + 1);
        for index in first..first + pairs {
            let status = spot_status(index, name, trading_percent);
            add(&asset(index), quote, status);
        }
    }
    for (base, quote, status) in EXTRA_PAIRS {
        add(base, &Quote(quote, 1, 100, 3, "5.00000000"), status);
    }
    document(&top, &records)
}

fn spot_status(index: usize, quote: &str, trading_percent: u16) -> &'static str {
    if trading_percent > 0 && index < POPULAR.len() {
        return "TRADING";
    }
    let symbol = asset(index) + quote;
    if !alive(index) || roll(&symbol, b'o', 100) >= trading_percent {
        return "BREAK";
    }
    match roll(&symbol, b'x', 150) {
        0 | 1 => "HALT",
        2 => "END_OF_DAY",
        3..6 => "CANCEL_ONLY",
        _ => "TRADING",
    }
}

fn has_margin(base: &str, status: &str) -> bool {
    status == "TRADING" && (POPULAR.contains(&base) || roll(base, b'm', 100) < 60)
}

fn permission_sets(left_out: &Range<u16>) -> [String; 2] {
    let groups: String = (4..238)
        .filter(|group| !left_out.contains(group))
        .map(|group| format!(",\"TRD_GRP_{group:03}\""))
        .collect();
    ["", r#","MARGIN""#].map(|margin| format!(r#""permissionSets":[["SPOT"{margin}{groups}]]"#))
}

fn spot_record(base: &str, quote: &Quote, status: &str) -> Value {
    let &Quote(quote, .., price_decimals, min_notional) = quote;
    let symbol = format!("{base}{quote}");
    let tick = unit(price_decimals + roll(base, b't', 4), 8);
    let step = unit(roll(base, b's', 6), 8);
    let market_max = format!("{}.{:08}", roll(&symbol, b'q', 9_999), roll(&symbol, b'r', 9_999));
    let filters = json!([
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "100000.00000000",
            "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "9000000.00000000", "stepSize": step},
        {"filterType": "ICEBERG_PARTS", "limit": 100},
        {"filterType": "MARKET_LOT_SIZE", "minQty": "0.00000000", "maxQty": market_max,
            "stepSize": "0.00000000"},
        {"filterType": "TRAILING_DELTA", "minTrailingAboveDelta": 10, "maxTrailingAboveDelta": 2000,
            "minTrailingBelowDelta": 10, "maxTrailingBelowDelta": 2000},
        {"filterType": "PERCENT_PRICE_BY_SIDE", "bidMultiplierUp": "5", "bidMultiplierDown": "0.2",
            "askMultiplierUp": "5", "askMultiplierDown": "0.2", "avgPriceMins": 5},
        {"filterType": "NOTIONAL", "minNotional": min_notional, "applyMinToMarket": true,
            "maxNotional": "9000000.00000000", "applyMaxToMarket": false, "avgPriceMins": 5},
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
        {"filterType": "MAX_NUM_ORDER_LISTS", "maxNumOrderLists": 20},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
        {"filterType": "MAX_NUM_ORDER_AMENDS", "maxNumOrderAmends": 10},
    ]);
    json!({
        "symbol": symbol, "status": status, "baseAsset": base, "baseAssetPrecision": 8,
        "quoteAsset": quote, "quotePrecision": 8, "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8, "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT",
            "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"],
        "icebergAllowed": true, "ocoAllowed": true, "otoAllowed": true, "opoAllowed": true,
        "quoteOrderQtyMarketAllowed": true, "allowTrailingStop": true,
        "cancelReplaceAllowed": true, "amendAllowed": true, "pegInstructionsAllowed": true,
        "isSpotTradingAllowed": !base.ends_with("UP") && !base.ends_with("DOWN"),
        "isMarginTradingAllowed": has_margin(base, status),
        "filters": filters, "permissions": [], "permissionSets": [],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH",
            "DECREMENT"],
    })
}

fn futures_body() -> Bytes {
    let top = json!({
        "futuresType": "U_MARGINED",
        "rateLimits": [
            rate_limit("REQUEST_WEIGHT", "MINUTE", 1, 2_400),
            rate_limit("ORDERS", "MINUTE", 1, 1_200),
            rate_limit("ORDERS", "SECOND", 10, 300),
        ],
        "exchangeFilters": [],
        "assets": COLLATERAL.map(|asset| {
            json!({"asset": asset, "marginAvailable": true, "autoAssetExchange": "0"})
        }),
        "symbols": [],
    });
    let mut records = Vec::new();
    let mut add = |base: &str, quote: &str, state: ContractState, delivery: Option<(&str, u64)>| {
        records.push(futures_record(base, quote, state, delivery).to_string());
    };
    for (quote, count) in [("USDT", 770), ("USDC", 70)] {
        for index in 0..count {
            let thousand = if index < MEMES_FROM { "" } else { "1000" };
            let base = format!("{thousand}{}", asset(index));
            add(&base, quote, perpetual_state(index), None);
        }
    }
    for index in EQUITIES {
        let status = ["TRADING", "TRADING_HALT"][usize::from(index % 20 == 0)];
        add(&asset(index), "USDT", (TRADIFI, status), None);
    }
    for (tag, kind, status, day) in DATED {
        // Delivery is at 08:00 UTC.
        let delivery = Some((tag, day * DAY_MS + DAY_MS / 3));
        for base in ["BTC", "ETH"] {
            add(base, "USDT", (kind, status), delivery);
        }
    }
    add("币安人生", "USDT", ("PERPETUAL", "TRADING"), None);
    document(&top, &records)
}

fn perpetual_state(index: usize) -> ContractState {
    let odd = index.checked_sub(100).filter(|past| past % 7 == 0);
    match odd.and_then(|past| ODD_PERPETUALS.get(past / 7)) {
        Some(&state) => state,
        None if alive(index) => ("PERPETUAL", "TRADING"),
        None => ("PERPETUAL", "SETTLING"),
    }
}

fn futures_record(base: &str, quote: &str, state: ContractState, delivery: Option<(&str, u64)>) -> Value {
    let (kind, status) = state;
    let onboard_ms = ONBOARD_FROM_MS + DAY_MS * u64::from(roll(base, b'd', 2_500));
    // A delisted contract stays on the list long after its last day, so that lies in the past.
    let settled = (onboard_ms + GENERATED_AT_MS) / 2;
    let perpetual_ms = if status == "SETTLING" { settled } else { NEVER_MS };
    let (tag, delivery_ms) = delivery.unwrap_or(("", perpetual_ms));
    let pair = format!("{base}{quote}");
    let (price_decimals, quantity_decimals) = (1 + roll(base, b't', 6), roll(base, b's', 4));
    let tick = unit(price_decimals, usize::from(price_decimals));
    let step = unit(quantity_decimals, usize::from(quantity_decimals));
    let max = 1_000 * (1 + u32::from(roll(base, b'q', 500)));
    let (max, market_max) = (max.to_string(), (max / 10).to_string());
    let equity = kind == TRADIFI;
    let sector = SECTORS[usize::from(roll(base, b'u', 5))];
    let filters = json!([
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "200000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": step, "maxQty": max, "stepSize": step},
        {"filterType": "MARKET_LOT_SIZE", "minQty": step, "maxQty": market_max, "stepSize": step},
        {"filterType": "MAX_NUM_ORDERS", "limit": 200},
        {"filterType": "MIN_NOTIONAL", "notional": "5"},
        {"filterType": "PERCENT_PRICE", "multiplierUp": "1.0500", "multiplierDown": "0.9500",
            "multiplierDecimal": "4"},
        {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
    ]);
    json!({
        "symbol": format!("{pair}{tag}"), "pair": pair, "contractType": kind,
        "deliveryDate": delivery_ms, "onboardDate": onboard_ms, "status": status,
        "maintMarginPercent": "2.5000", "requiredMarginPercent": "5.0000",
        "baseAsset": base, "quoteAsset": quote, "marginAsset": quote,
        "pricePrecision": price_decimals, "quantityPrecision": quantity_decimals,
        "baseAssetPrecision": 8, "quotePrecision": 8,
        "underlyingType": if equity { "EQUITY" } else { "COIN" },
        "underlyingSubType": if equity { json!(["TradFi"]) } else { json!([sector, "Crypto"]) },
        "triggerProtect": "0.0500", "liquidationFee": "0.012500", "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10_000, "filters": filters,
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT",
            "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        "permissionSets": ["GRID", "COPY", "RPI", "DCA", "PSB"],
    })
}

fn rate_limit(kind: &str, interval: &str, num: u32, limit: u32) -> Value {
    json!({"rateLimitType": kind, "interval": interval, "intervalNum": num, "limit": limit})
}

/// Joins a document. `top` has the members after `serverTime`; the last one is an empty `symbols`.
fn document(top: &Value, records: &[String]) -> Bytes {
    let top = top.to_string();
    let members = top.strip_prefix('{').and_then(|text| text.strip_suffix("]}"));
    let members = members.expect("`top` is an object that ends with an empty array");
    let mut out = format!("{HEAD}{GENERATED_AT_MS},{members}");
    out.reserve_exact(records.iter().map(|record| record.len() + 1).sum::<usize>() + 2);
    for (index, record) in records.iter().enumerate() {
        out.push_str(if index > 0 { "," } else { "" });
        out.push_str(record);
    }
    out.push_str("]}");
    Bytes::from(out)
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

fn alive(index: usize) -> bool {
    index < POPULAR.len() || roll(&asset(index), b'a', 100) < ALIVE_PERCENT
}

/// A number below `bound` that depends only on `text` and `salt`, whatever the machine or library version (FNV-1a, mixed).
fn roll(text: &str, salt: u8, bound: u16) -> u16 {
    let bytes = text.bytes().chain([salt]);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let stirred = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u16::try_from(stirred % u64::from(bound)).expect("a remainder is below its u16 divisor")
}

/// The smallest unit of `decimals` places, written with `width` decimals: `0.00100000`.
fn unit(decimals: u16, width: usize) -> String {
    format!("{:.width$}", 0.1_f64.powi(i32::from(decimals)))
}
