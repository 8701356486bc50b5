//! The overview that the status page, `/readyz` and `/metrics` show.
//!
//! It is read at most once per second for all clients, over connections with a timeout of a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::counters::MarketCounters;
use super::liveness::{BeatFacts, RegisteredWorker};
use super::queues::{BrokerTotals, QueueDepth};
use super::{FleetReader, ReadLimits};
use tradebot_base::config::RedisConfig;
use tradebot_base::connection::RedisTrouble;
use tradebot_base::market::PerMarket;

/// The age up to which an overview is reused.
const KEPT: Duration = Duration::from_secs(1);
const LIMITS: ReadLimits = ReadLimits {
    patience: Duration::from_secs(1),
    members: 100,
    scan_steps: 50,
};
/// Time limit of the whole reading.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of all processes together.
#[derive(Debug, Clone)]
pub(crate) struct Overview {
    pub(crate) counters: PerMarket<MarketCounters>,
    pub(crate) queues: Vec<QueueDepth>,
    pub(crate) totals: BrokerTotals,
    pub(crate) workers: Vec<RegisteredWorker>,
    pub(crate) beats: Vec<BeatFacts>,
}

/// Reads overviews and keeps the last one for a second.
pub(crate) struct OverviewReader {
    reader: FleetReader,
    queues: Vec<String>,
    last: Mutex<Option<(Instant, Option<Arc<Overview>>)>>,
}

impl OverviewReader {
    /// Opens no connection yet. `process` names its connections; `queues` are the queues to show.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub(crate) fn new(redis: &RedisConfig, process: &str, queues: Vec<String>) -> Result<Self, RedisTrouble> {
        let name = format!("{process}-overview");
        Ok(Self {
            reader: FleetReader::new(redis, &name, LIMITS)?,
            queues,
            last: Mutex::new(None),
        })
    }

    /// The overview, at most a second old; `None` when Redis does not answer.
    pub(crate) async fn get(&self) -> Option<Arc<Overview>> {
        let mut last = self.last.lock().await;
        if let Some((at, overview)) = last.as_ref()
            && at.elapsed() < KEPT
        {
            return overview.clone();
        }
        let read = timeout(READ_TIMEOUT, self.read()).await;
        let overview = read.ok().and_then(Result::ok).map(Arc::new);
        *last = Some((Instant::now(), overview.clone()));
        overview
    }

    async fn read(&self) -> Result<Overview, RedisTrouble> {
        Ok(Overview {
            counters: MarketCounters::read_all(&self.reader).await?,
            queues: QueueDepth::read_all(&self.reader, &self.queues).await?,
            totals: BrokerTotals::read(&self.reader).await?,
            workers: RegisteredWorker::read_all(&self.reader).await?,
            beats: BeatFacts::read_all(&self.reader).await?,
        })
    }
}
