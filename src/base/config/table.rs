//! The list of all environment variables.

/// One environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// The value used when it is absent or empty.
    pub default: &'static str,
    /// Its meaning, for docs/configuration.md and the manual pages.
    pub meaning: &'static str,
}

macro_rules! variables {
    ($($name:literal = $default:literal: $meaning:literal)*) => {
        /// All variables, in the order of the table of docs/configuration.md.
        pub const VARIABLES: &[Variable] = &[
            $(Variable { name: $name, default: $default, meaning: $meaning },)*
        ];
    };
}

variables! {
    "CELERY_BROKER_URL" = "redis://localhost:6379/0":
        "Redis that holds the task queues"
    "CELERY_RESULT_BACKEND" = "redis://localhost:6379/0":
        "Redis that holds task results"
    "REDIS_URL" = "":
        "Redis that holds the symbol lists; `CELERY_BROKER_URL` if absent"
    "CELERY_RESULT_EXPIRES" = "86400":
        "seconds a task result is kept; 0: for ever"
    "CELERY_VISIBILITY_TIMEOUT" = "3600":
        "seconds until an abandoned delivery is restored; must equal the Python workers' setting"
    "CELERY_PRIORITY_STEPS" = "0,3,6,9":
        "priorities with a list of their own, kombu's `priority_steps`; must equal the Python side's setting"
    "CELERY_SEP" = "":
        "kombu's `sep` in names of lists and in bindings; its default `\\x06\\x16` if absent; must equal the Python side's setting"
    "CELERY_SENTINEL_MASTER_NAME" = "":
        "name of the master, for `sentinel://` URLs"
    "CELERY_SENTINEL_USERNAME" = "":
        "user of the sentinels themselves, kombu's `sentinel_kwargs`"
    "CELERY_SENTINEL_PASSWORD" = "":
        "password of the sentinels themselves; the one in the URL is the master's"
    "CELERY_GLOBAL_KEYPREFIX" = "":
        "prefix of the broker's keys, kombu's `global_keyprefix`"
    "CELERY_RESULT_GLOBAL_KEYPREFIX" = "":
        "prefix of result keys, the backend's `global_keyprefix`"
    "CELERY_TASK_TIME_LIMIT" = "180":
        "hard time limit of a task, in seconds"
    "CELERY_TASK_SOFT_TIME_LIMIT" = "150":
        "soft time limit of a task, in seconds"
    "CELERY_TASK_DEFAULT_RATE_LIMIT" = "":
        "starts per task type and worker: `100/m`, `2/h` or a number per second"
    "CELERY_WORKER_ETA_TASK_LIMIT" = "10000":
        "messages a worker holds until their `eta`; further ones stay in the queue until they are due"
    "CELERY_WORKER_SEND_TASK_EVENTS" = "false":
        "`true`: send task events from the start, as with `-E`"
    "CELERY_TASK_SEND_SENT_EVENT" = "false":
        "`true`: send a `task-sent` event for each task that a worker publishes"
    "CELERY_TASK_TRACK_STARTED" = "false":
        "`true`: store the state `STARTED`"
    "CELERY_TASK_IGNORE_RESULT" = "false":
        "`true`: store no result unless the message asks for one"
    "CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED" = "false":
        "`true`: store failures even if the result is ignored"
    "CELERY_RESULT_SERIALIZER" = "json":
        "`json`; others are refused: a client with another `result_serializer` cannot read our results"
    "CELERY_RESULT_EXTENDED" = "false":
        "`true`: store name, arguments, worker, retries and queue with each result"
    "WORKER_SHUTDOWN_TIMEOUT_SECONDS" = "8":
        "seconds a stop waits for running tasks before it returns them to the queue"
    "SPOT_SYMBOLS_CACHE_TTL_SECONDS" = "300":
        "lifetime of the spot list; 0 or less: no expiry"
    "FUTURES_SYMBOLS_CACHE_TTL_SECONDS" = "300":
        "lifetime of the futures list; 0 or less: no expiry"
    "SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS" = "300":
        "seconds between two spot refreshes; 0: none"
    "FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS" = "300":
        "seconds between two futures refreshes; 0: none"
    "BEAT_SCHEDULE" = "":
        "TOML file with more entries for the beat, same as `--schedule`"
    "BEAT_METRICS_LISTEN" = "":
        "address of the beat's `/metrics` and `/healthz`, same as `--metrics-listen`"
    "SYMBOLS_QUOTE_ASSET" = "USDT":
        "list only symbols quoted in this asset"
    "SPOT_POPULAR_BASES" = "BTC,ETH,BNB,SOL,ADA,AVAX,DOT,MATIC,LINK,UNI":
        "base assets at the head of the spot list"
    "FUTURES_POPULAR_BASES" = "BTC,ETH,BNB,SOL,ADA,AVAX,DOT,MATIC":
        "base assets at the head of the futures list"
    "SYMBOLS_ANCHOR_BASES" = "BTC,ETH":
        "base assets every list must contain, the quote asset itself aside; a list without one is held back until a second fetch confirms it"
    "SYMBOLS_MAX_SHRINK_PERCENT" = "20":
        "hold back a list that lost more than this share of its symbols; 100: never"
    "SYMBOLS_CONFIRM_AFTER_SECONDS" = "5":
        "seconds before a second fetch may confirm a held-back list"
    "SYMBOLS_MAX_STALE_SECONDS" = "3600":
        "age up to which an expired list is served during its refresh; 0: readers wait for the refresh"
    "SYMBOLS_READ_TIMEOUT_SECONDS" = "12":
        "longest time a reader waits for a refresh"
    "SYMBOLS_REFRESH_AHEAD_PERCENT" = "80":
        "share of its lifetime after which readers refresh a list that has no warm-up; 0: only when expired"
    "ENABLE_SPOT_WARMUP_ON_STARTUP" = "1":
        "`1`: readers fetch a missing spot list when they start"
    "ENABLE_FUTURES_WARMUP_ON_STARTUP" = "1":
        "`1`: readers fetch a missing futures list when they start"
    "TESTNET_URL" = "false":
        "`true`, `1` or `yes`: fetch the lists from the testnets"
    "BINANCE_SPOT_BASE_URL" = "https://api.binance.com,https://data-api.binance.vision":
        "spot hosts, tried in this order"
    "BINANCE_FUTURES_BASE_URL" = "https://fapi.binance.com":
        "futures hosts, tried in this order"
    "BINANCE_SPOT_TESTNET_BASE_URL" = "https://testnet.binance.vision":
        "spot testnet hosts"
    "BINANCE_FUTURES_TESTNET_BASE_URL" = "https://testnet.binancefuture.com":
        "futures testnet hosts"
    "BINANCE_RETRY_MAX_ATTEMPTS" = "3":
        "attempts per fetch, and at least one for each host, within 10 s in total"
    "BINANCE_RETRY_BACKOFF_BASE" = "0.5":
        "seconds before the second attempt; grows linearly, ±20 %"
    "BINANCE_WEIGHT_THRESHOLD" = "1100":
        "used request weight above which requests slow down"
    "HTTP_PROXY" = "":
        "proxy for `http://` hosts of the exchange; this and the next three also in lower case; loopback addresses are never asked through a proxy"
    "HTTPS_PROXY" = "":
        "proxy for `https://` hosts of the exchange"
    "ALL_PROXY" = "":
        "proxy for both, unless one of the above is set; `http://`, `https://` or `socks5://`"
    "NO_PROXY" = "":
        "hosts, domains and networks that are asked without a proxy, separated by commas; `*`: all"
    "REQUESTS_CA_BUNDLE" = "":
        "file or directory with the only certificates to trust the exchange's hosts by; `SSL_CERT_FILE` if absent"
    "SSL_CERT_FILE" = "":
        "the same, a file only; the system's certificates if absent"
    "DATABASE_URL" = "":
        "PostgreSQL with users and exchange keys, as a SQLAlchemy URL; if absent, all users get the public lists"
    "DATABASE_TIMEOUT_SECONDS" = "1":
        "time limit for connecting and querying together; also the server's limit for a query"
    "DATABASE_POOL_SIZE" = "5":
        "maximum number of connections"
    "PGSSLROOTCERT" = "":
        "file with the root certificates for the database; the system's if absent"
    "SECRET_KEY" = "":
        "verifies the users' tokens"
    "ALGORITHM" = "HS256":
        "signature of the tokens: `HS256`, `HS384` or `HS512`"
    "FERNET_KEY" = "":
        "decrypts stored exchange keys; newest first, separated by commas"
    "BINANCE_CREDENTIAL_NETWORKS" = "testnet,mainnet":
        "networks on which to try a user's key, in this order"
    "CREDENTIALS_TIMEOUT_SECONDS" = "4":
        "time limit for a user's private list; then the public one is served"
    "HTTP_LISTEN" = "":
        "address of the HTTP endpoint of `serve`; if set, `up` serves HTTP as well"
    "HTTP_ADMIN_LISTEN" = "":
        "address for operators, same as `--admin-listen`; if set, `/`, `/metrics` and `/readyz` are only there"
    "HTTP_MAX_CONNECTIONS" = "4096":
        "maximum number of connections, fewer if the limit of open files is lower; more get a 503"
    "HTTP_MAX_HEADER_BYTES" = "16384":
        "maximum size of a request's header"
    "HTTP_MAX_BODY_BYTES" = "16384":
        "maximum size of a request's body, which is read and ignored"
    "HTTP_HEADER_TIMEOUT_SECONDS" = "10":
        "time limit for receiving a request's header"
    "HTTP_IDLE_TIMEOUT_SECONDS" = "75":
        "time limit between two requests of a connection"
    "HTTP_SEND_TIMEOUT_SECONDS" = "30":
        "time limit for a client to receive an answer"
    "HTTP_REQUEST_TIMEOUT_SECONDS" = "20":
        "time limit for answering a request"
    "HTTP_STALE_IF_ERROR_SECONDS" = "86400":
        "how long caches may serve an old list while no new one is available"
    "SYMBOLS_ERROR_STATUS" = "503":
        "status when no list is available; `500` is what the Python routes send"
    "ENVIRONMENT" = "development":
        "`development`, `test`, `staging` or `production`, which rejects missing or well-known secrets at start and lets only FRONTEND_URL's scripts read answers"
    "FRONTEND_URL" = "http://localhost:3000":
        "origin of the front end"
    "LOG_LEVEL" = "INFO":
        "`DEBUG`, `INFO`, `WARNING`, `ERROR`, or a filter expression"
    "LOG_FORMAT" = "human":
        "`human` or `json`"
}
