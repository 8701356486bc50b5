//! What all processes together have done, as Redis knows it: for the status page, `/readyz` and `/metrics`.
//!
//! It is read over connections of its own that give up after a second, and once a second at most, however many ask.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Pipeline, cmd, pipe};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::product::symbols::cache::CacheKeys;
use tradebot_base::config::RedisConfig;
use tradebot_base::connection::{Connection, RedisTrouble};
use tradebot_base::market::{Market, PerMarket};
use tradebot_base::secret::RedisUrl;
use tradebot_wire::keys::{Keys, PRIORITY_STEPS};

/// How old what is shown may be.
const KEPT: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(1);
/// At most so many workers and beats are looked at.
const MOST: usize = 100;
/// So many keys are looked through in search of beats, and no more.
const SCAN_STEP: usize = 2_000;
const SCANS: usize = 50;

/// Where the numbers are.
#[derive(Debug, Clone)]
pub(super) struct OverviewSettings {
    pub(super) cache: RedisUrl,
    pub(super) broker: RedisUrl,
    pub(super) key_prefix: String,
    pub(super) queues: Vec<String>,
}

impl OverviewSettings {
    pub(super) fn of(redis: &RedisConfig, queues: Vec<String>) -> Self {
        Self {
            cache: redis.cache.clone(),
            broker: redis.broker.clone(),
            key_prefix: redis.key_prefix.clone(),
            queues,
        }
    }
}

/// The counters of a market.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) refreshes: u64,
    pub(super) errors: u64,
}

/// What a beat says of itself.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct BeatSigns {
    pub(super) host: String,
    pub(super) pid: u64,
    pub(super) version: String,
    pub(super) leader: bool,
    /// Unix seconds.
    pub(super) next_due: Option<f64>,
}

/// See the module.
#[derive(Debug, Default, Clone)]
pub(super) struct Overview {
    pub(super) counters: PerMarket<Counters>,
    /// Messages on each queue.
    pub(super) queues: Vec<(String, u64)>,
    /// Tasks that wait for other workers.
    pub(super) foreign: BTreeMap<String, u64>,
    pub(super) parked: u64,
    /// Workers of this system by node name, and whether each lives.
    pub(super) workers: Vec<(String, bool)>,
    pub(super) beats: Vec<BeatSigns>,
}

/// Reads [`Overview`]s.
pub(super) struct Observer {
    cache: Connection,
    broker: Connection,
    keys: Keys,
    queues: Vec<String>,
    last: Mutex<Option<(Instant, Option<Arc<Overview>>)>>,
}

impl Observer {
    /// Nothing is opened yet.
    ///
    /// # Errors
    /// [`RedisTrouble::Url`].
    pub(super) fn new(settings: &OverviewSettings, name: &str) -> Result<Self, RedisTrouble> {
        let connect = |url| Connection::impatient(url, &format!("{name}-overview"), PATIENCE);
        let (cache, broker) = (connect(&settings.cache)?, connect(&settings.broker)?);
        Ok(Self {
            cache: if cache.same_database(&broker) {
                broker.clone()
            } else {
                cache
            },
            broker,
            keys: Keys::with_prefix(&settings.key_prefix),
            queues: settings.queues.clone(),
            last: Mutex::new(None),
        })
    }

    /// The numbers, at most a second old; `None` when Redis does not give them.
    pub(super) async fn look(&self) -> Option<Arc<Overview>> {
        let mut last = self.last.lock().await;
        if let Some((at, overview)) = last.as_ref()
            && at.elapsed() < KEPT
        {
            return overview.clone();
        }
        let read = timeout(PATIENCE * 2, self.read()).await;
        let overview = read.ok().and_then(Result::ok).map(Arc::new);
        *last = Some((Instant::now(), overview.clone()));
        overview
    }

    async fn read(&self) -> Result<Overview, RedisTrouble> {
        let mut overview = Overview::default();
        let mut counters = pipe();
        for market in Market::ALL {
            let keys = CacheKeys(market);
            counters
                .get(keys.hit_counter())
                .get(keys.miss_counter())
                .get(keys.success_counter())
                .get(keys.error_counter());
        }
        let counts: Vec<Option<u64>> = self.cache.pipeline(&counters).await?;
        let of = |first: usize| {
            let count = |at: usize| counts.get(first + at).copied().flatten().unwrap_or(0);
            Counters {
                hits: count(0),
                misses: count(1),
                refreshes: count(2),
                errors: count(3),
            }
        };
        overview.counters = PerMarket {
            spot: of(0),
            futures: of(4),
        };
        self.read_queues(&mut overview).await?;
        self.read_workers(&mut overview).await?;
        self.read_beats(&mut overview).await?;
        Ok(overview)
    }

    async fn read_queues(&self, overview: &mut Overview) -> Result<(), RedisTrouble> {
        let mut sums = pipe();
        for queue in &self.queues {
            for step in PRIORITY_STEPS {
                sums.llen(self.keys.list(queue, step));
            }
        }
        let lengths: Vec<u64> = self.broker.pipeline(&sums).await?;
        let sums = lengths
            .chunks(PRIORITY_STEPS.len())
            .map(|steps| steps.iter().sum());
        overview.queues = self.queues.iter().cloned().zip(sums).collect();
        let mut rest = pipe();
        rest.hgetall(self.keys.waiting()).llen(self.keys.parked());
        (overview.foreign, overview.parked) = self.broker.pipeline(&rest).await?;
        Ok(())
    }

    async fn read_workers(&self, overview: &mut Overview) -> Result<(), RedisTrouble> {
        let workers: BTreeMap<String, String> = self
            .broker
            .command(cmd("HGETALL").arg(self.keys.workers()))
            .await?;
        let workers: Vec<_> = workers.into_iter().take(MOST).collect();
        if workers.is_empty() {
            return Ok(());
        }
        let mut leases = Pipeline::new();
        for (id, _) in &workers {
            leases.exists(self.keys.lease(id));
        }
        let live: Vec<bool> = self.broker.pipeline(&leases).await?;
        let mut workers: Vec<_> = workers.into_iter().map(|(_, name)| name).zip(live).collect();
        workers.sort();
        overview.workers = workers;
        Ok(())
    }

    async fn read_beats(&self, overview: &mut Overview) -> Result<(), RedisTrouble> {
        let pattern = self.keys.beat("*");
        let (mut cursor, mut found) = (0_u64, Vec::new());
        for _ in 0..SCANS {
            let mut scan = cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg(&pattern)
                .arg("COUNT")
                .arg(SCAN_STEP);
            let (next, keys): (u64, Vec<String>) = self.broker.command(&scan).await?;
            found.extend(keys);
            cursor = next;
            if cursor == 0 || found.len() >= MOST {
                break;
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        found.sort();
        found.dedup();
        let texts: Vec<Option<String>> = self.broker.command(cmd("MGET").arg(&found)).await?;
        let beats = texts.into_iter().flatten();
        overview.beats = beats
            .filter_map(|text| serde_json::from_str(&text).ok())
            .collect();
        Ok(())
    }
}
