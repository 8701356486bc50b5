//! The doctor: what is there, and what of it is wrong.
//!
//! Looking and judging are two steps. [`Doctor::look`] asks every server, list, queue, worker, beat and host at once,
//! each with a time limit, and returns a [`Picture`]; what could not be asked is part of it. [`Doctor::judge`] makes
//! findings of a picture. A finding has a stable code; [`KINDS`] lists them all.
//!
//! The doctor writes a key that lives for two seconds to each server, and two samples of what it saw, so that the next
//! look can tell a trend (`samples`). Ages go by the clock of the server that holds what they are about.

mod adopt;
mod broker;
mod compare;
mod database;
mod env_file;
mod exchange;
mod finding;
mod fleet;
mod health;
mod lists;
mod samples;
mod server;
mod settings;

use std::collections::BTreeMap;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Pipeline, cmd};
use serde::Serialize;

pub use adopt::{Adoption, Use};
pub use broker::{Broker, Oldest, Queue};
pub use compare::{Comparison, Difference};
pub use database::DatabaseTrouble;
pub use env_file::{EnvFile, EnvFileError};
pub use exchange::{Endpoint, Host};
pub use finding::{Finding, KINDS, Kind, Severity};
pub use fleet::{Beat, Fleet, Worker};
pub use health::{Health, Unhealthy};
pub use lists::{Entry, MarketLists, span};
pub use samples::{Counts, Recent};
pub use server::Server;
pub use settings::Settings;

use crate::product::symbols::cache::CacheKeys;
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::error_chain;
use tradebot_base::market::Market;
use tradebot_base::secret::RedisUrl;
use tradebot_wire::keys::Keys;

/// How long any one probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why something could not be asked.
#[derive(Debug, Clone, Serialize)]
pub struct Trouble {
    /// What a server's refusal began with, `NOAUTH` for example.
    pub code: Option<String>,
    /// The whole reason, without secrets.
    pub text: String,
}

impl Trouble {
    fn timeout() -> Self {
        Self {
            code: None,
            text: format!("no answer within {} s", PROBE_TIMEOUT.as_secs()),
        }
    }
}

impl From<RedisTrouble> for Trouble {
    fn from(trouble: RedisTrouble) -> Self {
        let text = error_chain(&trouble);
        let code = match &trouble {
            RedisTrouble::Refused { code, .. } => Some(code.clone()),
            // The library has a kind of its own for a login that failed, and keeps the code in the text.
            _ => ["WRONGPASS", "NOAUTH"]
                .into_iter()
                .find(|code| text.contains(code))
                .map(str::to_owned),
        };
        Self { code, text }
    }
}

async fn ask<T: FromRedisValue>(connection: &Connection, command: &Cmd) -> Result<T, Trouble> {
    Ok(connection.command(command).await?)
}

async fn ask_all<T: FromRedisValue>(connection: &Connection, pipeline: &Pipeline) -> Result<T, Trouble> {
    Ok(connection.pipeline(pipeline).await?)
}

/// Everything that was seen in one look.
#[derive(Debug, Clone, Serialize)]
pub struct Picture {
    /// Unix seconds, by this machine's clock.
    pub at: i64,
    /// The Redis servers.
    pub servers: Vec<Server>,
    /// The lists; absent when their server could not be asked.
    pub lists: Vec<MarketLists>,
    /// The queues; absent when their server could not be asked.
    pub broker: Option<Broker>,
    /// Workers and beats; absent when the broker could not be asked.
    pub fleet: Option<Fleet>,
    /// The exchange's hosts.
    pub exchange: Vec<Host>,
    /// Our own HTTP endpoint, if one is configured.
    pub endpoint: Option<Endpoint>,
    /// The database of users' own keys, if one is configured: why it could not be used, or nothing.
    pub database: Option<Option<DatabaseTrouble>>,
    /// What could not be looked at although its server answers, and why.
    pub unseen: BTreeMap<&'static str, Trouble>,
}

/// Looks and judges.
pub struct Doctor {
    settings: Settings,
    keys: Keys,
    clock: SharedClock,
}

impl Doctor {
    /// A doctor for this deployment.
    #[must_use]
    pub fn new(settings: Settings, clock: SharedClock) -> Self {
        let keys = Keys::with_prefix(&settings.redis.key_prefix);
        Self {
            settings,
            keys,
            clock,
        }
    }

    /// Looks at everything at once. Takes no longer than the slowest probe may.
    pub async fn look(&self) -> Picture {
        let (servers, lists, broker, fleet, exchange, endpoint, database) = tokio::join!(
            Box::pin(self.servers()),
            Box::pin(limited(self.lists())),
            Box::pin(limited(self.broker())),
            Box::pin(limited(self.fleet())),
            Box::pin(self.exchange()),
            Box::pin(self.endpoint()),
            Box::pin(database::look(self.settings.database.as_ref())),
        );
        let mut unseen = BTreeMap::new();
        let mut seen = |what, trouble| drop(unseen.insert(what, trouble));
        Picture {
            at: self.clock.now().timestamp(),
            servers,
            lists: lists
                .map_err(|trouble| seen("lists", trouble))
                .unwrap_or_default(),
            broker: broker.map_err(|trouble| seen("queues", trouble)).ok(),
            fleet: fleet.map_err(|trouble| seen("workers and beats", trouble)).ok(),
            exchange: exchange
                .map_err(|trouble| seen("exchange", trouble))
                .unwrap_or_default(),
            endpoint,
            database,
            unseen,
        }
    }

    /// The findings, the worst first.
    #[must_use]
    pub fn judge(&self, picture: &Picture) -> Vec<Finding> {
        let mut found: Vec<Finding> = picture.servers.iter().flat_map(Server::judge).collect();
        for lists in &picture.lists {
            let market = Market::ALL
                .into_iter()
                .find(|market| market.name() == lists.market);
            found.extend(
                market
                    .into_iter()
                    .flat_map(|market| lists.judge(market, &self.settings)),
            );
        }
        if let Some(broker) = &picture.broker {
            found.extend(broker.judge(&self.settings));
        }
        // Heartbeats and bans are told by the clocks of those who write them, which agree with the broker's.
        let broker = picture
            .servers
            .iter()
            .find(|server| server.roles.contains(&"broker"));
        let ahead = broker.map_or(0.0, |server| server.clock_ahead_seconds);
        #[expect(clippy::cast_possible_truncation, reason = "seconds")]
        let now = picture.at + ahead.round() as i64;
        if let Some(fleet) = &picture.fleet {
            found.extend(fleet.judge(picture.broker.as_ref(), &self.settings, now));
        }
        found.extend(exchange::judge(&picture.exchange, picture.at));
        found.extend(picture.endpoint.as_ref().and_then(Endpoint::judge));
        found.extend(picture.database.iter().flatten().map(DatabaseTrouble::judge));
        found.extend(self.settings.findings().iter().cloned());
        // A server that answers nothing is told of once. One that refuses single commands is not.
        let silent = picture.servers.iter().any(|server| server.trouble.is_some());
        for (what, trouble) in picture.unseen.iter().filter(|_| !silent) {
            found.push(finding::REDIS_REFUSES.found(*what, &trouble.text));
        }
        found.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        found
    }

    async fn servers(&self) -> Vec<Server> {
        let redis = &self.settings.redis;
        let look = |role, url, prefix| Server::look(role, url, prefix, &*self.clock);
        let (cache, broker, results) = tokio::join!(
            look("cache", &redis.cache, ""),
            look("broker", &redis.broker, &redis.key_prefix),
            look("results", &redis.results, &redis.result_key_prefix),
        );
        let mut servers: Vec<Server> = Vec::new();
        for one in [broker, cache, results] {
            match servers
                .iter_mut()
                .find(|known| known.same_as(&one) && known.trouble.is_none() == one.trouble.is_none())
            {
                Some(known) => known.roles.extend(one.roles),
                None => servers.push(one),
            }
        }
        servers
    }

    async fn lists(&self) -> Result<Vec<MarketLists>, Trouble> {
        let connection = connect(&self.settings.redis.cache)?;
        let now = server_time(&connection).await?;
        let mut lists = Vec::new();
        for market in Market::ALL {
            lists.push(
                MarketLists::look(&connection, market, &self.settings.symbols.anchor_bases, now).await?,
            );
        }
        let counts = lists
            .iter()
            .map(|one| (one.market.to_owned(), one.counts))
            .collect();
        // A server that cannot be written to gives no trend.
        let mut recent = samples::compare(&connection, now, &counts)
            .await
            .unwrap_or_default();
        for one in &mut lists {
            one.recent = recent.remove(one.market);
        }
        Ok(lists)
    }

    async fn broker(&self) -> Result<Broker, Trouble> {
        let redis = &self.settings.redis;
        let connection = connect(&redis.broker)?;
        let now = server_time(&connection).await?;
        Broker::look(
            &connection,
            &self.keys,
            &redis.key_prefix,
            &self.settings.queues,
            now,
        )
        .await
    }

    async fn fleet(&self) -> Result<Fleet, Trouble> {
        let redis = &self.settings.redis;
        let connection = connect(&redis.broker)?;
        Fleet::look(&connection, &self.keys, &redis.key_prefix, &*self.clock).await
    }

    async fn exchange(&self) -> Result<Vec<Host>, Trouble> {
        let urls = &self.settings.binance.base_urls;
        let hosts = Market::ALL.map(|market| (market, urls.get(market).clone()));
        // Nobody asks while a ban holds: that prolongs it.
        let bans = limited(self.bans()).await.unwrap_or_default();
        exchange::look(&hosts, &bans).await.map_err(|error| Trouble {
            code: None,
            text: error_chain(&error),
        })
    }

    /// Until when, in Unix seconds, the workers and readers leave the hosts of a market alone.
    async fn bans(&self) -> Result<BTreeMap<&'static str, i64>, Trouble> {
        let connection = connect(&self.settings.redis.cache)?;
        let network = self.settings.binance.network();
        let mut ends = redis::pipe();
        for market in Market::ALL {
            ends.pttl(CacheKeys(market).ban(network));
        }
        let now = self.clock.now().timestamp_millis();
        let left: Vec<i64> = ask_all(&connection, &ends).await?;
        let bans = Market::ALL.iter().zip(left).filter(|(_, left)| *left > 0);
        Ok(bans
            .map(|(market, left)| (market.name(), (now + left) / 1000))
            .collect())
    }

    async fn endpoint(&self) -> Option<Endpoint> {
        let listen = self.settings.listen.as_deref()?;
        Some(Endpoint::look(listen, PROBE_TIMEOUT).await)
    }
}

fn connect(url: &RedisUrl) -> Result<Connection, Trouble> {
    Ok(Connection::new(url, "doctor")?)
}

async fn server_time(connection: &Connection) -> Result<i64, Trouble> {
    let (seconds, _): (i64, i64) = ask(connection, &cmd("TIME")).await?;
    Ok(seconds)
}

async fn limited<T>(probe: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::time::timeout(PROBE_TIMEOUT, probe)
        .await
        .unwrap_or_else(|_| Err(Trouble::timeout()))
}
