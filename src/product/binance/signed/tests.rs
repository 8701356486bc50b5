use super::*;

/// The exchange's published samples.
const SAMPLE_SECRET: &str = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j";

fn order(symbol: &str) -> String {
    query(&[
        ("symbol", symbol),
        ("side", "BUY"),
        ("type", "LIMIT"),
        ("timeInForce", "GTC"),
        ("quantity", "1"),
        ("price", "0.1"),
        ("recvWindow", "5000"),
        ("timestamp", "1499827319559"),
    ])
}

#[test]
fn signatures_are_those_of_the_published_samples() {
    let secret = Secret::new(SAMPLE_SECRET);
    let query = order("LTCBTC");
    assert_eq!(
        query,
        "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559"
    );
    assert_eq!(
        *sign(&secret, &query),
        "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
    );
    let query = order("１２３４５６");
    assert!(query.starts_with("symbol=%EF%BC%91%EF%BC%92%EF%BC%93%EF%BC%94%EF%BC%95%EF%BC%96&side=BUY&"));
    assert_eq!(
        *sign(&secret, &query),
        "e1353ec6b14d888f1164ae9af8228a3dbd508bc82eb867db8ab6046442f33ef3"
    );
}

#[test]
fn everything_that_is_not_unreserved_is_encoded() {
    assert_eq!(query(&[("a b", "+&=/~._-")]), "a%20b=%2B%26%3D%2F~._-");
    assert_eq!(query(&[]), "");
}

#[test]
fn keys_go_by_https_or_to_this_machine_and_to_hosts_with_accounts() {
    for good in [
        "https://api.binance.com",
        "https://proxy.example:8443",
        "http://127.0.0.1:8010",
        "http://[::1]:8010",
        "http://localhost:8010",
    ] {
        assert!(may_be_sent_a_key(good), "{good}");
    }
    for bad in [
        "http://api.binance.com",
        "http://127.0.0.1.example.com",
        "http://10.0.0.1",
        "https://data-api.binance.vision",
        "ftp://localhost.example",
        "nonsense",
    ] {
        assert!(!may_be_sent_a_key(bad), "{bad}");
    }
}

#[test]
fn a_key_is_not_printed() {
    let key = ApiKey {
        key: Secret::new("canary"),
        secret: Secret::new("canary"),
    };
    assert!(!format!("{key:?}").contains("canary"));
}

#[tokio::test(start_paused = true)]
async fn a_clock_offset_is_trusted_for_half_an_hour() {
    let offset = ClockOffset {
        ms: 0,
        measured: Instant::now(),
    };
    tokio::time::advance(Duration::from_secs(29 * 60)).await;
    assert!(offset.is_current());
    tokio::time::advance(Duration::from_secs(2 * 60)).await;
    assert!(!offset.is_current());
}
