//! The TOML types of a schedule file. Each checks its own value, so that the TOML reader reports where a mistake is.

use std::time::Duration;

use chrono_tz::Tz;
use serde::Deserialize;
use serde_json::{Map, Value};
use toml::Spanned;

use crate::crontab::{Crontab, CrontabError, Field};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleFile {
    pub(super) timezone: Option<Zone>,
    pub(super) queue: Option<Name>,
    #[serde(default)]
    pub(super) entry: Vec<Spanned<EntryTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EntryTable {
    pub(super) name: Spanned<Name>,
    pub(super) task: Name,
    #[serde(default)]
    pub(super) args: Vec<Value>,
    #[serde(default)]
    pub(super) kwargs: Map<String, Value>,
    pub(super) queue: Option<Name>,
    #[serde(default)]
    pub(super) priority: i64,
    pub(super) expires: Option<SecondsOrSwitch>,
    pub(super) interval: Option<Seconds>,
    pub(super) crontab: Option<Spanned<CrontabValue>>,
    pub(super) timezone: Option<Spanned<Zone>>,
    #[serde(default = "enabled")]
    pub(super) enabled: bool,
    #[serde(default)]
    pub(super) catch_up: CatchUpPolicy,
    pub(super) catch_up_limit: Option<Spanned<usize>>,
    pub(super) jitter: Option<Spanned<Jitter>>,
    pub(super) unless_pending: Option<SecondsOrSwitch>,
}

fn enabled() -> bool {
    true
}

/// A text that is not empty.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Name(pub(super) String);

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "String")]
pub(super) struct Zone(pub(super) Tz);

#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "f64")]
pub(super) struct Seconds(pub(super) Duration);

/// Seconds, zero included.
#[derive(Deserialize, Clone, Copy)]
#[serde(try_from = "f64")]
pub(super) struct Jitter(pub(super) Duration);

/// `300`, or `true` for the default and `false` for none.
#[derive(Deserialize, Clone, Copy)]
#[serde(
    untagged,
    expecting = "expected a number of seconds, `true` or `false`; seconds are at least 0.001 and at most 315360000"
)]
pub(super) enum SecondsOrSwitch {
    Switch(bool),
    Seconds(Seconds),
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "lowercase")]
pub(super) enum CatchUpPolicy {
    Skip,
    #[default]
    One,
    All,
}

#[derive(Deserialize)]
#[serde(try_from = "CrontabForm")]
pub(super) struct CrontabValue(pub(super) Crontab);

/// A line as in a crontab, or a table with the names of Celery's arguments.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected `\"minute hour day_of_month month_of_year day_of_week\"` or a table with these names"
)]
enum CrontabForm {
    Line(String),
    Fields(CrontabFields),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CrontabFields {
    minute: Option<CrontabField>,
    hour: Option<CrontabField>,
    day_of_month: Option<CrontabField>,
    month_of_year: Option<CrontabField>,
    day_of_week: Option<CrontabField>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum CrontabField {
    Number(u32),
    Text(String),
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.trim().is_empty() {
            return Err("the name is empty");
        }
        Ok(Self(text))
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        name.parse().map(Self).map_err(|_| {
            format!("unknown timezone `{name}`, expected a name such as `UTC` or `Europe/Istanbul`")
        })
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, Self::Error> {
        duration(number, 0.001).map(Self)
    }
}

impl TryFrom<f64> for Jitter {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, Self::Error> {
        duration(number, 0.0).map(Self)
    }
}

impl TryFrom<CrontabForm> for CrontabValue {
    type Error = CrontabError;

    fn try_from(form: CrontabForm) -> Result<Self, Self::Error> {
        match form {
            CrontabForm::Line(line) => Crontab::from_line(&line),
            CrontabForm::Fields(fields) => Crontab::new(fields.texts()),
        }
        .map(Self)
    }
}

impl CrontabFields {
    /// In the order of [`Field::ALL`].
    fn texts(self) -> [String; Field::ALL.len()] {
        [
            self.minute,
            self.hour,
            self.day_of_month,
            self.month_of_year,
            self.day_of_week,
        ]
        .map(|field| match field {
            None => "*".to_owned(),
            Some(CrontabField::Number(number)) => number.to_string(),
            Some(CrontabField::Text(text)) => text,
        })
    }
}

/// At most ten years.
fn duration(seconds: f64, least: f64) -> Result<Duration, String> {
    const LONGEST: f64 = 10.0 * 365.0 * 86400.0;
    if (least..=LONGEST).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(format!(
        "`{seconds}`, expected seconds, at least {least} and at most {LONGEST}"
    ))
}
