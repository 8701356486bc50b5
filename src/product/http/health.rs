//! Whether the process really serves and consumes, with reasons that a machine can read.

use std::time::Duration;

use serde::Serialize;

use crate::product::symbols::reads::SymbolReads;
use tradebot_base::market::Market;
use tradebot_core::engine::Engine;

/// An idle consumer hears from the broker every five seconds; after three silences it does not consume.
const STALLED: Duration = Duration::from_secs(15);

/// What `/readyz` answers.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub(super) status: &'static str,
    /// Why the process is not ready.
    pub(super) reasons: Vec<Reason>,
    /// What is wrong and keeps nobody from being served.
    pub(super) warnings: Vec<Reason>,
}

/// One reason.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) market: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// For how long it is so, or will be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<u64>,
}

impl Reason {
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
    /// Looks at what this process knows; waits for nothing.
    pub(super) fn of(reads: &SymbolReads, worker: Option<&Engine>, stopping: bool) -> Self {
        let (mut reasons, mut warnings) = (Vec::new(), Vec::new());
        if stopping {
            reasons.push(Reason::new("stopping"));
        }
        for market in Market::ALL {
            let status = reads.status(market);
            let about = |code| Reason {
                market: Some(market.name()),
                ..Reason::new(code)
            };
            match &status.reading {
                None => reasons.push(about("no_list")),
                Some(reading) if reading.stale => warnings.push(Reason {
                    seconds: reading.ttl.map(i64::unsigned_abs),
                    ..about("list_stale")
                }),
                Some(_) => {}
            }
            if let Some((reason, retry_in)) = status.failing {
                warnings.push(Reason {
                    detail: Some(reason),
                    seconds: Some(retry_in.as_secs()),
                    ..about("refresh_failing")
                });
            }
        }
        if !reads.is_connected() {
            warnings.push(Reason::new("redis_unreachable"));
        }
        if let Some(engine) = worker {
            match engine.last_round() {
                _ if engine.pool().is_busy() => {}
                None => reasons.push(Reason::new("consumer_not_connected")),
                Some(age) if age > STALLED => reasons.push(Reason {
                    seconds: Some(age.as_secs()),
                    ..Reason::new("consumer_stalled")
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
