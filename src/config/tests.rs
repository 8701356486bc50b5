use std::collections::BTreeMap;

use tradebot_base::config::{ConfigError, RedisConfig, ScheduleConfig, VARIABLES};
use tradebot_base::telemetry::LogConfig;

use super::*;

fn read_all(vars: &BTreeMap<&str, &str>) -> Result<(RedisConfig, SymbolsConfig, BinanceConfig), ConfigError> {
    let mut reader = Reader::new(vars);
    let redis = RedisConfig::read(&mut reader);
    WorkerConfig::read(&mut reader);
    let symbols = SymbolsConfig::read(&mut reader);
    ReadsConfig::read(&mut reader);
    let binance = BinanceConfig::read(&mut reader);
    ScheduleConfig::read(&mut reader);
    HttpConfig::read(&mut reader);
    LogConfig::read(&mut reader, None);
    reader.finish()?;
    Ok((redis, symbols, binance))
}

#[test]
fn defaults_are_those_of_the_existing_deployment() {
    let (redis, symbols, binance) = read_all(&BTreeMap::new()).unwrap();
    assert_eq!(redis.cache.expose(), "redis://localhost:6379/0");
    assert_eq!(
        symbols.ttl_seconds,
        PerMarket {
            spot: 300,
            futures: 300
        }
    );
    assert_eq!(symbols.popular_bases.spot.len(), 10);
    assert_eq!(symbols.popular_bases.futures.len(), 8);
    assert_eq!(
        binance.base_urls.spot,
        ["https://api.binance.com", "https://data-api.binance.vision"]
    );
    assert_eq!(
        (binance.max_attempts, binance.backoff_base),
        (3, Duration::from_millis(500))
    );
}

#[test]
fn the_cache_follows_the_broker_unless_it_has_its_own_url() {
    let vars = BTreeMap::from([("CELERY_BROKER_URL", "redis://b"), ("REDIS_URL", "")]);
    assert_eq!(read_all(&vars).unwrap().0.cache.expose(), "redis://b");
    let vars = BTreeMap::from([("CELERY_BROKER_URL", "redis://b"), ("REDIS_URL", "redis://c")]);
    assert_eq!(read_all(&vars).unwrap().0.cache.expose(), "redis://c");
}

#[test]
fn the_testnet_has_its_own_hosts() {
    for yes in ["true", "1", "YES"] {
        let vars = BTreeMap::from([("TESTNET_URL", yes)]);
        assert_eq!(
            read_all(&vars).unwrap().2.base_urls.spot,
            ["https://testnet.binance.vision"]
        );
    }
}

#[test]
fn all_mistakes_are_reported_at_once_and_named() {
    let vars = BTreeMap::from([
        ("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "abc"),
        ("TESTNET_URL", "maybe"),
        ("BINANCE_RETRY_MAX_ATTEMPTS", "0"),
        ("CELERY_TASK_TIME_LIMIT", "-1"),
        ("BINANCE_SPOT_BASE_URL", "https://good.example, ftp://bad.example"),
        ("LOG_FORMAT", "xml"),
    ]);
    let text = read_all(&vars).unwrap_err().to_string();
    for part in [
        "SPOT_SYMBOLS_CACHE_TTL_SECONDS is `abc`",
        "TESTNET_URL is `maybe`",
        "BINANCE_RETRY_MAX_ATTEMPTS is `0`",
        "CELERY_TASK_TIME_LIMIT is `-1`",
        "ftp://bad.example",
        "LOG_FORMAT is `xml`",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("good.example"), "{text}");
}

#[test]
fn a_redis_url_is_refused_by_name_and_without_its_password_and_hosts_must_be_some() {
    let vars = BTreeMap::from([
        ("CELERY_BROKER_URL", "http://:canary@h/0"),
        ("BINANCE_FUTURES_BASE_URL", " , "),
    ]);
    let text = read_all(&vars).unwrap_err().to_string();
    assert!(
        text.contains("CELERY_BROKER_URL cannot be used: it does not begin with"),
        "{text}"
    );
    assert!(text.contains("BINANCE_FUTURES_BASE_URL is `,`"), "{text}");
    assert!(
        !text.contains("canary") && !text.contains("REDIS_URL cannot"),
        "{text}"
    );
}

#[test]
fn every_variable_is_documented_with_its_default() {
    let page = include_str!("../../docs/configuration.md");
    for variable in VARIABLES {
        let default = if variable.default.is_empty() {
            "–".to_owned()
        } else {
            format!("`{}`", variable.default)
        };
        let row = format!("| `{}` | {default} | {} |", variable.name, variable.meaning);
        assert!(
            page.contains(&row),
            "docs/configuration.md lacks this row:\n{row}"
        );
    }
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 4);
    let documented = rows.filter(|row| {
        row.split('`')
            .nth(1)
            .is_some_and(|n| n.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
    });
    assert_eq!(
        documented.count(),
        VARIABLES.len(),
        "docs/configuration.md documents a variable that does not exist"
    );
}
