//! The list of all environment variables.

/// One environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What holds when it is absent or empty.
    pub default: &'static str,
    /// What it means, for the README.
    pub meaning: &'static str,
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable {
        name,
        default,
        meaning,
    }
}

/// All variables, in the order of the README's table.
pub const VARIABLES: &[Variable] = &[
    variable(
        "CELERY_BROKER_URL",
        "redis://localhost:6379/0",
        "Redis that holds the task queues",
    ),
    variable(
        "CELERY_RESULT_BACKEND",
        "redis://localhost:6379/0",
        "Redis that holds task results",
    ),
    variable(
        "REDIS_URL",
        "",
        "Redis that holds the symbol lists; `CELERY_BROKER_URL` if absent",
    ),
    variable(
        "CELERY_RESULT_EXPIRES",
        "86400",
        "seconds a task result is kept, 0: for ever",
    ),
    variable(
        "CELERY_VISIBILITY_TIMEOUT",
        "3600",
        "seconds after which an abandoned delivery of anybody is restored; must be what the Python workers have",
    ),
    variable(
        "CELERY_SENTINEL_MASTER_NAME",
        "",
        "name of the master, for `sentinel://` URLs",
    ),
    variable(
        "CELERY_GLOBAL_KEYPREFIX",
        "",
        "prefix of the broker's keys, kombu's `global_keyprefix`",
    ),
    variable(
        "CELERY_RESULT_GLOBAL_KEYPREFIX",
        "",
        "prefix of result keys, the backend's `global_keyprefix`",
    ),
    variable(
        "CELERY_TASK_TIME_LIMIT",
        "180",
        "hard limit of a task, in seconds",
    ),
    variable(
        "CELERY_TASK_SOFT_TIME_LIMIT",
        "150",
        "soft limit of a task, in seconds",
    ),
    variable(
        "CELERY_TASK_DEFAULT_RATE_LIMIT",
        "",
        "starts of each task that a worker allows, `100/m`, `2/h` or a number per second",
    ),
    variable(
        "CELERY_WORKER_ETA_TASK_LIMIT",
        "10000",
        "messages held until their `eta`; further ones stay in the queue until they are due",
    ),
    variable(
        "CELERY_WORKER_SEND_TASK_EVENTS",
        "false",
        "`true`, as with `-E`: task events are sent from the start",
    ),
    variable(
        "CELERY_TASK_SEND_SENT_EVENT",
        "false",
        "`true`: an event `task-sent` for each task that a worker publishes",
    ),
    variable(
        "CELERY_TASK_TRACK_STARTED",
        "false",
        "`true`: the state `STARTED` is stored, too",
    ),
    variable(
        "CELERY_TASK_IGNORE_RESULT",
        "false",
        "`true`: no results of messages that do not say whether they want one",
    ),
    variable(
        "CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED",
        "false",
        "`true`: failures are stored even where the result is ignored",
    ),
    variable(
        "CELERY_RESULT_EXTENDED",
        "false",
        "`true`: results with name, arguments, worker, retries and queue",
    ),
    variable(
        "WORKER_SHUTDOWN_TIMEOUT_SECONDS",
        "8",
        "how long a stop waits for running tasks before it hands them back",
    ),
    variable(
        "SPOT_SYMBOLS_CACHE_TTL_SECONDS",
        "300",
        "lifetime of the spot list, 0 or less: no expiry",
    ),
    variable(
        "FUTURES_SYMBOLS_CACHE_TTL_SECONDS",
        "300",
        "lifetime of the futures list, 0 or less: no expiry",
    ),
    variable(
        "SPOT_SYMBOLS_WARMUP_INTERVAL_SECONDS",
        "300",
        "seconds between two spot refreshes, 0: none",
    ),
    variable(
        "FUTURES_SYMBOLS_WARMUP_INTERVAL_SECONDS",
        "300",
        "seconds between two futures refreshes, 0: none",
    ),
    variable(
        "BEAT_SCHEDULE",
        "",
        "TOML file with further entries of the beat, as `--schedule`",
    ),
    variable(
        "BEAT_METRICS_LISTEN",
        "",
        "address of the beat's `/metrics` and `/healthz`, as `--metrics-listen`",
    ),
    variable(
        "SYMBOLS_QUOTE_ASSET",
        "USDT",
        "only symbols quoted in this asset are listed",
    ),
    variable(
        "SPOT_POPULAR_BASES",
        "BTC,ETH,BNB,SOL,ADA,AVAX,DOT,MATIC,LINK,UNI",
        "base assets at the head of the spot list",
    ),
    variable(
        "FUTURES_POPULAR_BASES",
        "BTC,ETH,BNB,SOL,ADA,AVAX,DOT,MATIC",
        "base assets at the head of the futures list",
    ),
    variable(
        "SYMBOLS_ANCHOR_BASES",
        "BTC,ETH",
        "base assets that a list must have; without one of them it is held back until a second fetch confirms it",
    ),
    variable(
        "SYMBOLS_MAX_SHRINK_PERCENT",
        "20",
        "a list that lost more of its symbols than this is held back, too; 100: never",
    ),
    variable(
        "SYMBOLS_CONFIRM_AFTER_SECONDS",
        "5",
        "a second fetch confirms a list that is held back not before this has passed",
    ),
    variable(
        "SYMBOLS_MAX_STALE_SECONDS",
        "3600",
        "a list past its lifetime is served at once, and refreshed meanwhile, up to this age; 0: readers wait for the refresh",
    ),
    variable(
        "SYMBOLS_READ_TIMEOUT_SECONDS",
        "12",
        "the longest that a reader waits for a refresh",
    ),
    variable(
        "SYMBOLS_REFRESH_AHEAD_PERCENT",
        "80",
        "share of its lifetime after which the readers' side refreshes a list that no warm-up keeps fresh, 0: never ahead",
    ),
    variable(
        "ENABLE_SPOT_WARMUP_ON_STARTUP",
        "1",
        "`1`: the readers' side fetches the spot list as it starts, if there is none",
    ),
    variable(
        "ENABLE_FUTURES_WARMUP_ON_STARTUP",
        "1",
        "`1`: the readers' side fetches the futures list as it starts, if there is none",
    ),
    variable(
        "TESTNET_URL",
        "false",
        "`true`, `1` or `yes`: the lists come from the testnets",
    ),
    variable(
        "BINANCE_SPOT_BASE_URL",
        "https://api.binance.com,https://data-api.binance.vision",
        "spot hosts, tried in this order",
    ),
    variable(
        "BINANCE_FUTURES_BASE_URL",
        "https://fapi.binance.com",
        "futures hosts, tried in this order",
    ),
    variable(
        "BINANCE_SPOT_TESTNET_BASE_URL",
        "https://testnet.binance.vision",
        "spot testnet hosts",
    ),
    variable(
        "BINANCE_FUTURES_TESTNET_BASE_URL",
        "https://testnet.binancefuture.com",
        "futures testnet hosts",
    ),
    variable(
        "BINANCE_RETRY_MAX_ATTEMPTS",
        "3",
        "attempts per fetch, within 10 s in all",
    ),
    variable(
        "BINANCE_RETRY_BACKOFF_BASE",
        "0.5",
        "seconds before the second attempt; grows linearly, ±20 %",
    ),
    variable(
        "BINANCE_WEIGHT_THRESHOLD",
        "1100",
        "used request weight from which requests are slowed down",
    ),
    variable(
        "DATABASE_URL",
        "",
        "PostgreSQL with the users and their exchange keys, as SQLAlchemy writes it; without it nobody's own key is used",
    ),
    variable(
        "DATABASE_TIMEOUT_SECONDS",
        "1",
        "for a connection and a query together, and for the query at the server",
    ),
    variable("DATABASE_POOL_SIZE", "5", "connections at most"),
    variable(
        "PGSSLROOTCERT",
        "",
        "file with the certificates that the database's must be signed by; those of the machine if absent",
    ),
    variable("SECRET_KEY", "", "verifies the users' tokens"),
    variable("ALGORITHM", "HS256", "of the tokens: `HS256`, `HS384` or `HS512`"),
    variable(
        "FERNET_KEY",
        "",
        "decrypts stored exchange keys; several, newest first, separated by commas",
    ),
    variable(
        "BINANCE_CREDENTIAL_NETWORKS",
        "testnet,mainnet",
        "networks that a user's key is tried on, in this order",
    ),
    variable(
        "CREDENTIALS_TIMEOUT_SECONDS",
        "4",
        "for a user's own list in all, before the public one is served",
    ),
    variable(
        "HTTP_LISTEN",
        "",
        "address of the HTTP endpoint of `serve`; with it `up` serves, too",
    ),
    variable(
        "HTTP_MAX_CONNECTIONS",
        "4096",
        "connections at a time; further ones get a 503",
    ),
    variable("HTTP_MAX_HEADER_BYTES", "16384", "size of a request's header"),
    variable(
        "HTTP_MAX_BODY_BYTES",
        "16384",
        "size of a request's body; it is read and not used",
    ),
    variable(
        "HTTP_HEADER_TIMEOUT_SECONDS",
        "10",
        "for the header of a request to arrive",
    ),
    variable(
        "HTTP_IDLE_TIMEOUT_SECONDS",
        "75",
        "between two requests of a connection",
    ),
    variable(
        "HTTP_SEND_TIMEOUT_SECONDS",
        "30",
        "for a client to take an answer",
    ),
    variable(
        "HTTP_REQUEST_TIMEOUT_SECONDS",
        "20",
        "for a request to be answered",
    ),
    variable(
        "HTTP_STALE_IF_ERROR_SECONDS",
        "86400",
        "how long caches in between may go on with an old list while none can be had",
    ),
    variable(
        "SYMBOLS_ERROR_STATUS",
        "503",
        "status where no list can be had; `500` as the Python routes answer",
    ),
    variable(
        "ENVIRONMENT",
        "development",
        "`production`: missing or well-known secrets are an error at start, and only scripts of FRONTEND_URL may read answers",
    ),
    variable("FRONTEND_URL", "http://localhost:3000", "origin of the front end"),
    variable(
        "LOG_LEVEL",
        "INFO",
        "`DEBUG`, `INFO`, `WARNING`, `ERROR`, or a filter expression",
    ),
    variable("LOG_FORMAT", "human", "`human` or `json`"),
];
