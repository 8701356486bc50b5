//! The replies to `inspect stats` and `inspect report`.

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde_json::{Value, json};
use url::Url;

use super::node::Node;
use tradebot_base::secret::RedisUrl;
use tradebot_wire::python_repr;

/// The release of Celery that this worker follows.
const CELERY: &str = "5.7.0";

/// The broker's URL without its password.
#[derive(Debug, Clone, Default)]
pub struct BrokerInfo {
    transport: String,
    hostname: String,
    port: Option<u16>,
    userid: Option<String>,
    virtual_host: String,
    alternates: Vec<String>,
}

impl BrokerInfo {
    /// Takes a URL apart; of several servers the first is shown, the rest are alternates.
    #[must_use]
    pub fn of(url: &RedisUrl) -> Self {
        let shown = url.to_string();
        let mut servers = url.expose().split(';');
        let parsed = servers.next().and_then(|first| Url::parse(first).ok());
        let Some(parsed) = parsed else {
            return Self::default();
        };
        let userid = Some(parsed.username().to_owned()).filter(|user| !user.is_empty());
        let last = shown.rsplit(';').next().and_then(|last| Url::parse(last).ok());
        let path = last
            .as_ref()
            .unwrap_or(&parsed)
            .path()
            .trim_matches('/')
            .to_owned();
        Self {
            transport: parsed.scheme().to_owned(),
            hostname: parsed
                .host_str()
                .map_or_else(|| parsed.path().to_owned(), str::to_owned),
            port: parsed.port().or(Some(6379)),
            userid,
            virtual_host: if path.is_empty() { "0".to_owned() } else { path },
            alternates: shown.split(';').skip(1).map(str::to_owned).collect(),
        }
    }

    fn shown(&self) -> Value {
        json!({
            "hostname": self.hostname, "userid": self.userid, "virtual_host": self.virtual_host,
            "port": self.port, "insist": false, "ssl": self.transport == "rediss",
            "transport": self.transport, "connect_timeout": 4, "transport_options": {},
            "login_method": null, "uri_prefix": null, "heartbeat": 120.0,
            "failover_strategy": "round-robin", "alternates": self.alternates, "credential_provider": null,
        })
    }
}

impl Node {
    pub(super) fn stats(&self) -> Value {
        let engine = self.engine();
        let concurrency = engine.pool().concurrency();
        let limit = |limit: Option<std::time::Duration>| limit.map_or(0.0, |limit| limit.as_secs_f64());
        let limits = engine.settings().limits;
        let processed = engine.events().processed();
        let share = if processed > 0 { "1.00" } else { "0.00" };
        json!({
            "total": engine.totals(),
            "pid": std::process::id(),
            "clock": engine.lamport().value().to_string(),
            "uptime": self.started.elapsed().as_secs(),
            "pool": {
                "implementation": "tradebot_symbols.core.engine:Engine",
                "max-concurrency": concurrency,
                "processes": [std::process::id()],
                "max-tasks-per-child": "N/A",
                "put-guarded-by-semaphore": true,
                "timeouts": [limit(limits.soft), limit(limits.hard)],
                "writes": {
                    "total": processed, "avg": share, "all": share, "raw": processed.to_string(),
                    "strategy": "fair", "inqueues": {"total": 1, "active": 0},
                },
            },
            "broker": self.settings.broker.shown(),
            // No more is taken than can run, beside what waits for its time.
            "prefetch_count": concurrency + engine.waiting(),
            "rusage": rusage(),
        })
    }

    pub(super) fn report(&self) -> String {
        let mut text = format!(
            "\nsoftware -> celery:{CELERY} (tradebot-symbols:{})\nplatform -> system:{} arch:{}\n\
             loader   -> none\nsettings -> transport:{} results:{}\n\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
            self.settings.broker.transport,
            self.results.connection().place(),
        );
        for (name, value) in &self.settings.conf {
            text.push_str(&format!(
                "{name}: {}\n",
                python_repr::plain(std::slice::from_ref(value))
            ));
        }
        text
    }
}

/// The system's account of this process, in the members of Python's `resource.getrusage`.
fn rusage() -> Value {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return json!("N/A");
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "microseconds of processor time fit in 53 bits for 285 years"
    )]
    let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
    json!({
        "utime": seconds(usage.user_time()), "stime": seconds(usage.system_time()),
        "maxrss": usage.max_rss(), "ixrss": usage.shared_integral(),
        "idrss": usage.unshared_data_integral(), "isrss": usage.unshared_stack_integral(),
        "minflt": usage.minor_page_faults(), "majflt": usage.major_page_faults(),
        "nswap": usage.full_swaps(), "inblock": usage.block_reads(), "oublock": usage.block_writes(),
        "msgsnd": usage.ipc_sends(), "msgrcv": usage.ipc_receives(), "nsignals": usage.signals(),
        "nvcsw": usage.voluntary_context_switches(), "nivcsw": usage.involuntary_context_switches(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_broker_is_shown_without_its_password() {
        for (url, host, port, database) in [
            ("redis://h", "h", 6379, "0"),
            ("redis://user:canary@h:7000/3", "h", 7000, "3"),
            (
                "sentinel://:canary@a:26379;sentinel://:canary@b:1/6",
                "a",
                26379,
                "6",
            ),
        ] {
            let shown = BrokerInfo::of(&RedisUrl::new(url)).shown();
            assert_eq!(
                (&shown["hostname"], &shown["port"], &shown["virtual_host"]),
                (&json!(host), &json!(port), &json!(database))
            );
            assert!(!shown.to_string().contains("canary"), "{shown}");
        }
    }
}
