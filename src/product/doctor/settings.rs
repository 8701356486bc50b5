//! The doctor's settings, and the findings about them.

use super::finding::{self, Finding};
use crate::config::{BinanceConfig, SymbolsConfig, WorkerConfig};
use crate::product::credentials::database_url::DatabaseUrl;
use crate::product::credentials::fernet::Keyring;
use crate::product::fleet::servers::is_local;
use tradebot_base::config::{Reader, RedisConfig, ScheduleConfig};
use tradebot_base::market::Market;
use tradebot_base::secret::Secret;

/// The settings of all parts of a deployment.
#[derive(Debug, Clone)]
pub(crate) struct DoctorSettings {
    pub(super) redis: RedisConfig,
    pub(super) worker: WorkerConfig,
    pub(super) symbols: SymbolsConfig,
    pub(super) binance: BinanceConfig,
    pub(super) schedule: ScheduleConfig,
    pub(super) queues: Vec<String>,
    /// The address of the HTTP endpoint that has `/readyz`, if configured.
    pub(super) listen: Option<String>,
    /// The database of exchange keys, if configured, or why its URL is invalid.
    pub(super) database: Option<Result<DatabaseUrl, String>>,
    /// Whether another system's beat sends the warm-ups.
    pub(super) foreign_beat: bool,
    pub(super) findings: Vec<Finding>,
}

impl DoctorSettings {
    /// Reads and judges the settings of all parts of a deployment.
    #[must_use]
    pub(crate) fn read(reader: &mut Reader<'_>, queues: &[String], foreign_beat: bool) -> Self {
        let database = reader.secret("DATABASE_URL");
        let mut settings = Self {
            redis: RedisConfig::read(reader),
            worker: WorkerConfig::read(reader),
            symbols: SymbolsConfig::read(reader),
            binance: BinanceConfig::read(reader),
            schedule: ScheduleConfig::read(reader),
            queues: queues.to_vec(),
            listen: reader
                .optional("HTTP_ADMIN_LISTEN")
                .or_else(|| reader.optional("HTTP_LISTEN")),
            database: database.map(|url| DatabaseUrl::parse(&url).map_err(|error| error.to_string())),
            foreign_beat,
            findings: Vec::new(),
        };
        let production = reader.text("ENVIRONMENT").eq_ignore_ascii_case("production");
        let mut found = settings.judge_schedule();
        found.extend(settings.judge_limits());
        found.extend(settings.judge_upstream(production));
        if production && settings.database.is_some() {
            found.extend(judge_keys(reader));
        }
        settings.findings = found;
        settings
    }

    fn judge_schedule(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        for market in Market::ALL {
            let prefix = market.name().to_uppercase();
            let ttl_name = format!("{prefix}_SYMBOLS_CACHE_TTL_SECONDS");
            let interval_name = format!("{prefix}_SYMBOLS_WARMUP_INTERVAL_SECONDS");
            let ttl = *self.symbols.ttl_seconds.get(market);
            found.push(match self.schedule.warmup_interval.get(market) {
                None => finding::SCHEDULE_OFF.found(interval_name, "it is 0: no warm-up is sent"),
                Some(interval) if ttl > 0 && ttl.unsigned_abs() <= interval.as_secs() => {
                    let what = format!("it is {ttl}, and {interval_name} is {}", interval.as_secs());
                    let kind = if ttl.unsigned_abs() < interval.as_secs() {
                        &finding::TTL_BELOW_INTERVAL
                    } else {
                        &finding::TTL_EQUALS_INTERVAL
                    };
                    kind.found(ttl_name, what)
                }
                Some(_) if ttl <= 0 => finding::TTL_NEVER.found(ttl_name, format!("it is {ttl}: no expiry")),
                Some(_) => continue,
            });
        }
        found
    }

    fn judge_limits(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let visibility = self.redis.visibility_timeout;
        let (hard, soft) = (self.worker.time_limit, self.worker.soft_time_limit);
        if visibility <= hard {
            let (visibility, hard) = (visibility.as_secs(), hard.as_secs());
            let what = format!("it is {visibility} s, and CELERY_TASK_TIME_LIMIT is {hard} s");
            found.push(finding::VISIBILITY_SHORT.found("CELERY_VISIBILITY_TIMEOUT", what));
        }
        if !hard.is_zero() && !soft.is_zero() && soft >= hard {
            let (soft, hard) = (soft.as_secs(), hard.as_secs());
            let what = format!("it is {soft} s, and the hard limit is {hard} s");
            found.push(finding::SOFT_LIMIT.found("CELERY_TASK_SOFT_TIME_LIMIT", what));
        }
        if self.redis.result_expires.is_zero() {
            let what = "it is 0: results never expire";
            found.push(finding::RESULTS_FOREVER.found("CELERY_RESULT_EXPIRES", what));
        }
        found
    }

    fn judge_upstream(&self, production: bool) -> Vec<Finding> {
        let mut found = Vec::new();
        if self.binance.testnet && production {
            let what = "it is true, and ENVIRONMENT is production";
            found.push(finding::TESTNET_IN_PRODUCTION.found("TESTNET_URL", what));
        }
        let urls = Market::ALL
            .iter()
            .flat_map(|market| self.binance.base_urls.get(*market));
        let mut plain: Vec<&String> = urls
            .filter(|url| url.starts_with("http://") && !is_local(url))
            .collect();
        plain.sort_unstable();
        plain.dedup();
        let what = "requests to the exchange are not encrypted";
        found.extend(
            plain
                .into_iter()
                .map(|url| finding::UPSTREAM_PLAIN.found(url, what)),
        );
        found
    }
}

/// Judges the keys, which only production with a database needs. Never shows a value.
fn judge_keys(reader: &mut Reader<'_>) -> Vec<Finding> {
    const SHORTEST: usize = 32;
    /// Words in example values.
    const STOCK: [&str; 7] = [
        "change", "your", "secret", "default", "example", "replace", "dev-",
    ];
    let secret_key = reader.secret("SECRET_KEY");
    let secret_key = match secret_key.map(|key| Secret::new(key.expose().trim().to_lowercase())) {
        None => Some("it is missing".to_owned()),
        Some(key) if key.expose().chars().count() < SHORTEST => {
            Some(format!("it has fewer than {SHORTEST} characters"))
        }
        Some(key) if STOCK.iter().any(|part| key.expose().contains(part)) => {
            Some("it looks like the value of an example".to_owned())
        }
        Some(_) => None,
    };
    let fernet_key = match reader.secret("FERNET_KEY").map(|keys| Keyring::parse(&keys)) {
        None => Some("it is missing"),
        Some(Err(_)) => Some("it is not URL-safe base64 of 32 bytes"),
        Some(Ok(_)) => None,
    };
    let secret_key = secret_key.map(|what| finding::SECRET_KEY.found("SECRET_KEY", what));
    let fernet_key = fernet_key.map(|what| finding::FERNET_KEY.found("FERNET_KEY", what));
    secret_key.into_iter().chain(fernet_key).collect()
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
        let settings = DoctorSettings::read(&mut Reader::new(&all), &[], false);
        settings.findings.iter().map(|found| found.kind.code).collect()
    }

    #[test]
    fn keys_matter_in_production_with_a_database() {
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
}
