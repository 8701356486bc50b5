//! The endpoint as a part of a process: from its settings to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::cors::Origins;
use super::endpoint::{Endpoint, EndpointSettings};
use super::lists::{ListAnswers, Staleness};
use super::parts::Parts;
use super::server::{Limits, Server};
use super::watch::Patience;
use crate::config::HttpConfig;
use crate::product::credentials::protect;
use crate::product::credentials::settings::CredentialSettings;
use crate::product::credentials::user_lists::{UserLists, UserListsError};
use crate::product::fleet::overview::OverviewReader;
use crate::product::symbols::all_symbols::AllSymbols;
use crate::product::symbols::reads::{ReadsError, ReadsSettings, SymbolReads};
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ConfigError, Reader, RedisConfig, ScheduleConfig, Vars};
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::market::PerMarket;
use tradebot_core::engine::Engine;

/// Everything the endpoint needs to know.
#[derive(Debug)]
pub struct HttpSettings {
    address: SocketAddr,
    threads: usize,
    limits: Limits,
    endpoint: EndpointSettings,
    /// Queues whose depth is shown.
    queues: Vec<String>,
    redis: RedisConfig,
    reads: ReadsSettings,
    credentials: CredentialSettings,
}

/// Why the endpoint could not be served.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The address is taken, not this machine's, or not permitted.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system gives no thread, or one of them panicked.
    #[error("the HTTP endpoint")]
    Threads(#[from] std::io::Error),
    /// The lists cannot be read.
    #[error(transparent)]
    Reads(#[from] ReadsError),
    /// A Redis URL cannot be used.
    #[error(transparent)]
    Redis(#[from] RedisTrouble),
    /// Users' own keys cannot be used.
    #[error("users' own keys")]
    Credentials(#[from] UserListsError),
}

impl HttpSettings {
    /// Reads this part of the environment. `address` is the command line's, else it is the environment's; `queues` are
    /// those whose length is shown; `drain` is how long requests in flight get at a stop.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake found, also when there is no address at all.
    pub fn read(
        vars: &dyn Vars,
        address: Option<SocketAddr>,
        threads: usize,
        queues: Vec<String>,
        drain: Duration,
    ) -> Result<Self, ConfigError> {
        let mut reader = Reader::new(vars);
        let config = HttpConfig::read(&mut reader);
        let redis = RedisConfig::read(&mut reader);
        let interval = ScheduleConfig::read(&mut reader).warmup_interval;
        let listen = config.listen.as_deref().unwrap_or_default();
        let address = address.or_else(|| listen.parse().ok());
        if address.is_none() {
            reader.complain(
                "HTTP_LISTEN",
                listen,
                "`address:port`, or give one on the command line",
            );
        }
        let origins = match &config.only_origin {
            None => Origins::Any,
            Some(origin) => Origins::Only(HeaderValue::from_str(origin).unwrap_or_else(|_| {
                reader.complain("FRONTEND_URL", origin, "`https://host`");
                HeaderValue::from_static("null")
            })),
        };
        let credentials = CredentialSettings::read(&mut reader);
        let mistakes = reader.finish();
        let reads = ReadsSettings::read(vars);
        let reads = match (mistakes, reads) {
            (Ok(()), reads) => reads?,
            (Err(mistakes), Err(others)) => return Err(mistakes.and(others)),
            (Err(mistakes), Ok(_)) => return Err(mistakes),
        };
        let Some(address) = address else {
            return Err(ConfigError(Vec::new()));
        };
        Ok(Self {
            address,
            threads,
            limits: Limits {
                connections: config.max_connections,
                header_bytes: config.max_header_bytes,
                body_bytes: config.max_body_bytes,
                request: config.request_timeout,
                patience: Patience {
                    header: config.header_timeout,
                    idle: config.idle_timeout,
                    send: config.send_timeout,
                },
                drain,
            },
            queues,
            redis,
            endpoint: EndpointSettings {
                origins,
                quote_asset: reads.symbols.quote_asset.clone(),
                interval: PerMarket {
                    spot: interval.spot.map(|interval| interval.as_secs()),
                    futures: interval.futures.map(|interval| interval.as_secs()),
                },
                staleness: Staleness {
                    while_revalidate: reads.reads.max_stale,
                    if_error: config.stale_if_error,
                },
                error_status: if config.error_status == 500 {
                    StatusCode::INTERNAL_SERVER_ERROR
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                },
            },
            reads,
            credentials,
        })
    }
}

/// The endpoint, listening.
pub struct HttpEndpoint {
    server: Server,
    settings: HttpSettings,
}

impl HttpEndpoint {
    /// Listens. Clients can connect from here on and are answered once [`run`](Self::run) is awaited.
    ///
    /// # Errors
    /// [`HttpError::Listen`].
    pub async fn bind(settings: HttpSettings) -> Result<Self, HttpError> {
        let address = settings.address;
        let server = Server::bind(address, settings.threads, settings.limits)
            .await
            .map_err(|source| HttpError::Listen { address, source })?;
        Ok(Self { server, settings })
    }

    /// Serves until `stop` fires, and then ends what is in flight. `name` is what its connections to Redis are called;
    /// `worker` is the worker of this process, if it has one.
    ///
    /// # Errors
    /// [`HttpError`]. A Redis or an exchange that is not there is no error.
    pub async fn run(
        self,
        name: &str,
        worker: Option<Arc<Engine>>,
        stop: CancellationToken,
    ) -> Result<(), HttpError> {
        let Self { server, settings } = self;
        let runtime = Handle::current();
        let redis = settings.reads.redis.clone();
        let symbols = settings.reads.symbols.clone();
        let reads = SymbolReads::start(settings.reads, name)?;
        let branch = match settings.credentials {
            CredentialSettings::On(enabled) => {
                if let Err(error) = protect::forbid_dumps() {
                    warn!(error = %error_chain(&error), "this process may leave core dumps, with users' keys in them");
                }
                let branch = UserLists::new(*enabled, reads.client(), symbols)?;
                Some(Arc::new(branch))
            }
            CredentialSettings::Off(why) => {
                info!(why, "users' own keys are not used");
                None
            }
        };
        let lists = || ListAnswers::new(settings.endpoint.staleness, runtime.clone());
        let endpoint = Endpoint {
            reads: reads.clone(),
            parts: Parts::new(AllSymbols::new(&redis, name)?, runtime.clone()),
            overview: OverviewReader::new(&settings.redis, name, settings.queues)?,
            connections: server.counts(),
            worker,
            stop: stop.clone(),
            clock: SystemClock::shared(),
            lists: PerMarket {
                spot: lists(),
                futures: lists(),
            },
            answers: Arc::default(),
            branch,
            settings: settings.endpoint,
            runtime,
        };
        let ended = server.run(Arc::new(endpoint), stop).await;
        reads.stop().await;
        Ok(ended?)
    }
}
