//! The Redis servers: whether they can be reached and written to, and how they are set up.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use redis::cmd;
use serde::Serialize;
use url::Url;

use super::finding::{self, Finding, Kind};
use super::settings::is_local;
use super::{PROBE_TIMEOUT, Trouble, ask, ask_all};
use tradebot_base::clock::Clock;
use tradebot_base::connection::Connection;
use tradebot_base::secret::RedisUrl;

/// From how many seconds on clocks disagree. A probe takes its time itself.
const SKEW_SECONDS: f64 = 5.0;
const SLOW_MS: f64 = 150.0;
const PINGS: usize = 3;

/// What one server says of itself.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Server {
    /// What it is used for: `cache`, `broker`, `results`.
    pub roles: Vec<&'static str>,
    /// Its URL, without secrets.
    pub place: String,
    /// Why it could not be asked.
    pub trouble: Option<Trouble>,
    /// Why a write was refused.
    pub write_trouble: Option<Trouble>,
    /// The fastest of a few round trips, in milliseconds.
    pub ping_ms: f64,
    /// How far its clock is ahead of ours, in seconds.
    pub clock_ahead_seconds: f64,
    /// Whether it can be reached from elsewhere and asks nobody for a password.
    pub open: bool,
    /// Version, memory, clients and persistence, by the names that `INFO` has for them.
    pub info: BTreeMap<String, String>,
    /// Save points; absent when the server does not tell.
    pub save: Option<String>,
}

/// What of `INFO` is kept.
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

impl Server {
    /// Asks the server at `url`; whatever it does, an answer comes within the probe's time.
    pub(super) async fn look(role: &'static str, url: &RedisUrl, prefix: &str, clock: &dyn Clock) -> Self {
        let mut server = Self {
            roles: vec![role],
            place: url.to_string(),
            ..Self::default()
        };
        let connection = match Connection::new(url, "doctor") {
            Ok(connection) => connection,
            Err(trouble) => {
                server.trouble = Some(trouble.into());
                return server;
            }
        };
        let looked = tokio::time::timeout(PROBE_TIMEOUT, server.fill(&connection, url, prefix, clock)).await;
        server.trouble = match looked {
            Ok(Ok(())) => None,
            Ok(Err(trouble)) => Some(trouble),
            Err(_) => Some(Trouble::timeout()),
        };
        server
    }

    async fn fill(
        &mut self,
        connection: &Connection,
        url: &RedisUrl,
        prefix: &str,
        clock: &dyn Clock,
    ) -> Result<(), Trouble> {
        let mut fastest = f64::MAX;
        for _ in 0..PINGS {
            let started = Instant::now();
            ask::<String>(connection, &cmd("PING")).await?;
            fastest = fastest.min(started.elapsed().as_secs_f64() * 1e3);
        }
        self.ping_ms = fastest;
        let ours = clock.unix_seconds();
        let (seconds, micros): (f64, f64) = ask(connection, &cmd("TIME")).await?;
        let passed = clock.unix_seconds() - ours;
        self.clock_ahead_seconds = seconds + micros / 1e6 - (ours + passed / 2.0);
        let info: String = ask(connection, &cmd("INFO")).await?;
        let lines = info.lines().filter_map(|line| line.split_once(':'));
        self.info = lines
            .filter(|(name, _)| INFO.contains(name))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let config = Self::config(connection).await;
        self.save = config.get("save").cloned();
        self.open = !has_password(url) && (!is_local(url.expose()) || listens_to_all(&config));
        let mut set = cmd("SET");
        set.arg(format!("{prefix}tradebot-symbols:doctor:probe"))
            .arg(1)
            .arg("PX")
            .arg(2000);
        self.write_trouble = ask::<()>(connection, &set).await.err();
        Ok(())
    }

    /// Settings, as far as the server tells them: hosted ones do not.
    async fn config(connection: &Connection) -> HashMap<String, String> {
        let mut pipeline = redis::pipe();
        for name in ["save", "bind", "protected-mode"] {
            pipeline.cmd("CONFIG").arg("GET").arg(name);
        }
        let found: Result<Vec<HashMap<String, String>>, _> = ask_all(connection, &pipeline).await;
        found.unwrap_or_default().into_iter().flatten().collect()
    }

    fn number(&self, name: &str) -> Option<f64> {
        self.info.get(name)?.parse().ok()
    }

    fn says(&self, name: &str, value: &str) -> bool {
        self.info.get(name).is_some_and(|found| found == value)
    }

    /// Whether two URLs led to the same process.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        match (self.info.get("run_id"), other.info.get("run_id")) {
            (Some(one), Some(other)) => one == other,
            _ => self.place == other.place,
        }
    }

    /// What is wrong with it.
    pub(super) fn judge(&self) -> Vec<Finding> {
        let subject = format!("{} {}", self.roles.join("+"), self.place);
        if let Some(trouble) = &self.trouble {
            return vec![kind_of(trouble, &finding::REDIS_UNREACHABLE).found(subject, &trouble.text)];
        }
        let mut found = Vec::new();
        let mut add = |kind: &Kind, what: String| found.push(kind.found(&subject, what));
        if let Some(trouble) = &self.write_trouble {
            add(kind_of(trouble, &finding::REDIS_REFUSES), trouble.text.clone());
        } else if [
            "aof_last_write_status",
            "aof_last_bgrewrite_status",
            "rdb_last_bgsave_status",
        ]
        .iter()
        .any(|name| self.says(name, "err"))
        {
            add(&finding::REDIS_PERSISTENCE_FAILING, "the last save failed".into());
        }
        if self.ping_ms > SLOW_MS {
            let what = format!("the fastest of {PINGS} round trips took {:.0} ms", self.ping_ms);
            add(&finding::REDIS_SLOW, what);
        }
        if self.clock_ahead_seconds.abs() > SKEW_SECONDS {
            let way = if self.clock_ahead_seconds > 0.0 {
                "ahead of"
            } else {
                "behind"
            };
            let by = self.clock_ahead_seconds.abs();
            add(
                &finding::CLOCK_SKEW,
                format!("its clock is {by:.0} s {way} this machine's"),
            );
        }
        if self.open {
            let what = "it asks for no password, and can be reached from other machines";
            add(&finding::REDIS_WITHOUT_PASSWORD, what.into());
        }
        found.extend(self.judge_capacity(&subject));
        found
    }

    fn judge_capacity(&self, subject: &str) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut add = |kind: &Kind, what: String| found.push(kind.found(subject, what));
        let limit = self.number("maxmemory").unwrap_or_default();
        let used = self.number("used_memory").unwrap_or_default();
        let policy = self.info.get("maxmemory_policy").map_or("", String::as_str);
        if limit > 0.0 && !policy.is_empty() && policy != "noeviction" {
            add(&finding::REDIS_MAY_EVICT, format!("maxmemory-policy is {policy}"));
        }
        let (bound, share, of) = if limit > 0.0 {
            (limit, 0.9, "maxmemory")
        } else {
            (
                self.number("total_system_memory").unwrap_or_default(),
                0.8,
                "the machine's memory",
            )
        };
        if self.write_trouble.is_none() && bound > 0.0 && used > bound * share {
            add(
                &finding::REDIS_MEMORY,
                format!("{:.0} % of {of} are used", used / bound * 100.0),
            );
        }
        let clients = self.number("connected_clients").unwrap_or_default();
        if let Some(most) = self.number("maxclients").filter(|most| clients > most * 0.8) {
            add(
                &finding::REDIS_CLIENTS,
                format!("{clients:.0} of at most {most:.0} clients are connected"),
            );
        }
        let volatile = self.says("aof_enabled", "0") && self.save.as_deref().is_some_and(str::is_empty);
        if volatile && self.roles.contains(&"broker") {
            let what = "it keeps its data in memory only: neither appendonly nor save points are set";
            add(&finding::REDIS_NOT_PERSISTENT, what.into());
        }
        found
    }
}

/// The kind that an answer of the server stands for.
fn kind_of<'k>(trouble: &Trouble, other: &'k Kind) -> &'k Kind {
    match trouble.code.as_deref() {
        Some("NOAUTH" | "WRONGPASS") => &finding::REDIS_AUTH,
        Some("READONLY") => &finding::REDIS_READ_ONLY,
        Some("OOM") => &finding::REDIS_FULL,
        Some("MISCONF") => &finding::REDIS_DISK,
        Some(_) => &finding::REDIS_REFUSES,
        None => other,
    }
}

/// Whether the URL brings a password; kombu takes it from the query, too.
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

/// Whether the server listens to other machines and takes whom they send.
fn listens_to_all(config: &HashMap<String, String>) -> bool {
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
