//! The Redis servers: whether they answer and accept writes, and how they are set up.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use redis::cmd;
use serde::Serialize;
use url::Url;

use tradebot_base::clock::Clock;
use tradebot_base::config::RedisConfig;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_base::secret::RedisUrl;

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
    /// Why a write was refused.
    pub write_trouble: Option<ProbeFailure>,
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
    pub(crate) async fn read_all(redis: &RedisConfig, clock: &dyn Clock) -> Vec<Self> {
        let read = |role, url, prefix| Self::read(role, url, prefix, clock);
        let (broker, cache, results) = tokio::join!(
            read("broker", &redis.broker, &redis.key_prefix),
            read("cache", &redis.cache, ""),
            read("results", &redis.results, &redis.result_key_prefix),
        );
        let mut servers: Vec<Self> = Vec::new();
        for one in [broker, cache, results] {
            match servers.iter_mut().find(|known| known.is_same(&one)) {
                Some(known) => known.roles.extend(one.roles),
                None => servers.push(one),
            }
        }
        servers
    }

    async fn read(role: &'static str, url: &RedisUrl, prefix: &str, clock: &dyn Clock) -> Self {
        let mut facts = Self {
            roles: vec![role],
            place: url.to_string(),
            ..Self::default()
        };
        let read = async {
            facts
                .fill(&Connection::new(url, "doctor")?, url, prefix, clock)
                .await
        };
        facts.trouble = ProbeFailure::limit(read).await.err();
        facts
    }

    async fn fill(
        &mut self,
        connection: &Connection,
        url: &RedisUrl,
        prefix: &str,
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
        let info: String = connection.command(&cmd("INFO")).await?;
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        self.info = lines
            .filter(|(name, _)| INFO.contains(name))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let config = config(connection).await;
        self.save = config.get("save").cloned();
        self.open = !has_password(url) && (!is_local(url.expose()) || accepts_other_machines(&config));
        let mut set = cmd("SET");
        set.arg(format!("{prefix}tradebot-symbols:doctor:probe"))
            .arg(1)
            .arg("PX")
            .arg(2000);
        self.write_trouble = connection.command::<()>(&set).await.err().map(Into::into);
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
    match Url::parse(url).ok().as_ref().and_then(Url::host) {
        Some(url::Host::Domain(name)) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        // A unix socket.
        None => true,
    }
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
