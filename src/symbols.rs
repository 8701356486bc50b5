//! The symbol lists for other Rust programs: the same keys, counters and refreshes as the worker and the endpoint use.
//!
//! Needs only the feature `reads`.
//!
//! The lists, keys, counters and refreshes, as the worker and the endpoint use them:
//!
//! ```
//! # use tradebot_test_support::{RedisServer, Reply, ScriptedExchange};
//! use std::collections::BTreeMap;
//! use tradebot_symbols::symbols::Market;
//! use tradebot_symbols::symbols::{Level, ReadsSettings, SymbolReads};
//!
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! # let (redis, exchange) = (RedisServer::start(), ScriptedExchange::start().await);
//! # let entry = |base: &str| format!(r#"{{"symbol":"{base}USDT","status":"TRADING","baseAsset":"{base}","quoteAsset":"USDT"}}"#);
//! # exchange.always("/api/v3/exchangeInfo", Reply::json(format!(r#"{{"symbols":[{},{}]}}"#, entry("ETH"), entry("BTC"))));
//! # exchange.always("/fapi/v1/exchangeInfo", Reply::status(503, ""));
//! # let (redis_url, exchange_url) = (redis.url(), exchange.base_url());
//! // `ProcessEnvironment` reads the real environment; the names are those of the table of docs/configuration.md.
//! let environment = BTreeMap::from([
//!     ("REDIS_URL", redis_url.as_str()),
//!     ("BINANCE_SPOT_BASE_URL", exchange_url.as_str()),
//! #    ("BINANCE_FUTURES_BASE_URL", exchange_url.as_str()),
//! ]);
//! let reads = SymbolReads::start(ReadsSettings::read(&environment)?, "my-program")?;
//!
//! let reading = reads.read(Market::Spot).await?;
//! assert_eq!(reading.list.symbols()[0].symbol, "BTCUSDT");
//! assert!(!reading.stale && reading.age.is_some());
//!
//! // From now on reads come from memory without waiting. Redis reports its changes.
//! let again = reads.peek(Market::Spot).expect("a list");
//! assert_eq!(again.level, Level::Memory);
//!
//! // Writes the counters of hits and misses to Redis.
//! reads.stop().await;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! In a program without an async runtime, [`blocking`] does the same:
//!
//! ```
//! # use tradebot_test_support::{RedisServer, ScriptedExchange};
//! use std::collections::BTreeMap;
//! use tradebot_symbols::symbols::Market;
//! use tradebot_symbols::symbols::blocking::SymbolReads;
//! use tradebot_symbols::symbols::ReadsSettings;
//!
//! # let redis = RedisServer::start();
//! # let list = r#"[{"symbol": "BTCUSDT", "baseAsset": "BTC", "quoteAsset": "USDT", "status": "TRADING"}]"#;
//! # let mut other = redis::Client::open(redis.url())?.get_connection()?;
//! # for market in Market::ALL {
//! #     redis::cmd("SET").arg(format!("cache:symbols:{market}:v1")).arg(list).exec(&mut other)?;
//! # }
//! # let redis_url = redis.url();
//! let environment = BTreeMap::from([("REDIS_URL", redis_url.as_str())]);
//! let reads = SymbolReads::start(ReadsSettings::read(&environment)?, "my-program")?;
//! let reading = reads.read(Market::Futures)?;
//! println!("{} symbols, {:?} old", reading.list.count(), reading.age);
//! reads.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use tradebot_base::config::{ConfigError, ProcessEnvironment, Vars};
pub use tradebot_base::market::{Market, Network, PerMarket};

pub use crate::product::binance::exchange_info::Symbol;
pub use crate::product::symbols::blocking;
pub use crate::product::symbols::cache::{CacheError, FetchedBy, ListNetwork, ListSource};
pub use crate::product::symbols::changes::{Change, Changes, Diff, StatusChange};
pub use crate::product::symbols::list::SymbolList;
pub use crate::product::symbols::reads::{
    Level, MarketStatus, Reading, ReadsSettings, SetupError, SymbolReads, Unavailable,
};
