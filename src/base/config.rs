//! Settings from environment variables: the reader, the table of all variables, and the sections that every program needs.
//!
//! [`VARIABLES`] lists all variables with their defaults; a test compares the table of docs/configuration.md with it. A
//! program reads all its sections with one [`Reader`], which then reports every mistake at once.

mod table;
mod vars;

use std::net::SocketAddr;
use std::time::Duration;

pub use table::{VARIABLES, Variable};
pub use vars::{ConfigError, ProcessEnvironment, Reader, Vars};

use crate::market::PerMarket;
use crate::secret::RedisUrl;

/// The Redis servers.
#[derive(Debug, Clone)]
pub struct RedisConfig {
    /// The server of the symbol lists.
    pub cache: RedisUrl,
    /// The server of the task queues.
    pub broker: RedisUrl,
    /// The server of the results.
    pub results: RedisUrl,
    /// How long a result is kept; zero keeps it for ever.
    pub result_expires: Duration,
    /// Prefix of the broker's keys.
    pub key_prefix: String,
    /// Prefix of result keys.
    pub result_key_prefix: String,
    /// The age at which an abandoned delivery is restored.
    pub visibility_timeout: Duration,
    /// Priorities that have a list of their own, in ascending order.
    pub priority_steps: Vec<u8>,
    /// Separator in names of priority lists and in bindings.
    pub sep: String,
}

impl RedisConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let broker = reader.redis_url("CELERY_BROKER_URL");
        let own = reader.optional("REDIS_URL").is_some();
        Self {
            cache: if own {
                reader.redis_url("REDIS_URL")
            } else {
                broker.clone()
            },
            broker,
            results: reader.redis_url("CELERY_RESULT_BACKEND"),
            result_expires: reader.seconds("CELERY_RESULT_EXPIRES"),
            key_prefix: reader.optional("CELERY_GLOBAL_KEYPREFIX").unwrap_or_default(),
            result_key_prefix: reader
                .optional("CELERY_RESULT_GLOBAL_KEYPREFIX")
                .unwrap_or_default(),
            visibility_timeout: Duration::from_secs(
                reader.number("CELERY_VISIBILITY_TIMEOUT", 1..=31_536_000).into(),
            ),
            priority_steps: priority_steps(reader),
            sep: reader
                .optional("CELERY_SEP")
                .unwrap_or_else(|| KOMBU_SEP.to_owned()),
        }
    }
}

/// kombu's default for `sep`, which cannot be shown in a table.
const KOMBU_SEP: &str = "\u{6}\u{16}";

fn priority_steps(reader: &mut Reader<'_>) -> Vec<u8> {
    let name = "CELERY_PRIORITY_STEPS";
    let text = reader.text(name);
    let steps: Result<Vec<u8>, _> = text.split(',').map(|step| step.trim().parse()).collect();
    match steps {
        Ok(steps) if steps.is_sorted_by(|one, next| one < next) && steps.iter().all(|step| *step <= 9) => {
            steps
        }
        _ => {
            reader.complain(
                name,
                &text,
                "numbers from 0 to 9 in ascending order, such as `0,3,6,9`",
            );
            Vec::new()
        }
    }
}

/// The beat.
#[derive(Debug, Clone)]
pub struct ScheduleConfig {
    /// Seconds between two warm-ups; `None` takes the market off the schedule.
    pub warmup_interval: PerMarket<Option<Duration>>,
    /// File with more entries.
    pub file: Option<String>,
    /// Address of the beat's metrics.
    pub metrics_listen: Option<SocketAddr>,
}

impl ScheduleConfig {
    /// Reads the section.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let mut interval = |name| Some(reader.seconds(name)).filter(|interval| !interval.is_zero());
        let warmup_interval = PerMarket {
            spot: interval("SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS"),
            futures: interval("FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS"),
        };
        let listen = reader.optional("BEAT_METRICS_LISTEN");
        let metrics_listen = listen.as_deref().and_then(|address| address.parse().ok());
        if let (Some(address), None) = (&listen, metrics_listen) {
            reader.complain(
                "BEAT_METRICS_LISTEN",
                address,
                "an address with a port, such as `127.0.0.1:9100`",
            );
        }
        Self {
            warmup_interval,
            file: reader.optional("BEAT_SCHEDULE"),
            metrics_listen,
        }
    }
}
