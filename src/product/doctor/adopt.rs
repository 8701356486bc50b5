//! Taking over from the Python system: which variables of its `.env` file are used, what is unsafe, and whether the
//! lists are the same. Changes nothing.

use serde::Serialize;

use super::compare::{self, Comparison};
use super::finding;
use super::{Doctor, DoctorSettings, Finding, Picture};
use tradebot_base::clock::SharedClock;
use tradebot_base::config::{ConfigError, Reader, VARIABLES, Variable, Vars};
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::env_file::EnvFile;
use tradebot_base::error_chain;
use tradebot_base::market::Market;
use tradebot_base::secret::RedisUrl;

/// Variables with one of these words in their name are secret.
const SECRET: [&str; 4] = ["SECRET", "KEY", "PASSWORD", "TOKEN"];

/// The use of one variable of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct VariableUse {
    /// Its name.
    pub name: String,
    /// Its value without secrets; empty if unused.
    pub value: String,
    /// Its meaning; absent if unused.
    pub meaning: Option<String>,
}

/// The comparison of the Python system with this one.
pub(crate) struct Adoption {
    /// The variables of the file.
    pub uses: Vec<VariableUse>,
    settings: DoctorSettings,
    clock: SharedClock,
}

impl Adoption {
    /// Reads the file's settings.
    ///
    /// # Errors
    /// [`ConfigError`] with every value that cannot be used.
    pub(crate) fn read(file: &EnvFile, queues: &[String], clock: SharedClock) -> Result<Self, ConfigError> {
        let uses = file.names().iter().map(|name| use_of(file, name)).collect();
        // The Celery beat, which is to be replaced, is not visible.
        let mut reader = Reader::new(file);
        let settings = DoctorSettings::read(&mut reader, queues, true);
        reader.finish()?;
        Ok(Self {
            uses,
            settings,
            clock,
        })
    }

    /// The Redis of the lists, without secrets.
    #[must_use]
    pub(crate) fn cache(&self) -> String {
        self.settings.redis.cache.to_string()
    }

    /// The hosts that a market's list is fetched from.
    #[must_use]
    pub(crate) fn hosts(&self, market: Market) -> String {
        self.settings.binance.base_urls.get(market).join(", ")
    }

    /// Examines the servers of the file and judges them.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub(crate) async fn examine(&self) -> Result<(Picture, Vec<Finding>), RedisTrouble> {
        let doctor = Doctor::new(self.settings.clone(), self.clock.clone())?;
        let picture = doctor.examine().await;
        let mut findings = doctor.judge(&picture);
        // The steps lead away from it.
        findings.retain(|found| found.kind.code != finding::WARMUPS_UNGUARDED.code);
        Ok((picture, findings))
    }

    /// Fetches a market's list and compares it with the stored one, unless that is one of the sandbox by the findings.
    pub(crate) async fn compare(&self, market: Market, findings: &[Finding]) -> Comparison {
        let is_sandbox =
            |found: &Finding| found.kind == &finding::LIST_SANDBOX && found.subject == market.name();
        if findings.iter().any(is_sandbox) {
            let reason = "the stored list is made up by the sandbox, see above".to_owned();
            return Comparison::Failed { reason };
        }
        let settings = &self.settings;
        let compared = match Connection::new(&settings.redis.cache, "adopt") {
            Ok(connection) => {
                let binance = settings.binance.clone();
                Box::pin(compare::compare(&connection, binance, &settings.symbols, market)).await
            }
            Err(trouble) => Err(error_chain(&trouble)),
        };
        compared.unwrap_or_else(|reason| Comparison::Failed { reason })
    }
}

fn use_of(file: &EnvFile, name: &str) -> VariableUse {
    let known = VARIABLES.iter().find(|variable| variable.name == name);
    let value = file.get(name).unwrap_or_default();
    VariableUse {
        name: name.to_owned(),
        value: known.map_or(String::new(), |variable| shown(variable, value.trim())),
        meaning: known.map(|variable| variable.meaning.to_owned()),
    }
}

/// A value without its secrets: a URL loses its user information, a key is hidden.
fn shown(variable: &Variable, value: &str) -> String {
    if value.is_empty() {
        match variable.default {
            "" => "(empty: not set)".into(),
            default => format!("(empty: the default {default} applies)"),
        }
    } else if SECRET
        .iter()
        .any(|part| variable.name.split('_').any(|word| word == *part))
    {
        "(secret)".into()
    } else if value.contains("://") {
        RedisUrl::new(value).to_string()
    } else {
        value.chars().take(80).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown_and_an_empty_value_says_what_applies() {
        let shown = |name: &str, value| {
            let variable = VARIABLES.iter().find(|variable| variable.name == name);
            shown(variable.expect("a known name"), value)
        };
        for (name, value) in [
            ("SECRET_KEY", "canary"),
            ("FERNET_KEY", "canary"),
            ("DATABASE_URL", "postgresql+asyncpg://u:canary@h/d"),
            ("REDIS_URL", "redis://:canary@h/0"),
        ] {
            assert!(!shown(name, value).contains("canary"), "{name}");
        }
        assert_eq!(shown("ALGORITHM", "HS512"), "HS512");
        assert_eq!(shown("CELERY_GLOBAL_KEYPREFIX", "p:"), "p:");
        assert_eq!(shown("SECRET_KEY", ""), "(empty: not set)");
        assert_eq!(shown("ALGORITHM", ""), "(empty: the default HS256 applies)");
    }
}
