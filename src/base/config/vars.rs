//! Reads variables and collects every mistake.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

use super::table::VARIABLES;
use crate::connection::{Connection, RedisTrouble};
use crate::secret::{RedisUrl, Secret};

/// A source of variables; tests use a map.
pub trait Vars {
    /// The value of a variable, if set.
    fn get(&self, name: &str) -> Option<String>;

    /// The names of all variables; none if the source cannot list them.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The process's environment.
#[derive(Debug, Default, Clone, Copy)]
pub struct ProcessEnvironment;

impl Vars for ProcessEnvironment {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os()
            .filter_map(|(name, _)| name.into_string().ok())
            .collect()
    }
}

impl Vars for std::collections::BTreeMap<&str, &str> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).map(|value| (*value).to_owned())
    }

    fn names(&self) -> Vec<String> {
        self.keys().map(|name| (*name).to_owned()).collect()
    }
}

/// Every mistake found in the environment.
#[derive(Debug, Error)]
#[error("configuration: {}", .0.join("; "))]
pub struct ConfigError(pub Vec<String>);

/// Reads variables. An absent or empty one has the table's default.
pub struct Reader<'a> {
    vars: &'a dyn Vars,
    mistakes: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader over `vars`.
    pub fn new(vars: &'a dyn Vars) -> Self {
        Self {
            vars,
            mistakes: Vec::new(),
        }
    }

    /// A reader over the same variables that collects its own mistakes.
    #[must_use]
    pub fn aside(&self) -> Self {
        Self::new(self.vars)
    }

    /// The names of all variables.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.vars.names()
    }

    /// The mistakes so far, each beginning with the variable's name.
    #[must_use]
    pub fn mistakes(&self) -> &[String] {
        &self.mistakes
    }

    /// Takes over the mistakes of another reader.
    pub fn take_over(&mut self, other: Self) {
        for mistake in other.mistakes {
            self.note(mistake);
        }
    }

    /// Reports the mistakes.
    ///
    /// # Errors
    /// [`ConfigError`] with all mistakes, if there are any.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.mistakes.is_empty() {
            Ok(())
        } else {
            Err(ConfigError(self.mistakes))
        }
    }

    /// Records a mistake and shows the value, so do not call it for secrets.
    pub fn complain(&mut self, name: &str, value: &str, expected: &str) {
        let value: String = value.chars().take(60).collect();
        self.note(format!("{name} is `{value}`, expected {expected}"));
    }

    /// A text.
    pub fn text(&mut self, name: &'static str) -> String {
        self.optional(name).unwrap_or_else(|| default_of(name).to_owned())
    }

    /// A text that may be absent.
    pub fn optional(&mut self, name: &'static str) -> Option<String> {
        debug_assert!(
            VARIABLES.iter().any(|variable| variable.name == name),
            "{name} is not in the table"
        );
        self.vars
            .get(name)
            .map(|value| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    }

    /// A text that may be absent, of a variable that other programs also read in lower case, such as `http_proxy`.
    pub fn in_either_case(&mut self, name: &'static str) -> Option<String> {
        self.optional(name).or_else(|| {
            let value = self.vars.get(&name.to_ascii_lowercase())?;
            Some(value.trim().to_owned()).filter(|value| !value.is_empty())
        })
    }

    /// A secret that may be absent, exactly as set: a key may end in a blank.
    pub fn secret(&mut self, name: &'static str) -> Option<Secret> {
        self.vars
            .get(name)
            .map(Secret::new)
            .filter(|value| !value.expose().trim().is_empty())
    }

    /// Records a mistake without showing the value, which may contain a secret.
    pub fn complain_of(&mut self, name: &str, reason: impl fmt::Display) {
        self.note(format!("{name} cannot be used: {reason}"));
    }

    /// Records a mistake once, even if several sections read the variable.
    fn note(&mut self, mistake: String) {
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    /// The URL of a Redis server. Errors do not show it, because it may contain a password.
    pub fn redis_url(&mut self, name: &'static str) -> RedisUrl {
        let master = self.optional("CELERY_SENTINEL_MASTER_NAME");
        let user = self.optional("CELERY_SENTINEL_USERNAME");
        let password = self.secret("CELERY_SENTINEL_PASSWORD");
        let url = RedisUrl::new(self.text(name))
            .with_master_name(master)
            .with_sentinel_login(user, password.map(|password| password.expose().to_owned()));
        if let Err(RedisTrouble::Url { reason, .. }) = Connection::new(&url, "check") {
            self.complain_of(name, reason);
        }
        url
    }

    /// A duration in seconds, fractions allowed, at most ten years.
    pub fn seconds(&mut self, name: &'static str) -> Duration {
        const MAX: f64 = 10.0 * 365.0 * 86400.0;
        let text = self.text(name);
        match text.parse::<f64>() {
            Ok(seconds) if (0.0..=MAX).contains(&seconds) => Duration::from_secs_f64(seconds),
            _ => {
                self.complain(name, &text, "seconds, zero or more");
                Duration::ZERO
            }
        }
    }

    /// A whole number of either sign.
    pub fn integer(&mut self, name: &'static str) -> i64 {
        let text = self.text(name);
        text.parse().unwrap_or_else(|_| {
            self.complain(name, &text, "a whole number");
            0
        })
    }

    /// A whole number within bounds.
    pub fn number(&mut self, name: &'static str, range: RangeInclusive<u32>) -> u32 {
        let text = self.text(name);
        match text.parse() {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let expected = format!("a whole number from {} to {}", range.start(), range.end());
                self.complain(name, &text, &expected);
                *range.start()
            }
        }
    }

    /// A flag, in any spelling of the Python deployment.
    pub fn flag(&mut self, name: &'static str) -> bool {
        let text = self.text(name).to_ascii_lowercase();
        match text.as_str() {
            "true" | "1" | "yes" | "on" => true,
            "false" | "0" | "no" | "off" => false,
            _ => {
                self.complain(name, &text, "`true` or `false`");
                false
            }
        }
    }

    /// A comma-separated list without empty members.
    pub fn list(&mut self, name: &'static str) -> Vec<String> {
        self.text(name)
            .split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// A comma-separated list of `http://` and `https://` addresses, without a trailing slash.
    pub fn base_urls(&mut self, name: &'static str) -> Vec<String> {
        const EXPECTED: &str = "`https://host`, several separated by commas";
        let (urls, text) = (self.list(name), self.text(name));
        // A password stands before an `@`, and may contain a comma; a key stands behind a `?`.
        let may_hold_secret = text.contains(['@', '?', '#']);
        if urls.is_empty() {
            self.complain(name, &text, EXPECTED);
        }
        for url in &urls {
            let rest = url
                .strip_prefix("https://")
                .or_else(|| url.strip_prefix("http://"));
            if rest
                .is_none_or(|host| host.is_empty() || host.starts_with('/') || host.contains(['@', '?', '#']))
            {
                if may_hold_secret {
                    self.complain_of(
                        name,
                        format_args!("expected {EXPECTED}, without `@`, `?` and `#`"),
                    );
                } else {
                    self.complain(name, url, EXPECTED);
                }
            }
        }
        urls.iter()
            .map(|url| url.trim_end_matches('/').to_owned())
            .collect()
    }
}

fn default_of(name: &str) -> &'static str {
    VARIABLES
        .iter()
        .find(|variable| variable.name == name)
        .map_or("", |variable| variable.default)
}
