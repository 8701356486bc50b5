//! The doctor: what is wrong with a deployment, why it matters and what to do.
//!
//! [`Doctor::examine`] queries every server, list, queue, worker, beat and host at once, each with a time limit, and
//! returns a [`Picture`], which includes the parts that could not be read. The [`fleet`](super::fleet) reads Redis.
//! [`Doctor::judge`] turns a picture into findings. Each finding has a stable code; [`KINDS`] lists them all.
//!
//! Examining writes a key with a lifetime of two seconds to each server, tries the rights to the keys of a worker there, and
//! writes two samples for the next examination (`fleet::trend`). Ages are measured by the clock of the server that holds the data.

mod adopt;
mod broker;
mod compare;
mod database;
mod exchange;
mod finding;
mod lists;
mod servers;
mod settings;

use std::collections::BTreeMap;

use serde::Serialize;

pub(crate) use adopt::{Adoption, VariableUse};
pub(crate) use compare::Comparison;
pub(crate) use database::DatabaseTrouble;
pub(crate) use exchange::ExchangeHost;
pub use finding::KINDS;
pub(crate) use finding::{Finding, Severity};
pub(crate) use settings::DoctorSettings;

use crate::product::fleet::backlog::Backlog;
use crate::product::fleet::healthcheck::EndpointProbe;
use crate::product::fleet::lists::{self as fleet_lists, MarketLists};
use crate::product::fleet::members::FleetMembers;
use crate::product::fleet::servers::{PROBE_TIMEOUT, ProbeFailure, ServerFacts};
use crate::product::fleet::{FleetReader, ReadLimits};
use tradebot_base::clock::SharedClock;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::error_chain;
use tradebot_base::market::Market;

/// The result of one examination.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Picture {
    /// Unix seconds, by this machine's clock.
    pub at: i64,
    /// The Redis servers.
    pub servers: Vec<ServerFacts>,
    /// The lists; absent when their server could not be read.
    pub lists: Vec<MarketLists>,
    /// The queues; absent when their server could not be read.
    pub broker: Option<Backlog>,
    /// Workers and beats; absent when the broker could not be read.
    pub fleet: Option<FleetMembers>,
    /// The exchange's hosts.
    pub exchange: Vec<ExchangeHost>,
    /// Our own HTTP endpoint, if one is configured.
    pub endpoint: Option<EndpointProbe>,
    /// If a database of exchange keys is configured: why it cannot be used, or `None` if it can.
    pub database: Option<Option<DatabaseTrouble>>,
    /// Parts that could not be read, and why.
    pub unseen: BTreeMap<&'static str, ProbeFailure>,
}

/// Examines and judges a deployment.
pub(crate) struct Doctor {
    settings: DoctorSettings,
    reader: FleetReader,
    clock: SharedClock,
}

impl Doctor {
    /// A doctor for this deployment.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub(crate) fn new(settings: DoctorSettings, clock: SharedClock) -> Result<Self, RedisTrouble> {
        let limits = ReadLimits::patience(PROBE_TIMEOUT);
        Ok(Self {
            reader: FleetReader::new(&settings.redis, "doctor", limits)?,
            settings,
            clock,
        })
    }

    /// Examines everything at once, within the time limit of one probe.
    pub(crate) async fn examine(&self) -> Picture {
        let (settings, reader) = (&self.settings, &self.reader);
        let (servers, lists, broker, fleet, exchange, endpoint, database) = tokio::join!(
            Box::pin(ServerFacts::read_all(
                &settings.redis,
                &settings.queues,
                &*self.clock
            )),
            Box::pin(ProbeFailure::limit(MarketLists::read_all(
                reader,
                &settings.symbols
            ))),
            Box::pin(ProbeFailure::limit(Backlog::read(
                reader,
                &settings.redis.key_prefix,
                &settings.queues
            ))),
            Box::pin(ProbeFailure::limit(FleetMembers::read(reader, &*self.clock))),
            Box::pin(self.exchange()),
            Box::pin(self.endpoint()),
            Box::pin(self.database()),
        );
        let mut unseen = BTreeMap::new();
        let mut note = |part, failure| drop(unseen.insert(part, failure));
        Picture {
            at: self.clock.unix_time(),
            servers,
            lists: lists
                .map_err(|failure| note("lists", failure))
                .unwrap_or_default(),
            broker: broker.map_err(|failure| note("queues", failure)).ok(),
            fleet: fleet.map_err(|failure| note("workers and beats", failure)).ok(),
            exchange: exchange
                .map_err(|failure| note("exchange", failure))
                .unwrap_or_default(),
            endpoint,
            database,
            unseen,
        }
    }

    /// The findings, the worst first.
    #[must_use]
    pub(crate) fn judge(&self, picture: &Picture) -> Vec<Finding> {
        let mut found: Vec<Finding> = picture.servers.iter().flat_map(servers::judge).collect();
        for (market, lists) in Market::ALL.into_iter().zip(&picture.lists) {
            let problems = lists::judge(market, lists, &self.settings);
            if problems.is_empty() {
                found.extend(lists::judge_writer(lists, picture.fleet.as_ref()));
            }
            found.extend(problems);
        }
        if let Some(broker) = &picture.broker {
            found.extend(broker::judge_backlog(broker, &self.settings));
        }
        if let Some(fleet) = &picture.fleet {
            let now = picture.broker_time();
            found.extend(broker::judge_members(
                fleet,
                picture.broker.as_ref(),
                &self.settings,
                now,
            ));
        }
        found.extend(exchange::judge(&picture.exchange, picture.at));
        found.extend(picture.endpoint.as_ref().and_then(judge_endpoint));
        found.extend(picture.database.iter().flatten().map(database::judge));
        found.extend_from_slice(&self.settings.findings);
        // An unreachable server already has a finding; one that refuses single commands does not.
        if picture.servers.iter().all(|server| server.trouble.is_none()) {
            let unseen = picture.unseen.iter();
            found.extend(unseen.map(|(part, failure)| finding::REDIS_REFUSES.found(*part, &failure.text)));
        }
        found.sort_by_key(|finding| std::cmp::Reverse(finding.kind.severity));
        found
    }

    async fn exchange(&self) -> Result<Vec<ExchangeHost>, ProbeFailure> {
        let binance = &self.settings.binance;
        let pauses = ProbeFailure::limit(fleet_lists::pauses(&self.reader, binance)).await;
        let hosts = exchange::ping_all(binance, &pauses.unwrap_or_default(), &*self.clock).await;
        hosts.map_err(|error| ProbeFailure {
            code: None,
            text: error_chain(&error),
        })
    }

    async fn endpoint(&self) -> Option<EndpointProbe> {
        let listen = self.settings.listen.as_deref()?;
        Some(EndpointProbe::request(listen, PROBE_TIMEOUT).await)
    }

    async fn database(&self) -> Option<Option<DatabaseTrouble>> {
        Some(database::probe(self.settings.database.as_ref()?).await.err())
    }
}

impl Picture {
    /// Unix seconds by the broker's clock, which beats use.
    fn broker_time(&self) -> i64 {
        let broker = self
            .servers
            .iter()
            .find(|server| server.roles.contains(&"broker"));
        let ahead = broker.map_or(0.0, |server| server.clock_ahead_seconds);
        #[expect(clippy::cast_possible_truncation, reason = "seconds")]
        let ahead = ahead.round() as i64;
        self.at + ahead
    }
}

fn judge_endpoint(endpoint: &EndpointProbe) -> Option<Finding> {
    match endpoint.status {
        _ if endpoint.is_ready() => None,
        Some(status) => {
            let what = format!("it returns {status}: {}", endpoint.text);
            Some(finding::ENDPOINT_NOT_READY.found(&endpoint.url, what))
        }
        None => Some(finding::ENDPOINT_UNREACHABLE.found(&endpoint.url, &endpoint.text)),
    }
}
