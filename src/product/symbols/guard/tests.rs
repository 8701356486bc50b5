use std::collections::BTreeMap;

use super::*;
use crate::product::symbols::cache::{FetchedBy, ListSource};
use tradebot_base::config::Reader;

const AT: i64 = 1_800_000_000_000;

fn config() -> SymbolsConfig {
    let vars = BTreeMap::new();
    SymbolsConfig::read(&mut Reader::new(&vars))
}

/// So many symbols, the anchors among them.
fn symbols(count: usize) -> Vec<Symbol> {
    let bases = ["BTC".to_owned(), "ETH".to_owned()]
        .into_iter()
        .chain((0..).map(|number| format!("C{number}")));
    bases
        .take(count)
        .map(|base| Symbol {
            symbol: format!("{base}USDT"),
            base_asset: base,
            quote_asset: "USDT".into(),
            status: "TRADING".into(),
        })
        .collect()
}

fn in_place(count: usize) -> SymbolList {
    let source = ListSource {
        network: ListNetwork::Mainnet,
        host: "https://h".into(),
        fetched_at: AT / 1000,
        count,
        server_time: Some(AT),
        by: Some(FetchedBy::Warmup),
        sha1: String::new(),
        everything_sha1: None,
    };
    let json = serde_json::to_vec(&symbols(count)).unwrap();
    SymbolList::read(json, Some(AT / 1000), Some(source)).unwrap()
}

fn judged(
    symbols: &[Symbol],
    server_time: i64,
    accepted: Option<&SymbolList>,
    held_back: Option<HeldBackList>,
    now_ms: i64,
) -> GuardVerdict {
    let proposed = ProposedList {
        symbols,
        network: ListNetwork::Mainnet,
        server_time: Some(server_time),
    };
    judge(&proposed, accepted, held_back, &config(), now_ms)
}

fn held_back(verdict: GuardVerdict) -> (HeldBackList, Duration) {
    match verdict {
        GuardVerdict::HoldBack {
            candidate,
            confirm_in,
        } => (candidate, confirm_in),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_list_may_lose_what_a_market_loses_in_days() {
    let before = in_place(100);
    for (count, accepted) in [(120, true), (100, true), (80, true), (79, false), (2, false)] {
        let verdict = judged(&symbols(count), AT + 1, Some(&before), None, AT);
        assert_eq!(verdict == GuardVerdict::Accept, accepted, "{count}: {verdict:?}");
    }
    assert_eq!(
        judged(&symbols(2), AT, None, None, AT),
        GuardVerdict::Accept,
        "nothing to compare with"
    );
}

#[test]
fn each_concern_is_told() {
    let before = in_place(10);
    let (candidate, _) = held_back(judged(&symbols(12)[1..], AT, Some(&before), None, AT));
    assert_eq!(describe(candidate.concerns()), "BTCUSDT is missing");
    let (candidate, _) = held_back(judged(&symbols(10), AT - 3_600_000, Some(&before), None, AT));
    assert_eq!(candidate.concerns(), [ListConcern::Older]);
    assert_eq!(
        judged(&symbols(10), AT - 1_000, Some(&before), None, AT),
        GuardVerdict::Accept,
        "clocks of two hosts"
    );
    let proposed = ProposedList {
        symbols: &symbols(10),
        network: ListNetwork::Testnet,
        server_time: None,
    };
    let (candidate, _) = held_back(judge(&proposed, Some(&before), None, &config(), AT));
    let (from, to) = (ListNetwork::Mainnet, ListNetwork::Testnet);
    assert_eq!(candidate.concerns(), [ListConcern::Network { from, to }]);
}

#[test]
fn a_second_fetch_confirms_after_some_seconds() {
    let before = in_place(100);
    let first = symbols(50);
    let (candidate, wait) = held_back(judged(&first, AT + 1_000, Some(&before), None, AT));
    assert_eq!(wait, Duration::from_secs(5));

    let again = |symbols: &[Symbol], server_time, now_ms| {
        judged(
            symbols,
            server_time,
            Some(&before),
            Some(candidate.clone()),
            now_ms,
        )
    };
    let (early, wait) = held_back(again(&first, AT + 4_000, AT + 3_000));
    assert_eq!(
        (early, wait),
        (candidate.clone(), Duration::from_secs(2)),
        "too early"
    );
    let (same, _) = held_back(again(&first, AT + 1_000, AT + 6_000));
    assert_eq!(same, candidate, "the same answer over again");
    let (other, wait) = held_back(again(&symbols(30), AT + 7_000, AT + 6_000));
    assert_eq!(wait, Duration::from_secs(5), "another list begins anew");
    assert_eq!(other.first_seen_ms, AT + 6_000);
    let (back, wait) = held_back(again(&first, AT + 7_000, AT - 60_000));
    assert_eq!(
        (back.first_seen_ms, wait),
        (AT - 60_000, Duration::from_secs(5)),
        "a clock that was set back"
    );
    let confirmed = GuardVerdict::Confirmed(vec![ListConcern::Shrunk]);
    assert_eq!(again(&first, AT + 6_000, AT + 5_000), confirmed);
    assert_eq!(
        again(&symbols(51), AT + 6_000, AT + 5_000),
        confirmed,
        "about the same"
    );
    assert_eq!(
        again(&symbols(99), AT + 6_000, AT + 1),
        GuardVerdict::Accept,
        "all is well again"
    );
}

#[test]
fn an_old_answer_is_confirmed_only_by_a_clock_that_moves() {
    let before = in_place(10);
    let old = AT - 7_200_000;
    let (candidate, _) = held_back(judged(&symbols(10), old, Some(&before), None, AT));
    let second = |server_time| {
        judged(
            &symbols(10),
            server_time,
            Some(&before),
            Some(candidate.clone()),
            AT + 9_000,
        )
    };
    held_back(second(old));
    assert_eq!(
        second(old + 9_000),
        GuardVerdict::Confirmed(vec![ListConcern::Older])
    );
}

#[test]
fn a_made_up_list_neither_waits_nor_keeps_a_real_one_waiting() {
    let real = in_place(100);
    let sandbox = ListSource {
        network: ListNetwork::Sandbox,
        ..real.source().unwrap().clone()
    };
    let made_up = SymbolList::read(real.json().clone(), Some(AT / 1000), Some(sandbox)).unwrap();
    assert_eq!(
        judged(&symbols(3), AT - 9_000_000, Some(&made_up), None, AT),
        GuardVerdict::Accept
    );
    let proposed = ProposedList {
        symbols: &symbols(3)[1..],
        network: ListNetwork::Sandbox,
        server_time: None,
    };
    assert_eq!(
        judge(&proposed, Some(&real), None, &config(), AT),
        GuardVerdict::Accept
    );
}
