//! Keeps a doubtful list from replacing a good one.
//!
//! A list that looks wrong is held back until a second fetch, some seconds later and with a newer answer, finds the same.
//! A half-empty answer thus changes nothing, while a market that really shrank gets through. A list of the wrong market or
//! network is never accepted.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::cache::ListNetwork;
use super::list::SymbolList;
use super::prepare::missing_anchors;
use crate::config::SymbolsConfig;
use crate::product::binance::exchange_info::{Listing, Symbol};
use tradebot_base::market::Market;

/// How far back the exchange's clock may jump between answers, since hosts differ.
const CLOCK_TOLERANCE_MS: i64 = 2_000;
/// How far a stored time of the exchange may be ahead of both our clock and the answer's. One beyond that is made up.
const CREDIBLE_AHEAD_MS: i64 = 86_400_000;
/// The largest difference in size, in percent, between a held-back list and the one that confirms it.
const AGREEMENT_PERCENT: usize = 5;

/// A reason to hold a list back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum ListConcern {
    /// It describes another network than the current list.
    Network {
        /// The network of the current list.
        from: ListNetwork,
        /// The network of the new list.
        to: ListNetwork,
    },
    /// By the exchange's clock it is older than the current list.
    Older,
    /// It lacks symbols that every real list has.
    NoAnchors {
        /// Their names.
        missing: Vec<String>,
    },
    /// It has lost more symbols at once than the configuration allows.
    Shrunk,
    /// It is no array of symbols, or an empty one.
    NoSymbols,
    /// More of its symbols are new than the configuration allows to be lost, as in a list of another market or network.
    Unlike,
}

/// The facts about a held-back list that a second fetch is compared with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HeldBackList {
    concerns: Vec<ListConcern>,
    count: usize,
    server_time: Option<i64>,
    /// When it was first fetched, in Unix milliseconds.
    first_seen_ms: i64,
}

/// A list that is about to be written.
pub(super) struct ProposedList<'a> {
    pub(super) symbols: &'a [Symbol],
    pub(super) network: ListNetwork,
    pub(super) server_time: Option<i64>,
}

/// What to do with a list.
#[derive(Debug, PartialEq)]
pub(super) enum GuardVerdict {
    Accept,
    /// Accept it: it was held back before and is now confirmed.
    Confirmed(Vec<ListConcern>),
    HoldBack {
        candidate: HeldBackList,
        /// How long to wait before a fetch can confirm it.
        confirm_in: Duration,
    },
}

/// Why an answer cannot belong to this market and network, if so.
pub(super) fn contradiction(listing: &Listing, market: Market, network: ListNetwork) -> Option<&'static str> {
    // One odd entry must not cost the list, so most entries have to agree.
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

/// Compares a list with the current one and with the one that was held back.
pub(super) fn judge(
    proposed: &ProposedList<'_>,
    accepted: Option<&SymbolList>,
    held_back: Option<HeldBackList>,
    config: &SymbolsConfig,
    now_ms: i64,
) -> GuardVerdict {
    // The write script lets a sandbox list replace only sandbox lists, so no real list is at risk.
    if proposed.network == ListNetwork::Sandbox {
        return GuardVerdict::Accept;
    }
    let is_real = |list: &&SymbolList| {
        list.source()
            .is_none_or(|source| source.network != ListNetwork::Sandbox)
    };
    let concerns = concerns(proposed, accepted.filter(is_real), config, now_ms);
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
    // If our clock was set back, the wait starts again.
    let waited = now_ms.saturating_sub(first.first_seen_ms);
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
    now_ms: i64,
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
            && now < before.saturating_sub(CLOCK_TOLERANCE_MS)
            && before <= now_ms.max(now).saturating_add(CREDIBLE_AHEAD_MS)
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

/// What is wrong with a list that another program wrote in the place of `accepted`.
///
/// Only names and number of its symbols are known. In a year a market loses and gains less than a fifth of its symbols.
pub(super) fn foreign_concerns(
    json: &Bytes,
    accepted: &SymbolList,
    config: &SymbolsConfig,
) -> Vec<ListConcern> {
    let Some(list) = SymbolList::read(json.clone(), None, None).filter(|list| !list.symbols().is_empty())
    else {
        return vec![ListConcern::NoSymbols];
    };
    let mut concerns = Vec::new();
    let lacked_before = missing_anchors(accepted.symbols(), config);
    let missing: Vec<String> = missing_anchors(list.symbols(), config)
        .into_iter()
        .filter(|name| !lacked_before.contains(name))
        .collect();
    if !missing.is_empty() {
        concerns.push(ListConcern::NoAnchors { missing });
    }
    let names = |list: &SymbolList| -> HashSet<String> {
        list.symbols().iter().map(|one| one.symbol.clone()).collect()
    };
    let (before, now) = (names(accepted), names(&list));
    let kept = before.intersection(&now).count();
    let allowed = config.max_shrink_percent as usize;
    if (before.len() - kept) * 100 > before.len() * allowed {
        concerns.push(ListConcern::Shrunk);
    }
    if (now.len() - kept) * 100 > now.len() * allowed {
        concerns.push(ListConcern::Unlike);
    }
    concerns
}

impl HeldBackList {
    /// How long to remember it, in seconds.
    pub(super) fn seconds(config: &SymbolsConfig) -> u64 {
        config.confirm_after.as_secs().saturating_mul(20).max(900)
    }

    pub(crate) fn concerns(&self) -> &[ListConcern] {
        &self.concerns
    }

    /// When it was first fetched, in Unix milliseconds.
    #[cfg(feature = "worker")]
    pub(crate) fn first_seen_ms(&self) -> i64 {
        self.first_seen_ms
    }

    fn agrees_with(&self, first: &Self) -> bool {
        self.concerns == first.concerns
            && self.count.abs_diff(first.count).saturating_mul(100)
                <= first.count.saturating_mul(AGREEMENT_PERCENT)
    }

    /// Whether this is a new answer. The same answer again, from a cache on the way, confirms nothing.
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
                write!(f, "it describes {to:?}, but the current list describes {from:?}")
            }
            Self::Older => f.write_str("by the exchange's clock it is older than the current list"),
            Self::NoAnchors { missing } => write!(f, "{} is missing", missing.join(", ")),
            Self::Shrunk => f.write_str("it has lost more symbols at once than is allowed"),
            Self::NoSymbols => f.write_str("it has no symbols"),
            Self::Unlike => {
                f.write_str("too many of its symbols are new, as in a list of another market or network")
            }
        }
    }
}

/// Concerns as one line.
pub(crate) fn describe(concerns: &[ListConcern]) -> String {
    let texts: Vec<String> = concerns.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

#[cfg(test)]
#[path = "guard/tests.rs"]
mod tests;
