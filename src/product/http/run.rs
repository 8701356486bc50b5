//! The endpoint as part of a process: its settings, its start and its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::answers::cors::AllowedOrigins;
use super::answers::filtered_lists::FilteredLists;
use super::answers::lists::{ListResponses, Staleness};
use super::answers::representation::Packer;
use super::ops::durations::Durations;
use super::router::{PublicRoutes, Router, RouterSettings};
use super::server::{ConnectionTimeouts, HttpLimits, Server, fitting_connections};
use crate::config::HttpConfig;
use crate::product::credentials::settings::CredentialSettings;
use crate::product::credentials::user_lists::{UserLists, UserListsError};
use crate::product::fleet::overview::OverviewReader;
use crate::product::symbols::all_symbols::AllSymbols;
use crate::product::symbols::reads::{ReadsSettings, SetupError, SymbolReads};
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{Reader, RedisConfig, ScheduleConfig};
use tradebot_base::connection::RedisTrouble;
use tradebot_base::market::PerMarket;
use tradebot_core::engine::Engine;

/// How many operators and scrapers may be connected at a time.
const ADMIN_CONNECTIONS: usize = 32;

/// Addresses of the command line, which win over the environment's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// Of the lists.
    pub listen: Option<SocketAddr>,
    /// For operators.
    pub admin: Option<SocketAddr>,
}

/// The settings of the endpoint.
#[derive(Debug)]
pub(crate) struct HttpSettings {
    address: SocketAddr,
    admin: Option<SocketAddr>,
    threads: usize,
    limits: HttpLimits,
    router: RouterSettings,
    /// Queues whose depth is shown.
    queues: Vec<String>,
    redis: RedisConfig,
    reads: ReadsSettings,
    credentials: CredentialSettings,
}

/// Why the endpoint cannot be served.
#[derive(Debug, Error)]
pub(crate) enum HttpError {
    /// The address is in use, not local, or not permitted.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// A thread cannot be started, or one panicked.
    #[error("the HTTP endpoint failed")]
    Threads(#[from] std::io::Error),
    /// The lists cannot be read.
    #[error(transparent)]
    Reads(#[from] SetupError),
    /// A Redis URL is invalid.
    #[error(transparent)]
    Redis(#[from] RedisTrouble),
    /// Users' exchange keys cannot be used.
    #[error("cannot use users' exchange keys")]
    Credentials(#[from] UserListsError),
}

impl HttpSettings {
    /// Reads the settings. The status page shows the length of `queues`. A stop waits `drain` for requests in flight.
    #[must_use]
    pub(crate) fn read(
        reader: &mut Reader<'_>,
        addresses: Addresses,
        threads: usize,
        queues: Vec<String>,
        drain: Duration,
    ) -> Self {
        let config = HttpConfig::read(reader);
        let redis = RedisConfig::read(reader);
        let interval = ScheduleConfig::read(reader).warmup_interval;
        let listen = config.listen.as_deref().unwrap_or_default();
        let address = addresses.listen.or_else(|| listen.parse().ok());
        let address = address.unwrap_or_else(|| {
            let expected = "`address:port`, or give one on the command line";
            reader.complain("HTTP_LISTEN", listen, expected);
            ([0, 0, 0, 0], 0).into()
        });
        let admin = addresses.admin.or_else(|| {
            let listen = config.admin_listen.as_deref()?;
            let address = listen.parse();
            if address.is_err() {
                reader.complain("HTTP_ADMIN_LISTEN", listen, "`address:port`");
            }
            address.ok()
        });
        let origins = match &config.only_origin {
            None => AllowedOrigins::Any,
            Some(origin) => AllowedOrigins::Only(HeaderValue::from_str(origin).unwrap_or_else(|_| {
                reader.complain("FRONTEND_URL", origin, "`https://host`");
                HeaderValue::from_static("null")
            })),
        };
        let credentials = CredentialSettings::read(reader);
        let reads = ReadsSettings::section(reader);
        Self {
            address,
            admin,
            threads,
            limits: HttpLimits {
                connections: config.max_connections,
                header_bytes: config.max_header_bytes,
                body_bytes: config.max_body_bytes,
                request: config.request_timeout,
                timeouts: ConnectionTimeouts {
                    header: config.header_timeout,
                    idle: config.idle_timeout,
                    send: config.send_timeout,
                },
                drain,
            },
            queues,
            redis,
            router: RouterSettings {
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
        }
    }
}

/// The endpoint, listening.
pub(crate) struct HttpEndpoint {
    server: Server,
    /// For operators.
    admin: Option<Server>,
    settings: HttpSettings,
}

impl HttpEndpoint {
    /// Listens. Clients can connect now and are answered once [`run`](Self::run) is awaited.
    ///
    /// # Errors
    /// [`HttpError::Listen`].
    pub(crate) async fn bind(settings: HttpSettings) -> Result<Self, HttpError> {
        let bind = async |name, address, threads, limits| {
            let bound = Server::bind(name, address, threads, limits).await;
            bound.map_err(|source| HttpError::Listen { address, source })
        };
        let limits = settings.limits;
        let admin = match settings.admin {
            Some(address) => {
                let connections = ADMIN_CONNECTIONS;
                Some(
                    bind(
                        "http for operators",
                        address,
                        1,
                        HttpLimits {
                            connections,
                            ..limits
                        },
                    )
                    .await?,
                )
            }
            None => None,
        };
        let beside = if admin.is_some() { ADMIN_CONNECTIONS } else { 0 };
        let connections = fitting_connections(limits.connections, beside);
        let limits = HttpLimits {
            connections,
            ..limits
        };
        let server = bind("http", settings.address, settings.threads, limits).await?;
        Ok(Self {
            server,
            admin,
            settings,
        })
    }

    /// Serves until `stop` fires and the requests in flight have ended. `name` names the connections to Redis, and
    /// `worker` is this process's worker, if any.
    ///
    /// # Errors
    /// [`HttpError`]. An unreachable Redis or exchange is not an error.
    pub(crate) async fn run(
        self,
        name: &str,
        worker: Option<Arc<Engine>>,
        stop: CancellationToken,
    ) -> Result<(), HttpError> {
        let Self {
            server,
            admin,
            settings,
        } = self;
        let runtime = Handle::current();
        let redis = settings.reads.redis.clone();
        let symbols = settings.reads.symbols.clone();
        let reads = SymbolReads::start(settings.reads, name)?;
        let branch = match settings.credentials {
            CredentialSettings::On(enabled) => {
                let branch = UserLists::new(*enabled, reads.client(), symbols)?;
                Some(Arc::new(branch))
            }
            CredentialSettings::Off(why) => {
                info!(why, "users' own keys are not used");
                None
            }
        };
        let packer = Packer::default();
        let lists = || ListResponses::new(settings.router.staleness, packer.clone());
        let router = Arc::new(Router {
            reads: reads.clone(),
            filtered: FilteredLists::new(AllSymbols::new(&redis, name)?, packer.clone()),
            overview: OverviewReader::new(&settings.redis, name, settings.queues)?,
            connections: server.counts(),
            worker,
            stop: stop.clone(),
            clock: SystemClock::shared(),
            lists: PerMarket {
                spot: lists(),
                futures: lists(),
            },
            responses: Arc::default(),
            durations: Arc::new(Durations::new()),
            branch,
            settings: settings.router,
            runtime,
        });
        let ended = match admin {
            None => server.run(router, stop).await,
            Some(admin) => {
                let public = Arc::new(PublicRoutes(Arc::clone(&router)));
                let lists = server.run(public, stop.clone());
                tokio::try_join!(lists, admin.run(router, stop)).map(drop)
            }
        };
        reads.stop().await;
        Ok(ended?)
    }
}
