//! The doctor's settings, and the findings about all settings.

use std::time::Duration;

use super::finding::{self, Finding};
use crate::config::{BinanceConfig, SymbolsConfig, WorkerConfig, is_production};
use crate::product::credentials::database_url::DatabaseUrl;
use crate::product::credentials::settings::KeyFindings;
use crate::product::fleet::servers::is_local;
use crate::product::http::run::{Addresses, HttpSettings};
use crate::worker::{WorkerArgs, WorkerSettings};
use tradebot_base::config::{Reader, RedisConfig, ScheduleConfig, VARIABLES};
use tradebot_base::market::Market;
use tradebot_base::telemetry::LogConfig;

/// A name may differ from ours in one of so many letters.
const LETTERS_PER_MISTAKE: usize = 6;

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
        let mut programs = reader.aside();
        let production = is_production(&mut programs);
        let mut found = judge_programs(&mut programs);
        found.extend(judge_names(&reader.names()));
        found.extend(settings.judge_schedule());
        found.extend(settings.judge_limits());
        found.extend(settings.judge_upstream(production));
        if settings.database.is_some() {
            found.extend(judge_keys(reader, production));
        }
        settings.findings = found;
        if !reader.mistakes().is_empty() {
            reader.take_over(programs);
        }
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

/// What stops a worker, an endpoint or a beat: their mistakes, each read as the program itself reads it.
fn judge_programs(programs: &mut Reader<'_>) -> Vec<Finding> {
    let _worker = WorkerSettings::read(programs, &WorkerArgs::default());
    let listen = programs.optional("HTTP_LISTEN");
    let unused = ([127, 0, 0, 1], 0).into();
    let addresses = Addresses {
        listen: listen.is_none().then_some(unused),
        admin: None,
    };
    let _endpoint = HttpSettings::read(programs, addresses, 1, Vec::new(), Duration::ZERO);
    LogConfig::read(programs, None);
    let weak = KeyFindings::read(programs).weak;
    let mistakes = programs.mistakes().iter().filter_map(|mistake| {
        let (name, what) = mistake.split_once(' ')?;
        let kind = match name {
            "SECRET_KEY" => &finding::SECRET_KEY,
            "FERNET_KEY" if weak.iter().all(|(weak, _)| *weak != name) => &finding::FERNET_KEY,
            // Trying the database names it.
            "DATABASE_URL" => return None,
            _ => &finding::SETTING_UNUSABLE,
        };
        Some(kind.found(name, format!("it {what}")))
    });
    mistakes.collect()
}

/// Judges the keys that a program with a database accepts. Never shows a value.
fn judge_keys(reader: &mut Reader<'_>, production: bool) -> Vec<Finding> {
    const SHORTEST: usize = 32;
    let KeyFindings { missing, weak } = KeyFindings::read(reader);
    if production {
        // The others stop the endpoint.
        let key = reader.secret("SECRET_KEY").filter(|_| weak.is_empty());
        let short = key.filter(|key| key.expose().len() < SHORTEST);
        let what = format!("it has fewer than {SHORTEST} characters");
        return short
            .map(|_| finding::SECRET_KEY.found("SECRET_KEY", what))
            .into_iter()
            .collect();
    }
    let missing = missing
        .into_iter()
        .map(|name| finding::USER_LISTS_OFF.found(name, "it is missing, and DATABASE_URL is set"));
    missing
        .chain(
            weak.into_iter()
                .map(|(name, why)| finding::KEY_WEAK.found(name, why)),
        )
        .collect()
}

/// Names that no program reads and that are almost one of ours.
fn judge_names(names: &[String]) -> Vec<Finding> {
    let is_set = |known: &str| names.iter().any(|name| name == known);
    let meant = |name: &String| {
        let spelt = name.to_ascii_uppercase();
        let unset = VARIABLES.iter().filter(|variable| !is_set(variable.name));
        let distances = unset.map(|variable| (strsim::osa_distance(&spelt, variable.name), variable.name));
        let (distance, known) = distances.min()?;
        (distance <= known.len() / LETTERS_PER_MISTAKE).then(|| {
            let what = format!("no program reads it; did you mean {known}, which is not set?");
            finding::NAME_UNKNOWN.found(name, what)
        })
    };
    let unknown = names
        .iter()
        .filter(|name| VARIABLES.iter().all(|variable| variable.name != *name));
    unknown.filter_map(meant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_misspelt_name_of_ours_is_named() {
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let found = judge_names(&names);
            found
                .iter()
                .map(|found| format!("{}: {}", found.subject, found.what))
                .collect::<Vec<_>>()
        };
        for (misspelt, ours) in [
            ("REDIS_URI", "REDIS_URL"),
            ("redis_url", "REDIS_URL"),
            ("ENVIROMENT", "ENVIRONMENT"),
            ("SPOT_SYMBOL_CACHE_TTL_SECOND", "SPOT_SYMBOLS_CACHE_TTL_SECONDS"),
        ] {
            let found = names(&[misspelt]);
            assert_eq!(found.len(), 1, "{misspelt}");
            assert!(found[0].contains(&format!("did you mean {ours},")), "{found:?}");
        }
        let others = [
            "PATH",
            "CELERY_APP",
            "REDIS_HOST",
            "HTTP_PROXY",
            "LOG_FILE",
            "PGSSLCERT",
            "SECRET_KEY",
        ];
        assert_eq!(names(&others), [""; 0]);
        // Both are set, so one of them belongs to another program.
        assert_eq!(names(&["REDIS_URL", "REDIS_URI"]), [""; 0]);
    }
}
