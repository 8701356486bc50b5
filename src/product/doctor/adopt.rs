//! Taking over from the Python system: what of its `.env` file is used, what is unsafe, whether the lists agree, and the
//! steps to switch and to switch back. Changes nothing.

use serde::Serialize;

use super::compare::{self, Comparison};
use super::settings::given;
use super::{Doctor, EnvFile, Finding, Picture, Settings};
use tradebot_base::clock::SharedClock;
use tradebot_base::config::{ConfigError, VARIABLES};
use tradebot_base::connection::Connection;
use tradebot_base::error_chain;
use tradebot_base::market::Market;
use tradebot_base::secret::RedisUrl;

/// Variables whose values are never shown.
const SECRET: [&str; 4] = ["SECRET", "KEY", "PASSWORD", "TOKEN"];
/// Variables of the contract that other parts of this system read than the table lists.
const ELSEWHERE: [(&str, &str); 10] = [
    ("DATABASE_URL", "users' own keys are looked up there"),
    ("SECRET_KEY", "verifies the users' tokens"),
    ("ALGORITHM", "of the tokens"),
    ("FERNET_KEY", "decrypts stored exchange keys"),
    (
        "ENVIRONMENT",
        "`production` is stricter about secrets and origins",
    ),
    (
        "FRONTEND_URL",
        "the one origin that browsers may come from in production",
    ),
    ("HTTP_LISTEN", "address of the HTTP endpoint"),
    (
        "ENABLE_SPOT_WARMUP_ON_STARTUP",
        "one refresh at the start of the endpoint",
    ),
    (
        "ENABLE_FUTURES_WARMUP_ON_STARTUP",
        "one refresh at the start of the endpoint",
    ),
    ("LOG_FORMAT", "`human` or `json`"),
];

/// What one variable of the file is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Use {
    /// Its name.
    pub name: String,
    /// Its value; secrets are left out.
    pub value: String,
    /// What it means; absent when nothing here reads it.
    pub meaning: Option<String>,
}

/// The way from the Python system to this one.
pub struct Adoption {
    /// The variables of the file.
    pub uses: Vec<Use>,
    settings: Settings,
    clock: SharedClock,
}

impl Adoption {
    /// Reads the file's settings.
    ///
    /// # Errors
    /// [`ConfigError`] with every value that cannot be used.
    pub fn read(file: &EnvFile, queues: &[String], clock: SharedClock) -> Result<Self, ConfigError> {
        let uses = file.names().map(|name| use_of(file, name)).collect();
        // The Celery beat of the Python system cannot be seen, and is what is to be replaced.
        let settings = Settings::read(file, queues, true)?;
        Ok(Self {
            uses,
            settings,
            clock,
        })
    }

    /// The Redis of the lists, without secrets.
    #[must_use]
    pub fn cache(&self) -> String {
        self.settings.redis.cache.to_string()
    }

    /// The hosts that a market's list is fetched from.
    #[must_use]
    pub fn hosts(&self, market: Market) -> String {
        self.settings.binance.base_urls.get(market).join(", ")
    }

    /// Looks at the servers of the file, and says what is wrong.
    pub async fn examine(&self) -> (Picture, Vec<Finding>) {
        let doctor = Doctor::new(self.settings.clone(), self.clock.clone());
        let picture = doctor.look().await;
        let findings = doctor.judge(&picture);
        (picture, findings)
    }

    /// Fetches a market's list and compares it with the stored one.
    pub async fn compare(&self, market: Market) -> Comparison {
        match Connection::new(&self.settings.redis.cache, "adopt") {
            Ok(connection) => {
                let binance = self.settings.binance.clone();
                Box::pin(compare::compare(
                    &connection,
                    binance,
                    &self.settings.symbols,
                    market,
                ))
                .await
            }
            Err(trouble) => Comparison::Failed {
                reason: error_chain(&trouble),
            },
        }
    }
}

fn use_of(file: &EnvFile, name: &str) -> Use {
    let known = VARIABLES
        .iter()
        .find(|variable| variable.name == name)
        .map(|variable| variable.meaning)
        .or_else(|| {
            ELSEWHERE
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, meaning)| *meaning)
        });
    let value = given(file, name).unwrap_or_default();
    Use {
        name: name.to_owned(),
        value: if known.is_some() {
            shown(name, &value)
        } else {
            String::new()
        },
        meaning: known.map(str::to_owned),
    }
}

/// A value without what is secret about it: of a URL everything before the host, of a key everything.
fn shown(name: &str, value: &str) -> String {
    if value.is_empty() {
        "(empty: the default holds)".into()
    } else if SECRET
        .iter()
        .any(|part| name.split('_').any(|word| word == *part))
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
    fn no_secret_is_shown() {
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
    }
}
