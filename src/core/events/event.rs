//! The fields that all events share, in Celery's order.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value};

/// One event, to be written with Python's spacing.
#[derive(Serialize)]
pub(super) struct Event<'a, F: Serialize> {
    pub(super) hostname: &'a str,
    pub(super) utcoffset: Value,
    pub(super) pid: u32,
    pub(super) clock: u64,
    /// The task's id, in events about tasks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uuid: Option<&'a str>,
    /// The fields of this kind of event.
    #[serde(flatten)]
    pub(super) fields: F,
    pub(super) timestamp: Seconds,
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
}

/// Seconds with all digits of their fraction, as a JSON number.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Seconds(Box<RawValue>);

impl Seconds {
    /// A duration with nanoseconds.
    pub(super) fn of(duration: Duration) -> Self {
        Self::raw(format!("{}.{:09}", duration.as_secs(), duration.subsec_nanos()))
    }

    /// Unix time with microseconds.
    pub(super) fn since_epoch(time: DateTime<Utc>) -> Self {
        let micros = time.timestamp_micros();
        let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
        Self::raw(format!("{seconds}.{fraction:06}"))
    }

    fn raw(number: String) -> Self {
        Self(RawValue::from_string(number).expect("digits are a JSON number"))
    }
}

/// How far local time is behind UTC, in hours, from `west` in seconds. A fraction only where the hours are not whole,
/// as in Python (`celery.utils.time.utcoffset`).
pub(super) fn utcoffset(west: i32) -> Value {
    if west % 3600 == 0 {
        return (west / 3600).into();
    }
    Number::from_f64(f64::from(west) / 3600.0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use tradebot_wire::python_json;

    #[test]
    fn an_event_is_spelled_as_python_spells_it() {
        #[derive(Serialize)]
        struct Fields {
            exception: &'static str,
            #[serde(flatten)]
            rest: Value,
            runtime: Seconds,
        }
        let event = Event {
            hostname: "w@h",
            utcoffset: utcoffset(0),
            pid: 7,
            clock: 41,
            uuid: Some("i"),
            fields: Fields {
                exception: "ValueError('\u{5e01} \"x\"')",
                rest: json!({"parent_id": null, "expired": true, "signum": 15, "freq": 2.0, "loadavg": [0.5, 1.25, 2.0]}),
                runtime: Seconds::of(Duration::from_micros(1_250)),
            },
            timestamp: Seconds::since_epoch(DateTime::from_timestamp_micros(1_795_430_286_000_567).unwrap()),
            kind: "task-failed",
        };
        assert_eq!(
            python_json::to_string(&event).unwrap(),
            r#"{"hostname": "w@h", "utcoffset": 0, "pid": 7, "clock": 41, "uuid": "i", "#.to_owned()
                + r#""exception": "ValueError('\u5e01 \"x\"')", "parent_id": null, "expired": true, "signum": 15, "#
                + r#""freq": 2.0, "loadavg": [0.5, 1.25, 2.0], "runtime": 0.001250000, "#
                + r#""timestamp": 1795430286.000567, "type": "task-failed"}"#
        );
    }

    #[test]
    fn the_offset_is_west_of_utc() {
        for (west, shown) in [(-3600, "-1"), (18_000, "5"), (-19_800, "-5.5"), (0, "0")] {
            assert_eq!(utcoffset(west).to_string(), shown);
        }
    }
}
