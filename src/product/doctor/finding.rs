//! What the doctor can find: a table of kinds with stable codes, and one finding of a kind.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something works worse than it could, or will fail later.
    Warning,
    /// Users or trades are affected, or will be by the next mishap.
    Critical,
}

impl Severity {
    /// The word for it in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A kind of finding. Codes never change their meaning.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Stable name, for scripts.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// See [`Kind::code`].
    pub code: &'static str,
    /// See [`Kind::severity`].
    pub severity: Severity,
    /// What it is about: a server, a list, a queue, a variable.
    pub subject: String,
    /// What was seen.
    pub what: String,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    #[serde(rename = "do")]
    pub remedy: &'static str,
}

impl Kind {
    /// A finding of this kind.
    pub fn found(&self, subject: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding {
            code: self.code,
            severity: self.severity,
            subject: subject.into(),
            what: what.into(),
            why: self.why,
            remedy: self.remedy,
        }
    }
}

const fn critical(code: &'static str, why: &'static str, remedy: &'static str) -> Kind {
    Kind {
        code,
        severity: Severity::Critical,
        why,
        remedy,
    }
}

const fn warning(code: &'static str, why: &'static str, remedy: &'static str) -> Kind {
    Kind {
        code,
        severity: Severity::Warning,
        why,
        remedy,
    }
}

macro_rules! kinds {
    ($($name:ident = $kind:expr;)*) => {
        $(pub(super) const $name: Kind = $kind;)*

        /// Every kind there is.
        pub const KINDS: &[Kind] = &[$($kind),*];
    };
}

kinds! {
    REDIS_UNREACHABLE = critical(
        "redis-unreachable",
        "without it no list is read or refreshed, or no task runs",
        "start the server, or correct its URL and the network between",
    );
    REDIS_AUTH = critical(
        "redis-auth-refused",
        "nothing can be read or written with these credentials",
        "put the server's user and password into the URL",
    );
    REDIS_READ_ONLY = critical(
        "redis-read-only",
        "a replica takes no writes: no refresh and no task works",
        "point the URL at the primary, or finish the failover",
    );
    REDIS_FULL = critical(
        "redis-full",
        "the server refuses writes: lists get stale and tasks are lost to their senders",
        "raise maxmemory, or delete what fills it: results without expiry, queues that nobody serves",
    );
    REDIS_DISK = critical(
        "redis-disk-trouble",
        "the server refuses writes while it cannot save to its disk",
        "free the disk or correct its permissions; `INFO persistence` tells what failed",
    );
    REDIS_REFUSES = critical(
        "redis-refuses",
        "commands that the service needs are not carried out",
        "read the server's answer; a restricted user needs the rights that the README lists",
    );
    REDIS_SLOW = warning(
        "redis-slow",
        "every read of a list and every task waits for it",
        "look for a slow network, a busy server (`SLOWLOG GET`) or a machine that swaps",
    );
    REDIS_MAY_EVICT = critical(
        "redis-may-evict",
        "when memory is short the server deletes queues, bindings and lists without a word",
        "set maxmemory-policy to noeviction, and watch the memory",
    );
    REDIS_MEMORY = warning(
        "redis-memory-high",
        "soon writes are refused, or keys are evicted",
        "raise maxmemory, or find what grows with `redis-cli --bigkeys`",
    );
    REDIS_NOT_PERSISTENT = warning(
        "redis-not-persistent",
        "a restart of the server loses every queued task and the last good lists",
        "turn appendonly on, or set save points",
    );
    REDIS_PERSISTENCE_FAILING = warning(
        "redis-persistence-failing",
        "what was written since the last save is lost by a restart",
        "free the disk or correct its permissions; `INFO persistence` tells what failed",
    );
    REDIS_WITHOUT_PASSWORD = critical(
        "redis-without-password",
        "whoever reaches the port can place orders by putting tasks into the queue",
        "set a password (requirepass or ACL) and put it into the URLs, or bind the server to loopback",
    );
    REDIS_CLIENTS = warning(
        "redis-clients-high",
        "at the limit new connections are refused, those of workers too",
        "raise maxclients, or find who leaks connections with `CLIENT LIST`",
    );
    CLOCK_SKEW = warning(
        "clock-skew",
        "expiries, schedules and signed requests go by clocks that agree",
        "run a time service on both machines",
    );
    LIST_MISSING = critical(
        "list-missing",
        "readers have nothing to fall back on: every request goes to the exchange or fails",
        "run the warm-up once, and see the findings about workers, beats and the exchange",
    );
    LIST_EXPIRED = critical(
        "list-expired",
        "readers miss: every request goes to the exchange, and gets an old list if that fails",
        "see the findings about workers, beats and the exchange; a longer lifetime bridges failures",
    );
    LIST_WRONG_TYPE = critical(
        "list-wrong-type",
        "readers fail, and a refresh cannot write",
        "find out who wrote it, then delete the key: the next refresh makes it anew",
    );
    LIST_UNREADABLE = critical(
        "list-unreadable",
        "readers fail, or show nothing",
        "find out who wrote it, then run the warm-up: it replaces the list",
    );
    LIST_EMPTY = critical(
        "list-empty",
        "every read counts as a miss, and front ends delete watch-list entries that are not listed",
        "run the warm-up; a Python worker that writes empty lists should leave the warm-ups to this one",
    );
    LIST_LACKS_ANCHORS = critical(
        "list-lacks-anchors",
        "a list without the largest assets is cut or foreign, and front ends delete what it lacks",
        "compare with the exchange, then run the warm-up",
    );
    LIST_WRONG_NETWORK = critical(
        "list-wrong-network",
        "users see symbols of another network than the one that is configured",
        "give all writers the same TESTNET_URL, then run the warm-up",
    );
    LIST_STALE = warning(
        "list-stale",
        "the schedule is not followed: listings and delistings are missed",
        "see whether the beat sends, a worker takes and the exchange answers; worker logs tell why a run failed",
    );
    LIST_AGE_UNKNOWN = warning(
        "list-age-unknown",
        "nobody can tell how old the list is",
        "delete the key if it holds something else; the next refresh writes it",
    );
    LIST_NEVER_EXPIRES = warning(
        "list-never-expires",
        "when refreshes stop the list is served as fresh for ever",
        "run the warm-up; another writer seems to have another lifetime configured",
    );
    REFRESH_IN_FUTURE = warning(
        "refresh-in-the-future",
        "the clock of the worker that wrote it is ahead, or the key was written by hand",
        "run a time service on the worker's machine",
    );
    LAST_GOOD_MISSING = warning(
        "last-good-missing",
        "when the exchange is down there is nothing to serve",
        "run the warm-up: it writes both",
    );
    LAST_GOOD_UNREADABLE = critical(
        "last-good-unreadable",
        "when the exchange is down readers fail instead of serving the last good list",
        "run the warm-up: it replaces the list",
    );
    LAST_GOOD_EMPTY = critical(
        "last-good-empty",
        "when the exchange is down users get an empty list, and front ends delete what it lacks",
        "run the warm-up: it replaces the list",
    );
    COUNTER_UNUSABLE = warning(
        "counter-unusable",
        "counting fails, and with it the refresh or the read that counts",
        "delete the key: it is made anew",
    );
    CACHE_MISSES = warning(
        "cache-misses-high",
        "every miss is a call to the exchange, which bans those who call too often",
        "give the lists a longer lifetime than the interval, and keep the schedule running",
    );
    REFRESHES_FAILING = warning(
        "refreshes-failing",
        "lists get stale, then expire",
        "the logs of the worker name the reason of each failed run",
    );
    QUEUE_WRONG_TYPE = critical(
        "queue-wrong-type",
        "no task can be sent or taken",
        "find out who wrote it, then delete the key",
    );
    QUEUE_LONG = warning(
        "queue-long",
        "tasks, trades among them, start late",
        "add workers, or find out what is slow; `celery inspect active` tells what runs",
    );
    QUEUE_STUCK = warning(
        "queue-stuck",
        "the oldest message is not taken: its task, and all behind it, start late or never",
        "see which worker should take it, and whether it is busy or gone",
    );
    BINDING_MISSING = warning(
        "binding-missing",
        "clients that publish through the exchange find no queue (`Table empty`)",
        "restart a worker of the queue, which binds it anew; an evicting server deletes bindings",
    );
    UNACKED_OLD = warning(
        "unacked-old",
        "its worker is gone or hangs; it runs again only after the visibility timeout",
        "look which worker took it; a worker of this system restores those of its own kind in seconds",
    );
    UNACKED_LOST = critical(
        "unacked-unindexed",
        "nobody will ever restore these messages",
        "put them back by hand: the records in the hash hold the messages",
    );
    PARKED = warning(
        "messages-parked",
        "these tasks did not run, and will not by themselves",
        "tradebot-symbols parked list, then parked replay or parked drop",
    );
    NO_WORKER = critical(
        "no-worker",
        "warm-ups wait in the queue, and the lists expire",
        "start a worker: tradebot-symbols worker",
    );
    WORKER_SILENT = warning(
        "worker-silent",
        "its lease is renewed, but its task loop is blocked or remote control is cut off",
        "look at its log, then restart it",
    );
    DUPLICATE_NODE = warning(
        "duplicate-node-name",
        "remote control and monitors take both for one",
        "give each worker a name of its own: -n symbols1@%h",
    );
    WORKER_DISCARDS = critical(
        "worker-discards-warmups",
        "it takes warm-ups from the queue and answers them with NotRegistered: those slots are lost",
        "give it the warm-up module, or the warm-ups a queue of their own (-Q of beat and worker)",
    );
    UNSERVED = critical(
        "messages-unserved",
        "tasks wait that no worker knows; trades may be among them",
        "start the Python workers that run them",
    );
    NO_BEAT = warning(
        "no-beat",
        "nobody sends the warm-ups. A Celery beat leaves no trace in Redis and cannot be seen from here",
        "start tradebot-beat; if another beat sends the warm-ups, say so with --foreign-beat",
    );
    BEAT_STALLED = warning(
        "beat-stalled",
        "it lives and does not send",
        "look at its log, then restart it",
    );
    EXCHANGE_UNREACHABLE = critical(
        "exchange-unreachable",
        "no list of this market can be refreshed",
        "check name resolution, firewall and proxy, or wait for the exchange",
    );
    EXCHANGE_HOST_UNREACHABLE = warning(
        "exchange-host-unreachable",
        "one host fewer to fall back on, and time lost at each refresh if it comes first",
        "check the address, or take it out of the list",
    );
    EXCHANGE_BANNED = critical(
        "exchange-banned",
        "the exchange answers nobody at this address until the ban ends, and prolongs it for those who go on",
        "wait, and find out what calls so often: misses of the cache, other programs at the same address",
    );
    EXCHANGE_REFUSES = critical(
        "exchange-refuses",
        "the exchange does not serve this place",
        "use hosts or an exit that the exchange serves",
    );
    ENDPOINT_UNREACHABLE = warning(
        "endpoint-unreachable",
        "readers of the HTTP routes get no answer",
        "start it, or correct HTTP_LISTEN",
    );
    ENDPOINT_NOT_READY = warning(
        "endpoint-not-ready",
        "load balancers take it out of service",
        "its answer names the reasons",
    );
    DATABASE_UNREACHABLE = critical(
        "database-unreachable",
        "users with keys of their own are served as anonymous",
        "start the server, or correct DATABASE_URL and the network between",
    );
    DATABASE_REFUSES = critical(
        "database-refuses",
        "users with keys of their own are served as anonymous",
        "correct user, password and database in DATABASE_URL; the user needs SELECT on users and api_keys",
    );
    DATABASE_OTHER_TABLES = critical(
        "database-other-tables",
        "users with keys of their own are served as anonymous",
        "point DATABASE_URL at the deployment's database",
    );
    TTL_NOT_ABOVE_INTERVAL = warning(
        "ttl-not-above-interval",
        "each list expires just before the next one arrives: every cycle has a window of misses",
        "a lifetime of three intervals bridges two failed refreshes",
    );
    TTL_NEVER = warning(
        "ttl-never",
        "when refreshes stop the list is served as fresh for ever",
        "set a lifetime of three intervals",
    );
    SCHEDULE_OFF = warning(
        "schedule-off",
        "this list is refreshed by nobody but by chance",
        "set the interval, 300 seconds for example",
    );
    VISIBILITY_SHORT = critical(
        "visibility-below-time-limit",
        "a task that is still running is given to a second worker: orders are placed twice",
        "set CELERY_VISIBILITY_TIMEOUT, here and in the Python workers, well above the hard limit",
    );
    SOFT_LIMIT = warning(
        "soft-limit-not-below-hard",
        "tasks are ended without the time to clean up that the soft limit gives",
        "set the soft limit some seconds below the hard one",
    );
    RESULTS_FOREVER = warning(
        "results-kept-forever",
        "results fill the server's memory",
        "set CELERY_RESULT_EXPIRES, 86400 for example",
    );
    TESTNET_IN_PRODUCTION = warning(
        "testnet-in-production",
        "users of the real exchange are shown the testnet's symbols",
        "set TESTNET_URL=false",
    );
    UPSTREAM_PLAIN = warning(
        "upstream-unencrypted",
        "whoever is on the way can change the list, and read signed requests",
        "use https://",
    );
    SECRET_KEY = critical(
        "secret-key-unsafe",
        "whoever knows the key signs tokens of any user",
        "set SECRET_KEY to at least 32 random characters",
    );
    FERNET_KEY = critical(
        "fernet-key-unusable",
        "stored exchange keys cannot be decrypted",
        "set FERNET_KEY to the key that they were encrypted with: 44 characters of base64",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_spelled_alike() {
        let mut codes: Vec<_> = KINDS.iter().map(|kind| kind.code).collect();
        assert!(
            codes
                .iter()
                .all(|code| code.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        );
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KINDS.len());
    }
}
