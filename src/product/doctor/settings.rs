//! What the configuration alone tells.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;
use url::Url;

use super::finding::{self, Finding};
use crate::config::{BinanceConfig, SymbolsConfig, WorkerConfig};
use crate::product::credentials::database_url::DatabaseUrl;
use tradebot_base::config::{ConfigError, Reader, RedisConfig, ScheduleConfig, Vars};
use tradebot_base::market::Market;
use tradebot_base::secret::Secret;

/// The configuration, as all parts of a deployment read it.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(super) redis: RedisConfig,
    pub(super) worker: WorkerConfig,
    pub(super) symbols: SymbolsConfig,
    pub(super) binance: BinanceConfig,
    pub(super) schedule: ScheduleConfig,
    pub(super) queues: Vec<String>,
    /// Where the HTTP endpoint listens, if it does.
    pub(super) listen: Option<String>,
    /// Where users' own keys are stored, if anywhere; a URL that cannot be used is the reason.
    pub(super) database: Option<Result<DatabaseUrl, String>>,
    /// Some other beat sends the warm-ups.
    pub(super) foreign_beat: bool,
    findings: Vec<Finding>,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake found.
    pub fn read(vars: &dyn Vars, queues: &[String], foreign_beat: bool) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(vars);
        let mut settings = Self {
            redis: RedisConfig::read(&mut reader),
            worker: WorkerConfig::read(&mut reader),
            symbols: SymbolsConfig::read(&mut reader),
            binance: BinanceConfig::read(&mut reader),
            schedule: ScheduleConfig::read(&mut reader),
            queues: queues.to_vec(),
            listen: given(vars, "HTTP_LISTEN"),
            database: given(vars, "DATABASE_URL")
                .map(|url| DatabaseUrl::parse(&Secret::new(url)).map_err(|error| error.to_string())),
            foreign_beat,
            findings: Vec::new(),
        };
        reader.finish()?;
        settings.findings = settings.judge_times();
        settings.findings.extend(settings.judge_upstream(vars));
        settings.findings.extend(judge_secrets(vars));
        Ok(settings)
    }

    /// What is unsafe about it.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    fn judge_times(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for market in Market::ALL {
            let prefix = market.name().to_uppercase();
            let (ttl_name, interval_name) = (
                format!("{prefix}_SYMBOLS_CACHE_TTL_SECONDS"),
                format!("{prefix}_SYMBOLS_WARMUP_INTERVAL_SECONDS"),
            );
            let ttl = *self.symbols.ttl_seconds.get(market);
            match self.schedule.warmup_interval.get(market) {
                None => found.push(finding::SCHEDULE_OFF.found(interval_name, "it is 0: no warm-up is sent")),
                Some(interval) if ttl > 0 && ttl.unsigned_abs() <= interval.as_secs() => {
                    let what = format!("it is {ttl}, and {interval_name} is {}", interval.as_secs());
                    found.push(finding::TTL_NOT_ABOVE_INTERVAL.found(ttl_name, what));
                }
                Some(_) if ttl <= 0 => {
                    found.push(finding::TTL_NEVER.found(ttl_name, format!("it is {ttl}: no expiry")));
                }
                Some(_) => {}
            }
        }
        let (hard, soft) = (self.worker.time_limit, self.worker.soft_time_limit);
        if self.redis.visibility_timeout <= hard {
            let what = format!(
                "it is {} s, and CELERY_TASK_TIME_LIMIT is {} s",
                self.redis.visibility_timeout.as_secs(),
                hard.as_secs()
            );
            found.push(finding::VISIBILITY_SHORT.found("CELERY_VISIBILITY_TIMEOUT", what));
        }
        if !hard.is_zero() && !soft.is_zero() && soft >= hard {
            let what = format!(
                "it is {} s, and the hard limit {} s",
                soft.as_secs(),
                hard.as_secs()
            );
            found.push(finding::SOFT_LIMIT.found("CELERY_TASK_SOFT_TIME_LIMIT", what));
        }
        if self.redis.result_expires.is_zero() {
            found.push(
                finding::RESULTS_FOREVER.found("CELERY_RESULT_EXPIRES", "it is 0: results never expire"),
            );
        }
        found
    }

    fn judge_upstream(&self, vars: &dyn Vars) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.binance.testnet && is_production(vars) {
            found.push(
                finding::TESTNET_IN_PRODUCTION
                    .found("TESTNET_URL", "it is true, and ENVIRONMENT is production"),
            );
        }
        let mut plain: Vec<&String> = Market::ALL
            .iter()
            .flat_map(|market| self.binance.base_urls.get(*market))
            .filter(|url| url.starts_with("http://") && !is_local(url))
            .collect();
        plain.sort_unstable();
        plain.dedup();
        for url in plain {
            found.push(finding::UPSTREAM_PLAIN.found(url, "the exchange is asked without encryption"));
        }
        found
    }
}

/// The value of a variable that may be none of the table's; empty counts as absent.
pub(super) fn given(vars: &dyn Vars, name: &str) -> Option<String> {
    vars.get(name)
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

fn is_production(vars: &dyn Vars) -> bool {
    given(vars, "ENVIRONMENT").is_some_and(|value| value.eq_ignore_ascii_case("production"))
}

/// Keys that only a production with a database needs. No value is ever shown.
fn judge_secrets(vars: &dyn Vars) -> Vec<Finding> {
    const SHORTEST: usize = 32;
    /// Parts of values that come with an example and were never changed.
    const STOCK: [&str; 7] = [
        "change", "your", "secret", "default", "example", "replace", "dev-",
    ];
    let mut found = Vec::new();
    if !is_production(vars) || given(vars, "DATABASE_URL").is_none() {
        return found;
    }
    let what = match given(vars, "SECRET_KEY").map(|key| key.to_lowercase()) {
        None => Some("it is missing".to_owned()),
        Some(key) if key.chars().count() < SHORTEST => {
            Some(format!("it has fewer than {SHORTEST} characters"))
        }
        Some(key) if STOCK.iter().any(|part| key.contains(part)) => {
            Some("it looks like the value of an example".to_owned())
        }
        Some(_) => None,
    };
    found.extend(what.map(|what| finding::SECRET_KEY.found("SECRET_KEY", what)));
    let is_key = |key: &str| {
        BASE64_URL_SAFE
            .decode(key.trim())
            .is_ok_and(|bytes| bytes.len() == 32)
    };
    let what = match given(vars, "FERNET_KEY") {
        None => Some("it is missing"),
        Some(keys) if !keys.split(',').all(is_key) => Some("it is no URL-safe base64 of 32 bytes"),
        Some(_) => None,
    };
    found.extend(what.map(|what| finding::FERNET_KEY.found("FERNET_KEY", what)));
    found
}

/// Whether a URL leads to this machine only.
pub(super) fn is_local(url: &str) -> bool {
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost" || name.parse().is_ok_and(is_loopback),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        // A unix socket.
        None => true,
    }
}

fn is_loopback(address: std::net::IpAddr) -> bool {
    address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn codes(vars: &[(&str, &str)]) -> Vec<&'static str> {
        let mut all = BTreeMap::from([
            ("SPOT_SYMBOLS_CACHE_TTL_SECONDS", "900"),
            ("FUTURES_SYMBOLS_CACHE_TTL_SECONDS", "900"),
        ]);
        all.extend(vars.iter().copied());
        let settings = Settings::read(&all, &[], false).unwrap();
        settings.findings().iter().map(|found| found.code).collect()
    }

    #[test]
    fn secrets_matter_in_production_with_a_database() {
        let key = "dGhpcnR5LXR3byBieXRlcyBmb3IgYSBmZXJuZXQga2U=";
        let base = [
            ("ENVIRONMENT", "production"),
            ("DATABASE_URL", "postgresql+asyncpg://u@h/d"),
        ];
        let with = |more: &[(&'static str, &'static str)]| codes(&[&base[..], more].concat());
        assert_eq!(codes(&[]), [""; 0]);
        assert_eq!(codes(&[("ENVIRONMENT", "production")]), [""; 0]);
        assert_eq!(with(&[]), ["secret-key-unsafe", "fernet-key-unusable"]);
        let good = ("SECRET_KEY", "0f8fad5bd9cb469fa16570867728950e7c6f");
        assert_eq!(with(&[good, ("FERNET_KEY", key)]), [""; 0]);
        assert_eq!(with(&[good, ("FERNET_KEY", "short")]), ["fernet-key-unusable"]);
        let stock = ("SECRET_KEY", "please-change-me-please-change-me-please");
        assert_eq!(with(&[stock, ("FERNET_KEY", key)]), ["secret-key-unsafe"]);
    }

    #[test]
    fn a_place_is_local_or_not() {
        for url in [
            "redis://localhost:1/0",
            "http://127.0.0.1:8010",
            "redis://[::1]/0",
            "redis+socket:///tmp/s",
        ] {
            assert!(is_local(url), "{url}");
        }
        for url in [
            "redis://redis:6379/0",
            "http://10.0.0.1",
            "redis://[2001:db8::1]/0",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }
}
