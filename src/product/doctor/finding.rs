//! Kinds of findings with their stable codes, and the finding itself.

use serde::Serialize;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong, but something could be better.
    Note,
    /// Something is degraded, or will fail later.
    Warning,
    /// Users or trades are affected now, or by the next failure.
    Critical,
}

impl Severity {
    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A kind of finding. The meaning of a code never changes.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FindingKind {
    /// The code, for scripts.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Why it matters.
    pub why: &'static str,
    /// What to do.
    #[serde(rename = "do")]
    pub remedy: &'static str,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its kind.
    #[serde(flatten)]
    pub kind: &'static FindingKind,
    /// A server, list, queue, variable, or other part.
    pub subject: String,
    /// The observation.
    pub what: String,
}

/// A finding without its subject.
pub(super) type Problem = (&'static FindingKind, String);

impl FindingKind {
    /// A finding of this kind.
    pub fn found(&'static self, subject: impl Into<String>, what: impl Into<String>) -> Finding {
        Finding {
            kind: self,
            subject: subject.into(),
            what: what.into(),
        }
    }
}

macro_rules! kinds {
    ($($severity:ident $name:ident $code:literal why $why:literal do $remedy:literal)*) => {
        $(pub(super) static $name: FindingKind = FindingKind {
            code: $code,
            severity: Severity::$severity,
            why: $why,
            remedy: $remedy,
        };)*

        /// All kinds.
        pub static KINDS: &[&FindingKind] = &[$(&$name),*];
    };
}

kinds! {
    Critical REDIS_UNREACHABLE "redis-unreachable"
        why "without this server no list is read or refreshed, or no task runs"
        do "start the server, or correct its URL and the network between"
    Critical REDIS_AUTH "redis-auth-refused"
        why "nothing can be read or written with these credentials"
        do "put the server's user and password into the URL"
    Critical REDIS_READ_ONLY "redis-read-only"
        why "a replica accepts no writes: no refresh and no task works"
        do "point the URL at the primary, or finish the failover"
    Critical REDIS_FULL "redis-full"
        why "the server refuses writes: lists go stale and senders lose their tasks"
        do "raise maxmemory, or delete what fills it: results without expiry, queues without a worker"
    Critical REDIS_DISK "redis-disk-trouble"
        why "the server refuses writes while it cannot save to its disk"
        do "free the disk or correct its permissions; `INFO persistence` shows what failed"
    Critical REDIS_REFUSES "redis-refuses"
        why "the server does not run commands that the service needs"
        do "read the server's answer, and grant the right that it names; docs/redis.md lists all rights"
    Warning REDIS_UNCHECKED "redis-unchecked"
        why "the server's memory, eviction, persistence and clients are not checked"
        do "grant this user `info`, and `config|get` for its save points"
    Warning REDIS_SLOW "redis-slow"
        why "it delays every read of a list and every task"
        do "look for a slow network, a busy server (`SLOWLOG GET`) or a machine that swaps"
    Critical REDIS_MAY_EVICT "redis-may-evict"
        why "when memory runs short the server silently deletes queues, bindings and lists"
        do "set maxmemory-policy to noeviction, and watch the memory"
    Warning REDIS_MEMORY "redis-memory-high"
        why "soon the server refuses writes, or evicts keys"
        do "raise maxmemory, or find what grows with `redis-cli --bigkeys`"
    Warning REDIS_NOT_PERSISTENT "redis-not-persistent"
        why "a restart of the server loses every queued task and the last good lists"
        do "turn appendonly on, or set save points"
    Warning REDIS_PERSISTENCE_FAILING "redis-persistence-failing"
        why "a restart loses everything written since the last save"
        do "free the disk or correct its permissions; `INFO persistence` shows what failed"
    Critical REDIS_WITHOUT_PASSWORD "redis-without-password"
        why "anyone who reaches the port can place orders by putting tasks into the queue"
        do "set a password (requirepass or ACL) and put it into the URLs, or bind the server to loopback"
    Warning REDIS_CLIENTS "redis-clients-high"
        why "at the limit the server refuses new connections, those of workers too"
        do "raise maxclients, or find out with `CLIENT LIST` which program leaks connections"
    Warning CLOCK_SKEW "clock-skew"
        why "expiries, schedules and signed requests need clocks that agree"
        do "run a time service on both machines"
    Critical LIST_MISSING "list-missing"
        why "readers have nothing to fall back on: every request goes to the exchange or fails"
        do "run the warm-up once, and see the findings about workers, beats and the exchange"
    Critical LIST_EXPIRED "list-expired"
        why "readers miss: every request goes to the exchange, and gets an old list if that fails"
        do "see the findings about workers, beats and the exchange; a longer lifetime bridges failures"
    Critical LIST_WRONG_TYPE "list-wrong-type"
        why "readers fail until the next refresh replaces it"
        do "find out which program wrote it, then run the warm-up: it replaces the list"
    Critical LIST_UNREADABLE "list-unreadable"
        why "readers fail, or show nothing"
        do "find out which program wrote it, then run the warm-up: it replaces the list"
    Critical LIST_EMPTY "list-empty"
        why "every read counts as a miss, and front ends delete watch-list entries that are not listed"
        do "run the warm-up; if a Python worker writes empty lists, leave the warm-ups to this one"
    Critical LIST_LACKS_ANCHORS "list-lacks-anchors"
        why "a list without the largest assets is truncated or foreign, and front ends delete what it lacks"
        do "compare it with the exchange, then run the warm-up"
    Critical LIST_WRONG_NETWORK "list-wrong-network"
        why "users see the symbols of another network than the configured one"
        do "give all writers the same TESTNET_URL, then run the warm-up"
    Critical LIST_SANDBOX "list-of-the-sandbox"
        why "nothing in it is real, and front ends delete watch-list entries that it lacks"
        do "point the sandbox's programs at another Redis, delete the list's keys, then run the warm-up"
    Critical LIST_FOREIGN_BAD "list-of-another-program"
        why "Python's readers get it, and front ends delete watch-list entries that it lacks"
        do "run the warm-up, which restores the list; then leave the warm-ups to this system: -Q and task_routes, see docs/take-over.md"
    Warning LISTS_REFUSED "lists-refused"
        why "another program writes bad lists; readers outside this system get each of them until it is restored"
        do "leave the warm-ups to this system: a queue of their own (-Q and task_routes), see docs/take-over.md"
    Warning LIST_HELD_BACK "list-held-back"
        why "the exchange's list looks wrong, and is not written until a second answer confirms it"
        do "wait for the next refresh; if the market really changed, it is confirmed, else look at the exchange's announcements"
    Warning WARMUPS_FAILING "warmups-failing"
        why "only refreshes for readers keep the list alive; without readers it goes stale"
        do "see the reason, the worker's log, and the findings about workers, beats and the exchange"
    Warning LIST_STALE "list-stale"
        why "refreshes fall behind the schedule: listings and delistings are missed"
        do "check that the beat sends, a worker runs and the exchange answers; worker logs say why a run failed"
    Warning LIST_AGE_UNKNOWN "list-age-unknown"
        why "the age of the list is unknown"
        do "delete the key if it holds something else; the next refresh writes it"
    Warning LIST_NEVER_EXPIRES "list-never-expires"
        why "if refreshes stop, the list is served as fresh for ever"
        do "run the warm-up; another writer seems to use another lifetime"
    Warning REFRESH_IN_FUTURE "refresh-in-the-future"
        why "the clock of the worker that wrote it is ahead, or the key was written by hand"
        do "run a time service on the worker's machine"
    Warning LAST_GOOD_MISSING "last-good-missing"
        why "when the exchange is down there is nothing to serve"
        do "run the warm-up: it writes both lists"
    Critical LAST_GOOD_UNREADABLE "last-good-unreadable"
        why "when the exchange is down readers fail instead of serving the last good list"
        do "run the warm-up: it replaces the list"
    Critical LAST_GOOD_EMPTY "last-good-empty"
        why "when the exchange is down users get an empty list, and front ends delete what it lacks"
        do "run the warm-up: it replaces the list"
    Warning COUNTER_UNUSABLE "counter-unusable"
        why "nothing is counted here; reads and refreshes go on"
        do "delete the key: it is created again"
    Warning KEY_UNUSABLE "key-unusable"
        why "another program writes to keys of this system; a refresh replaces them or passes them over"
        do "find out which program wrote it, then delete the key: it is created again when it is needed"
    Warning CACHE_MISSES "cache-misses-high"
        why "every miss is a call to the exchange, which bans clients that call too often"
        do "give the lists a longer lifetime than the interval, and keep the schedule running"
    Warning REFRESHES_FAILING "refreshes-failing"
        why "lists go stale, then expire"
        do "look at the worker's log: it has the reason of each failed run"
    Critical QUEUE_WRONG_TYPE "queue-wrong-type"
        why "no task can be sent or consumed"
        do "find out which program wrote it, then delete the key"
    Warning QUEUE_LONG "queue-long"
        why "tasks, trades among them, start late"
        do "add workers, or find out what is slow; `celery inspect active` shows what runs"
    Warning QUEUE_STUCK "queue-stuck"
        why "no worker takes the oldest message: its task, and all behind it, start late or never"
        do "find the worker that should take it, and check whether it is busy or gone"
    Warning BINDING_MISSING "binding-missing"
        why "clients that publish through the exchange find no queue (`Table empty`)"
        do "restart a worker of the queue, which binds it again; a server that evicts deletes bindings"
    Warning UNACKED_OLD "unacked-old"
        why "its worker is gone or hangs; the message runs again only after the visibility timeout"
        do "find the worker that took it; workers of this system restore each other's messages in seconds"
    Critical UNACKED_LOST "unacked-unindexed"
        why "no worker will ever restore these messages"
        do "put them back by hand: the records in the hash hold the messages"
    Warning PARKED "messages-parked"
        why "these tasks did not run, and will not until you replay them"
        do "run `tradebot-symbols parked list`, then `parked replay` or `parked drop`"
    Critical NO_WORKER "no-worker"
        why "warm-ups wait in the queue, and the lists expire"
        do "start a worker: tradebot-symbols worker"
    Warning WORKER_SILENT "worker-silent"
        why "it renews its lease, but its task loop is blocked or remote control does not reach it"
        do "look at its log, then restart it"
    Warning DUPLICATE_NODE "duplicate-node-name"
        why "remote control and monitors take both for one"
        do "give each worker a different name: -n symbols1@%h"
    Critical WORKER_DISCARDS "worker-discards-warmups"
        why "it consumes warm-ups and answers them with NotRegistered: those slots are lost"
        do "give it the warm-up module, or give the warm-ups another queue (-Q of beat and worker)"
    Warning WARMUPS_UNGUARDED "warmups-by-python"
        why "it writes any answer of the exchange, empty and halved ones too, over the list and the last-good list"
        do "give the warm-ups a queue of their own: -Q of beat and worker, task_routes on the Python side, see docs/take-over.md"
    Note TWO_WRITERS "list-has-two-writers"
        why "another program writes this list beside the workers of this system; its lists are judged, and good ones kept"
        do "leave the warm-ups and the two routes to this system, see docs/take-over.md"
    Critical LISTS_UNREAD "lists-unread"
        why "no worker of ours reads these lists, so their messages wait for ever: clients have other priority_steps or sep"
        do "set CELERY_PRIORITY_STEPS and CELERY_SEP to the clients' priority_steps and sep"
    Critical BINDINGS_UNREADABLE "bindings-unreadable"
        why "clients with one sep raise ValueError when they publish through an exchange with bindings in another"
        do "set CELERY_SEP to the Python side's sep, stop all workers of the queue, delete the key, start them again"
    Critical UNSERVED "messages-unserved"
        why "tasks wait that no worker knows; trades may be among them"
        do "start the Python workers that run them"
    Warning NO_BEAT "no-beat"
        why "no beat of this system sends the warm-ups; a Celery beat leaves no trace in Redis and cannot be seen"
        do "start tradebot-beat; if another beat sends the warm-ups, say so with --foreign-beat"
    Warning BEAT_STALLED "beat-stalled"
        why "it runs but does not send"
        do "look at its log, then restart it"
    Critical EXCHANGE_UNREACHABLE "exchange-unreachable"
        why "no list of this market can be refreshed"
        do "check name resolution, firewall and proxy, or wait for the exchange"
    Warning EXCHANGE_HOST_UNREACHABLE "exchange-host-unreachable"
        why "there is one host fewer to fall back on, and each refresh loses time if it comes first"
        do "check the address, or remove it from the list"
    Critical EXCHANGE_BANNED "exchange-banned"
        why "the exchange refuses this address until the ban ends, and prolongs it if calls go on"
        do "wait, and find out what calls so often: cache misses, other programs at the same address"
    Critical EXCHANGE_REFUSES "exchange-refuses"
        why "the exchange does not serve this location"
        do "use hosts or a network exit that the exchange serves; unless the hosts are others then, also delete the key cache:symbols:MARKET:ban:NETWORK before the restart, or wait ten minutes"
    Warning ENDPOINT_UNREACHABLE "endpoint-unreachable"
        why "readers of the HTTP routes get no answer"
        do "start it, or correct HTTP_LISTEN and HTTP_ADMIN_LISTEN"
    Warning ENDPOINT_NOT_READY "endpoint-not-ready"
        why "load balancers take it out of service"
        do "see the reasons in its answer"
    Critical DATABASE_UNREACHABLE "database-unreachable"
        why "users with their own keys are served as anonymous"
        do "start the server, or correct DATABASE_URL and the network between"
    Critical DATABASE_REFUSES "database-refuses"
        why "users with their own keys are served as anonymous"
        do "correct user, password and database in DATABASE_URL; the user needs SELECT on users and api_keys"
    Critical DATABASE_OTHER_TABLES "database-other-tables"
        why "users with their own keys are served as anonymous"
        do "point DATABASE_URL at the deployment's database"
    Warning TTL_BELOW_INTERVAL "ttl-below-interval"
        why "each list expires before the next one arrives: readers miss in every cycle"
        do "set a lifetime of three intervals, which bridges two failed refreshes"
    Note TTL_EQUALS_INTERVAL "ttl-equals-interval"
        why "one late refresh and readers miss; these are the defaults"
        do "set a lifetime of three intervals, which bridges two failed refreshes"
    Warning TTL_NEVER "ttl-never"
        why "if refreshes stop, the list is served as fresh for ever"
        do "set a lifetime of three intervals"
    Warning SCHEDULE_OFF "schedule-off"
        why "no beat refreshes this list"
        do "set the interval, 300 seconds for example"
    Critical VISIBILITY_SHORT "visibility-below-time-limit"
        why "a second worker gets a task that is still running: orders are placed twice"
        do "set CELERY_VISIBILITY_TIMEOUT, here and in the Python workers, well above the hard limit"
    Warning SOFT_LIMIT "soft-limit-not-below-hard"
        why "tasks are killed without the time to clean up that the soft limit gives"
        do "set the soft limit some seconds below the hard one"
    Warning RESULTS_FOREVER "results-kept-forever"
        why "results fill the server's memory"
        do "set CELERY_RESULT_EXPIRES, 86400 for example"
    Warning TESTNET_IN_PRODUCTION "testnet-in-production"
        why "users of the real exchange see the testnet's symbols"
        do "set TESTNET_URL=false"
    Warning UPSTREAM_PLAIN "upstream-unencrypted"
        why "anyone on the way can change the list and read signed requests"
        do "use https://"
    Critical SETTING_UNUSABLE "setting-unusable"
        why "a program that reads this variable does not start"
        do "correct the value"
    Warning NAME_UNKNOWN "variable-unknown"
        why "a misspelt variable is ignored without a word, and the default applies"
        do "correct the name, or remove the variable"
    Note USER_LISTS_OFF "user-lists-off"
        why "users with their own keys are served as anonymous; in production the endpoint does not start"
        do "set the key to the Python system's value, or remove DATABASE_URL"
    Warning KEY_WEAK "key-weak"
        why "anyone may guess it, and sign tokens or decrypt exchange keys; in production the endpoint does not start"
        do "set a random value, here and in the Python system"
    Critical SECRET_KEY "secret-key-unsafe"
        why "anyone who knows the key can sign tokens for any user"
        do "set SECRET_KEY to at least 32 random characters"
    Critical FERNET_KEY "fernet-key-unusable"
        why "stored exchange keys cannot be decrypted"
        do "set FERNET_KEY to the key that encrypted them: 44 characters of base64"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_spelled_alike() {
        let mut codes: Vec<_> = KINDS.iter().map(|kind| kind.code).collect();
        let is_code = |code: &&str| code.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(codes.iter().all(is_code));
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), KINDS.len());
    }
}
