//! What keeps a list from replacing a good one.
//!
//! A list that only looks wrong is held back until a second fetch says the same: not before some seconds have passed,
//! and not the very answer of the first time over again. So a half-empty answer changes nothing, and a market that
//! really has shrunk comes through. What contradicts itself, as futures under a spot address, is never accepted.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::cache::ListNetwork;
use super::list::SymbolList;
use super::prepare::missing_anchors;
use crate::config::SymbolsConfig;
use crate::product::binance::exchange_info::{Listing, Symbol};
use tradebot_base::market::Market;

/// How far the exchange's clock may seem to go backwards, as different hosts answer.
const CLOCK_TOLERANCE_MS: i64 = 2_000;
/// By how much, in percent, a second list may differ from the one that it confirms.
const AGREEMENT_PERCENT: usize = 5;

/// What looks wrong about a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ListConcern {
    /// It belongs to another network than the list in place.
    Network {
        /// The network of the list in place.
        from: ListNetwork,
        /// The network of this one.
        to: ListNetwork,
    },
    /// The exchange made it before the list in place.
    Older,
    /// It lacks symbols that every real list has.
    NoAnchors {
        /// Their names.
        missing: Vec<String>,
    },
    /// It has lost more symbols than a market loses in days.
    Shrunk,
}

/// A list that is held back, as far as the fetch that may confirm it must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeldBackList {
    concerns: Vec<ListConcern>,
    count: usize,
    server_time: Option<i64>,
    /// Unix milliseconds at which it was first seen.
    first_seen_ms: i64,
}

/// A list about to be written.
pub(super) struct ProposedList<'a> {
    pub(super) symbols: &'a [Symbol],
    pub(super) network: ListNetwork,
    pub(super) server_time: Option<i64>,
}

/// What is to become of a list.
#[derive(Debug, PartialEq)]
pub(super) enum GuardVerdict {
    Accept,
    /// It was held back before, and is confirmed now.
    Confirmed(Vec<ListConcern>),
    HoldBack {
        candidate: HeldBackList,
        /// How long a fetch that could confirm it must wait.
        confirm_in: Duration,
    },
}

/// Says whether an answer cannot belong to the market and network it was asked of, and why.
pub(super) fn contradiction(listing: &Listing, market: Market, network: ListNetwork) -> Option<&'static str> {
    // One strange entry must not cost the list: most of it has to say so.
    let most = |marked: usize| marked * 2 > listing.symbols.len();
    let marks = &listing.marks;
    match (market, network) {
        (_, ListNetwork::Sandbox) => None,
        (Market::Spot, _) if most(marks.futures) => Some("it is a list of futures"),
        (Market::Futures, _) if most(marks.spot) => Some("it is a list of spot symbols"),
        (Market::Futures, ListNetwork::Mainnet) if marks.testnet > 0 && marks.testnet_weight => {
            Some("it is a list of the testnet")
        }
        _ => None,
    }
}

/// Compares a list with the one in place and the one that was held back.
pub(super) fn judge(
    proposed: &ProposedList<'_>,
    accepted: Option<&SymbolList>,
    held_back: Option<HeldBackList>,
    config: &SymbolsConfig,
    now_ms: i64,
) -> GuardVerdict {
    // Made-up lists replace only each other, which writing sees to, and nothing is lost with one.
    if proposed.network == ListNetwork::Sandbox {
        return GuardVerdict::Accept;
    }
    let is_real = |list: &&SymbolList| {
        list.source()
            .is_none_or(|source| source.network != ListNetwork::Sandbox)
    };
    let concerns = concerns(proposed, accepted.filter(is_real), config);
    if concerns.is_empty() {
        return GuardVerdict::Accept;
    }
    let candidate = HeldBackList {
        concerns,
        count: proposed.symbols.len(),
        server_time: proposed.server_time,
        first_seen_ms: now_ms,
    };
    let confirm_after = i64::try_from(config.confirm_after.as_millis()).unwrap_or(i64::MAX);
    let Some(first) = held_back.filter(|first| candidate.agrees_with(first)) else {
        return GuardVerdict::HoldBack {
            candidate,
            confirm_in: config.confirm_after,
        };
    };
    // A clock that was set back would make the wait endless; then it begins anew.
    let waited = now_ms - first.first_seen_ms;
    if waited >= confirm_after && candidate.is_another_answer_than(&first) {
        return GuardVerdict::Confirmed(candidate.concerns);
    }
    let left = if waited < 0 {
        confirm_after
    } else {
        (confirm_after - waited).max(0)
    };
    GuardVerdict::HoldBack {
        candidate: HeldBackList {
            first_seen_ms: if waited < 0 { now_ms } else { first.first_seen_ms },
            server_time: first.server_time,
            ..candidate
        },
        confirm_in: Duration::from_millis(u64::try_from(left).unwrap_or(0)).max(Duration::from_secs(1)),
    }
}

fn concerns(
    proposed: &ProposedList<'_>,
    accepted: Option<&SymbolList>,
    config: &SymbolsConfig,
) -> Vec<ListConcern> {
    let mut concerns = Vec::new();
    let source = accepted.and_then(SymbolList::source);
    if let Some(source) = source {
        if source.network != proposed.network {
            concerns.push(ListConcern::Network {
                from: source.network,
                to: proposed.network,
            });
        } else if let (Some(before), Some(now)) = (source.server_time, proposed.server_time)
            && now < before - CLOCK_TOLERANCE_MS
        {
            concerns.push(ListConcern::Older);
        }
    }
    let missing = missing_anchors(proposed.symbols, config);
    if !missing.is_empty() {
        concerns.push(ListConcern::NoAnchors { missing });
    }
    let kept_percent = 100_usize.saturating_sub(config.max_shrink_percent as usize);
    if accepted.is_some_and(|list| proposed.symbols.len() * 100 < list.count() * kept_percent) {
        concerns.push(ListConcern::Shrunk);
    }
    concerns
}

impl HeldBackList {
    /// How long it is remembered, in seconds.
    pub(super) fn seconds(config: &SymbolsConfig) -> u64 {
        config.confirm_after.as_secs().saturating_mul(20).max(900)
    }

    pub(super) fn concerns(&self) -> &[ListConcern] {
        &self.concerns
    }

    fn agrees_with(&self, first: &Self) -> bool {
        self.concerns == first.concerns
            && self.count.abs_diff(first.count) * 100 <= first.count * AGREEMENT_PERCENT
    }

    /// The same answer twice, from some cache on the way, confirms nothing: the exchange's clock must have moved.
    fn is_another_answer_than(&self, first: &Self) -> bool {
        match (first.server_time, self.server_time) {
            (Some(first), Some(now)) => now > first,
            _ => true,
        }
    }
}

impl fmt::Display for ListConcern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { from, to } => {
                write!(f, "it is of {to:?} while the list in place is of {from:?}")
            }
            Self::Older => f.write_str("the exchange made it before the list in place"),
            Self::NoAnchors { missing } => write!(f, "{} is missing", missing.join(", ")),
            Self::Shrunk => f.write_str("it has lost more symbols than is allowed at once"),
        }
    }
}

/// Concerns as one text.
pub(super) fn describe(concerns: &[ListConcern]) -> String {
    let texts: Vec<String> = concerns.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

#[cfg(test)]
#[path = "guard/tests.rs"]
mod tests;
