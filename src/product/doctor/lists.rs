//! Findings about the symbol lists.

use super::finding::{self, Finding, FindingKind, Problem};
use super::settings::DoctorSettings;
use crate::product::fleet::lists::{ListValue, MarketLists};
use crate::product::fleet::members::FleetMembers;
use crate::product::fleet::span;
use crate::product::symbols::cache::{CacheKeys, FetchedBy, ListNetwork};
use tradebot_base::market::Market;

/// How late a refresh may be, in addition to one missed refresh.
const GRACE_SECONDS: i64 = 30;
/// After so many intervals without a success, warm-ups fail.
const INTERVALS: u64 = 3;
/// The minimum number of reads to judge by.
const ENOUGH_READS: u64 = 20;
/// The acceptable share of misses.
const MISSES: f64 = 0.2;

pub(super) fn judge(market: Market, lists: &MarketLists, settings: &DoctorSettings) -> Vec<Finding> {
    let keys = CacheKeys(market);
    let mut found = Vec::new();
    found.extend(judge_contents(
        &lists.primary,
        &keys.primary(),
        (&finding::LIST_UNREADABLE, &finding::LIST_EMPTY),
    ));
    found.extend(judge_contents(
        &lists.last_good,
        &keys.last_good(),
        (&finding::LAST_GOOD_UNREADABLE, &finding::LAST_GOOD_EMPTY),
    ));
    found.extend(judge_presence(keys, lists));
    let configured = *settings.symbols.ttl_seconds.get(market);
    if lists.primary.is_list() && lists.ttl_seconds.is_none() && configured > 0 {
        let what = format!("it has no expiry, but {configured} s are configured");
        found.push((&finding::LIST_NEVER_EXPIRES, what));
    }
    found.extend(judge_age(market, lists, settings));
    found.extend(judge_network(market, lists, settings));
    let unusable = lists.unusable.iter();
    found.extend(unusable.map(|(name, held)| (&finding::COUNTER_UNUSABLE, format!("{name} holds {held}"))));
    let unusable = lists.unusable_keys.iter();
    found.extend(unusable.map(|(key, held)| (&finding::KEY_UNUSABLE, format!("{key} holds {held}"))));
    for (key, why) in &lists.bad_lists {
        // An empty or cut list has its own finding.
        if !found.iter().any(|(_, what)| what.starts_with(key)) {
            let what = format!("{key} holds a list of another program that readers do not get: {why}");
            found.push((&finding::LIST_FOREIGN_BAD, what));
        }
    }
    found.extend(judge_refused(lists));
    found.extend(judge_held_back(lists));
    found.extend(judge_warmups(market, lists, settings));
    found.extend(judge_counters(lists));
    found
        .into_iter()
        .map(|(kind, what)| kind.found(lists.market, what))
        .collect()
}

/// Notes a good list of another program beside workers of this system.
pub(super) fn judge_writer(lists: &MarketLists, fleet: Option<&FleetMembers>) -> Option<Finding> {
    let source = lists.source.as_ref();
    let foreign = source.is_none_or(|source| source.by == Some(FetchedBy::Other));
    let ours = fleet.is_some_and(|fleet| fleet.workers.iter().any(|worker| worker.ours));
    (foreign && ours).then(|| {
        let age = span(lists.age_seconds.unwrap_or_default());
        let what = format!("another program wrote the current list {age} ago");
        finding::TWO_WRITERS.found(lists.market, what)
    })
}

fn judge_contents(
    list: &ListValue,
    key: &str,
    (unreadable, empty): (&'static FindingKind, &'static FindingKind),
) -> Option<Problem> {
    Some(match list {
        ListValue::WrongType { found } => (&finding::LIST_WRONG_TYPE, format!("{key} holds a {found}")),
        ListValue::Unreadable { reason } => (unreadable, format!("{key} holds no list of symbols: {reason}")),
        ListValue::List { count: 0, .. } => (empty, format!("{key} holds an empty list")),
        ListValue::List { lacks, count, .. } if !lacks.is_empty() => (
            &finding::LIST_LACKS_ANCHORS,
            format!("{key} lists {count} symbols and none of {}", lacks.join(", ")),
        ),
        ListValue::Missing | ListValue::List { .. } => return None,
    })
}

fn judge_presence(keys: CacheKeys, lists: &MarketLists) -> Option<Problem> {
    let age = lists
        .age_seconds
        .map_or("never".to_owned(), |age| format!("{} ago", span(age)));
    let (primary, last_good) = (keys.primary(), keys.last_good());
    match (&lists.primary, &lists.last_good) {
        (ListValue::Missing, ListValue::Missing) => {
            let what = format!("neither {primary} nor {last_good} exists");
            Some((&finding::LIST_MISSING, what))
        }
        (ListValue::Missing, _) => {
            let what = format!("{primary} is gone; the last refresh was {age}");
            Some((&finding::LIST_EXPIRED, what))
        }
        (_, ListValue::Missing) => Some((&finding::LAST_GOOD_MISSING, format!("{last_good} does not exist"))),
        _ => None,
    }
}

fn judge_age(market: Market, lists: &MarketLists, settings: &DoctorSettings) -> Option<Problem> {
    let Some(age) = lists.age_seconds else {
        let what = format!("{} holds no time", CacheKeys(market).last_refresh());
        return lists
            .primary
            .is_list()
            .then_some((&finding::LIST_AGE_UNKNOWN, what));
    };
    if age < -GRACE_SECONDS {
        let ahead = span(-age);
        let key = CacheKeys(market).last_refresh();
        let what = format!("{key} dates the last refresh {ahead} ahead of the server's clock");
        return Some((&finding::REFRESH_IN_FUTURE, what));
    }
    let interval = (*settings.schedule.warmup_interval.get(market))?.as_secs();
    let interval = i64::try_from(interval).unwrap_or(i64::MAX);
    let late = age > interval.saturating_mul(2).saturating_add(GRACE_SECONDS);
    (late && lists.primary.is_list()).then(|| {
        let (age, interval) = (span(age), span(interval));
        let what = format!("the last refresh was {age} ago, the interval is {interval}");
        (&finding::LIST_STALE, what)
    })
}

/// A list of the sandbox is wrong unless the sandbox is the configured exchange.
fn judge_network(market: Market, lists: &MarketLists, settings: &DoctorSettings) -> Option<Problem> {
    let source = lists.source.as_ref()?;
    if settings.binance.base_urls.get(market).contains(&source.host) {
        return None;
    }
    let wanted = if settings.binance.testnet {
        ListNetwork::Testnet
    } else {
        ListNetwork::Mainnet
    };
    if source.network == ListNetwork::Sandbox {
        let what = format!("the list is made up by the sandbox at {}", source.host);
        return Some((&finding::LIST_SANDBOX, what));
    }
    (source.network != wanted).then(|| {
        let (network, host) = (source.network, &source.host);
        let what = format!("the list is of the {network:?} ({host}), but the {wanted:?} is configured");
        (&finding::LIST_WRONG_NETWORK, what.to_lowercase())
    })
}

fn judge_refused(lists: &MarketLists) -> Option<Problem> {
    let refused = lists.refused.as_ref()?;
    let (times, last) = (refused.times, &refused.last);
    let what = format!(
        "{times} lists of other programs were refused within a day, the last one {} ago: {}",
        span(last.seconds_ago),
        last.why
    );
    Some((&finding::LISTS_REFUSED, what))
}

fn judge_held_back(lists: &MarketLists) -> Option<Problem> {
    let held_back = lists.held_back.as_ref()?;
    let what = format!(
        "the exchange's list was first held back {} ago: {}",
        span(held_back.seconds_ago),
        held_back.why
    );
    Some((&finding::LIST_HELD_BACK, what))
}

/// Refreshes for readers hide that warm-ups fail.
fn judge_warmups(market: Market, lists: &MarketLists, settings: &DoctorSettings) -> Option<Problem> {
    let interval = (*settings.schedule.warmup_interval.get(market))?.as_secs();
    let patience = i64::try_from(interval.saturating_mul(INTERVALS))
        .ok()?
        .saturating_add(GRACE_SECONDS);
    let succeeded = lists
        .recent
        .as_ref()
        .is_some_and(|recent| recent.counts.successes > 0);
    let age = lists
        .last_warmup_seconds
        .filter(|age| *age > patience && !succeeded)?;
    let what = format!(
        "no warm-up has succeeded for {}{}",
        span(age),
        last_failure(lists)
    );
    Some((&finding::WARMUPS_FAILING, what))
}

fn last_failure(lists: &MarketLists) -> String {
    lists.last_failure.as_ref().map_or(String::new(), |failure| {
        let ago = span(failure.seconds_ago);
        format!("; the last failure, {ago} ago: {}", failure.why)
    })
}

fn judge_counters(lists: &MarketLists) -> Vec<Problem> {
    let (counts, since) = match &lists.recent {
        Some(recent) => (recent.counts, format!("in the last {}", span(recent.seconds))),
        None => (lists.counts, "so far".to_owned()),
    };
    let mut found = Vec::new();
    let reads = counts.hits + counts.misses;
    if reads >= ENOUGH_READS && counts.miss_ratio().is_some_and(|ratio| ratio > MISSES) {
        let what = format!("{} of {reads} reads missed {since}", counts.misses);
        found.push((&finding::CACHE_MISSES, what));
    }
    if counts.errors > 0 && counts.successes == 0 {
        let what = format!(
            "{} refreshes failed and none succeeded {since}{}",
            counts.errors,
            last_failure(lists)
        );
        found.push((&finding::REFRESHES_FAILING, what));
    }
    found
}
