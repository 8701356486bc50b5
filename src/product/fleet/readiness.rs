//! Whether this process serves and consumes, with machine-readable reasons. Queries no server.

use std::time::Duration;

use serde::Serialize;

use crate::product::symbols::reads::SymbolReads;
use tradebot_base::market::Market;
use tradebot_core::engine::Engine;

/// The broker answers an idle consumer every five seconds; three missing answers mean a stall.
const STALLED: Duration = Duration::from_secs(15);

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
pub(crate) struct Readiness {
    pub(crate) status: &'static str,
    /// Why the process is not ready.
    pub(crate) reasons: Vec<ReadinessReason>,
    /// Problems that do not stop it from serving.
    pub(crate) warnings: Vec<ReadinessReason>,
}

/// One reason or warning.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(crate) struct ReadinessReason {
    pub(crate) code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) market: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) detail: Option<String>,
    /// How long this has lasted, or will last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seconds: Option<u64>,
}

impl ReadinessReason {
    const fn new(code: &'static str) -> Self {
        Self {
            code,
            market: None,
            detail: None,
            seconds: None,
        }
    }
}

impl Readiness {
    /// Judges by the state of this process, without waiting.
    pub(crate) fn of(reads: &SymbolReads, worker: Option<&Engine>, stopping: bool) -> Self {
        let (mut reasons, mut warnings) = (Vec::new(), Vec::new());
        if stopping {
            reasons.push(ReadinessReason::new("stopping"));
        }
        for market in Market::ALL {
            let status = reads.status(market);
            let about = |code| ReadinessReason {
                market: Some(market.name()),
                ..ReadinessReason::new(code)
            };
            match &status.reading {
                None => reasons.push(about("no_list")),
                Some(reading) if reading.stale => warnings.push(ReadinessReason {
                    seconds: reading.ttl.map(i64::unsigned_abs),
                    ..about("list_stale")
                }),
                Some(_) => {}
            }
            if let Some((reason, retry_in)) = status.failing {
                warnings.push(ReadinessReason {
                    detail: Some(reason),
                    seconds: Some(retry_in.as_secs()),
                    ..about("refresh_failing")
                });
            }
        }
        if !reads.is_connected() {
            warnings.push(ReadinessReason::new("redis_unreachable"));
        }
        if let Some(engine) = worker {
            match engine.last_round() {
                _ if engine.pool().is_busy() => {}
                None => reasons.push(ReadinessReason::new("consumer_not_connected")),
                Some(age) if age > STALLED => reasons.push(ReadinessReason {
                    seconds: Some(age.as_secs()),
                    ..ReadinessReason::new("consumer_stalled")
                }),
                Some(_) => {}
            }
        }
        Self {
            status: if reasons.is_empty() { "ready" } else { "not ready" },
            reasons,
            warnings,
        }
    }
}
