//! The Redis servers: whether they answer and accept writes, and how they are set up.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use redis::{Script, cmd};
use serde::Serialize;
use url::Url;

use crate::product::symbols::cache::CacheKeys;
use tradebot_base::clock::Clock;
use tradebot_base::config::RedisConfig;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_base::loopback::is_loopback;
use tradebot_base::market::Market;
use tradebot_base::secret::RedisUrl;
use tradebot_wire::keys::{self, Keys};
use tradebot_wire::pidbox;

/// Number of timed round trips.
pub(crate) const PINGS: usize = 3;

/// Time limit of each of the doctor's probes.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a part could not be read.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ProbeFailure {
    /// The code of a server's error, such as `NOAUTH`.
    pub code: Option<String>,
    /// The reason, without secrets.
    pub text: String,
}

/// The state and settings of one server.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct ServerFacts {
    /// Its roles: `cache`, `broker`, `results`.
    pub roles: Vec<&'static str>,
    /// Its URL, without secrets.
    pub place: String,
    /// Why it cannot be read.
    pub trouble: Option<ProbeFailure>,
    /// Why a write, a script or a key of a worker was refused.
    pub write_trouble: Option<ProbeFailure>,
    /// Why `INFO` was refused.
    pub info_trouble: Option<ProbeFailure>,
    /// The fastest of a few round trips, in milliseconds.
    pub ping_ms: f64,
    /// How far its clock is ahead of ours, in seconds.
    pub clock_ahead_seconds: f64,
    /// Whether other machines can reach it without a password.
    pub open: bool,
    /// Version, memory, clients and persistence, under the names that `INFO` uses.
    pub info: BTreeMap<String, String>,
    /// Save points; absent if the server does not report them.
    pub save: Option<String>,
}

/// The fields of `INFO` to keep.
const INFO: [&str; 15] = [
    "redis_version",
    "run_id",
    "role",
    "used_memory",
    "maxmemory",
    "maxmemory_policy",
    "total_system_memory",
    "connected_clients",
    "maxclients",
    "aof_enabled",
    "aof_last_write_status",
    "aof_last_bgrewrite_status",
    "rdb_last_bgsave_status",
    "rdb_changes_since_last_save",
    "loading",
];

impl ServerFacts {
    /// Reads the three servers at once, and merges those that are the same.
    pub(crate) async fn read_all(redis: &RedisConfig, queues: &[String], clock: &dyn Clock) -> Vec<Self> {
        let read = |role, url, probe| Self::read(role, url, probe, clock);
        let (broker, cache, results) = tokio::join!(
            read("broker", &redis.broker, RightsProbe::broker(redis, queues)),
            read("cache", &redis.cache, RightsProbe::cache()),
            read("results", &redis.results, RightsProbe::results(redis)),
        );
        let mut servers: Vec<Self> = Vec::new();
        for one in [broker, cache, results] {
            match servers.iter_mut().find(|known| known.is_same(&one)) {
                Some(known) => {
                    known.roles.extend(one.roles);
                    // Another user may have other rights.
                    known.write_trouble = known.write_trouble.take().or(one.write_trouble);
                }
                None => servers.push(one),
            }
        }
        servers
    }

    async fn read(role: &'static str, url: &RedisUrl, probe: RightsProbe, clock: &dyn Clock) -> Self {
        let mut facts = Self {
            roles: vec![role],
            place: url.to_string(),
            ..Self::default()
        };
        let read = async {
            facts
                .fill(&Connection::new(url, "doctor")?, url, &probe, clock)
                .await
        };
        facts.trouble = ProbeFailure::limit(read).await.err();
        facts
    }

    async fn fill(
        &mut self,
        connection: &Connection,
        url: &RedisUrl,
        probe: &RightsProbe,
        clock: &dyn Clock,
    ) -> Result<(), RedisTrouble> {
        let mut fastest = f64::MAX;
        for _ in 0..PINGS {
            let started = Instant::now();
            connection.command::<String>(&cmd("PING")).await?;
            fastest = fastest.min(started.elapsed().as_secs_f64() * 1e3);
        }
        self.ping_ms = fastest;
        let ours = clock.unix_seconds();
        let (seconds, micros): (f64, f64) = connection.command(&cmd("TIME")).await?;
        let passed = clock.unix_seconds() - ours;
        self.clock_ahead_seconds = seconds + micros / 1e6 - (ours + passed / 2.0);
        let info: String = match connection.command(&cmd("INFO")).await {
            Err(trouble @ RedisTrouble::Refused { .. }) => {
                self.info_trouble = Some(trouble.into());
                String::new()
            }
            info => info?,
        };
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        self.info = lines
            .filter(|(name, _)| INFO.contains(name))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let config = config(connection).await;
        self.save = config.get("save").cloned();
        self.open = !has_password(url) && (!is_local(url.expose()) || accepts_other_machines(&config));
        self.write_trouble = probe.run(connection).await.err().map(Into::into);
        Ok(())
    }

    /// Whether two results are of the same server.
    fn is_same(&self, other: &Self) -> bool {
        self.trouble.is_none() == other.trouble.is_none()
            && match (self.info.get("run_id"), other.info.get("run_id")) {
                (Some(one), Some(other)) => one == other,
                _ => self.place == other.place,
            }
    }
}

/// What a worker does on a server, tried without effect.
struct RightsProbe {
    /// A key to write, for two seconds.
    written: String,
    /// Keys that a worker reads and writes.
    keys: Vec<String>,
    /// Announces results there, too.
    announces: bool,
}

impl RightsProbe {
    fn broker(redis: &RedisConfig, queues: &[String]) -> Self {
        let keys = Keys::new(&redis.key_prefix, &redis.sep, &redis.priority_steps);
        let lists = queues.iter().flat_map(|queue| keys.lists(queue));
        let exchanges = queues.iter().map(String::as_str);
        let exchanges = exchanges.chain([pidbox::EXCHANGE, pidbox::REPLY_EXCHANGE]);
        let bindings = exchanges.flat_map(|exchange| [false, true].map(|kept| keys.binding(exchange, kept)));
        let others = [
            keys.unacked(),
            keys.unacked_index(),
            keys.unacked_mutex(),
            keys.binding_deadlines(),
            keys.list(&format!("doctor.{}", pidbox::EXCHANGE), 0),
            keys.parked(),
            keys.workers(),
            keys.lease("doctor"),
        ];
        let replies = format!("doctor.{}", pidbox::REPLY_EXCHANGE);
        let replies = keys.lists(&replies);
        Self {
            written: format!("{}tradebot-symbols:doctor:probe", redis.key_prefix),
            keys: lists.chain(bindings).chain(others).chain(replies).collect(),
            announces: false,
        }
    }

    fn cache() -> Self {
        let keys = Market::ALL.map(CacheKeys).map(|keys| {
            [
                keys.primary(),
                keys.last_good(),
                keys.last_refresh(),
                keys.source(),
                keys.hit_counter(),
                keys.success_counter(),
            ]
        });
        Self {
            written: "tradebot-symbols:doctor:probe".to_owned(),
            keys: keys.into_iter().flatten().collect(),
            announces: false,
        }
    }

    fn results(redis: &RedisConfig) -> Self {
        let prefix = &redis.result_key_prefix;
        Self {
            written: keys::task_meta(prefix, "tradebot-symbols-doctor"),
            keys: vec![keys::group_meta(prefix, "tradebot-symbols-doctor", ".j")],
            announces: true,
        }
    }

    /// Fails with the first right that is missing, or with another reason why the server takes no writes.
    async fn run(&self, connection: &Connection) -> Result<(), RedisTrouble> {
        let mut set = cmd("SET");
        set.arg(&self.written).arg(1).arg("PX").arg(2000);
        connection.command::<()>(&set).await?;
        if self.announces {
            // No client waits for the result of a task with this id.
            let mut publish = cmd("PUBLISH");
            publish.arg(&self.written).arg("");
            connection.command::<i64>(&publish).await?;
        }
        let script = Script::new("return #KEYS");
        let mut call = script.prepare_invoke();
        for key in &self.keys {
            call.key(key);
        }
        connection.script::<i64>(None, &call).await.map(drop)
    }
}

impl ProbeFailure {
    /// Runs a probe with the time limit.
    pub(crate) async fn limit<T>(
        probe: impl Future<Output = Result<T, RedisTrouble>>,
    ) -> Result<T, ProbeFailure> {
        match tokio::time::timeout(PROBE_TIMEOUT, probe).await {
            Ok(answer) => answer.map_err(Self::from),
            Err(_) => Err(Self {
                code: None,
                text: format!("no answer within {} s", PROBE_TIMEOUT.as_secs()),
            }),
        }
    }
}

impl From<RedisTrouble> for ProbeFailure {
    fn from(trouble: RedisTrouble) -> Self {
        let text = error_chain(&trouble);
        let code = match &trouble {
            RedisTrouble::Refused { code, .. } => Some(code.clone()),
            // The Redis client reports a failed login as an error kind, and keeps the code in the text only.
            _ => ["WRONGPASS", "NOAUTH"]
                .into_iter()
                .find(|code| text.contains(code))
                .map(str::to_owned),
        };
        Self { code, text }
    }
}

/// The server's settings; hosted servers do not report them.
async fn config(connection: &Connection) -> HashMap<String, String> {
    let mut pipeline = redis::pipe();
    for name in ["save", "bind", "protected-mode"] {
        pipeline.cmd("CONFIG").arg("GET").arg(name);
    }
    let found: Result<Vec<HashMap<String, String>>, _> = connection.pipeline(&pipeline).await;
    found.unwrap_or_default().into_iter().flatten().collect()
}

/// Whether the URL carries a password; kombu also takes it from the query.
fn has_password(url: &RedisUrl) -> bool {
    url.expose().split(';').any(|one| {
        Url::parse(one.trim()).is_ok_and(|url| {
            url.password().is_some_and(|password| !password.is_empty())
                || url
                    .query_pairs()
                    .any(|(name, value)| name == "password" && !value.is_empty())
        })
    })
}

/// Whether the server accepts connections from other machines.
fn accepts_other_machines(config: &HashMap<String, String>) -> bool {
    let unprotected = config.get("protected-mode").is_some_and(|value| value == "no");
    let bound = config.get("bind").is_some_and(|value| {
        value.is_empty()
            || value.split_whitespace().any(|address| {
                let address = address.trim_start_matches('-');
                !matches!(address, "localhost" | "::1") && !address.starts_with("127.")
            })
    });
    unprotected && bound
}

/// Whether a URL points to this machine.
pub(crate) fn is_local(url: &str) -> bool {
    // A unix socket has no host.
    Url::parse(url).map_or(true, |url| !url.has_host() || is_loopback(&url))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_local_or_not() {
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
