//! Status 200 with a body that is no usable list.

use tradebot_test_support::{Process, Reply};

use super::{Trial, at_once, bad, html, in_vain};
use crate::world::{exchange_info, good_list};

#[tokio::test]
async fn a_damaged_body_leaves_the_lists_alone() {
    let trial = Trial::start().await;
    let list = good_list();
    let half = list.len() / 2;
    let whole = || Reply::json(&list);
    let cut = "cut off or damaged";
    let damaged = [
        bad("fewer bytes than announced", whole().truncated_at(half), cut),
        bad("no last chunk", whole().chunked().truncated_at(half), cut),
        bad(
            "all chunks and no end",
            whole().chunked().truncated_at(list.len()),
            cut,
        ),
        bad(
            "gzip in name only",
            whole().header("Content-Encoding", "gzip"),
            cut,
        ),
        bad("gzip cut", whole().gzip().truncated_at(60), cut),
        bad("gzip with a wrong checksum", wrong_checksum(&list), cut),
        bad("no HTTP", Reply::raw("garbage\r\n\r\n"), cut),
        bad("closed at once", Reply::raw(""), cut),
    ];
    trial.assert_refused(in_vain("ConnectionError"), damaged).await;
    let unreadable = [
        bad(
            "cut, length unknown",
            Reply::json(&list[..half]).without_length(),
            "not an exchangeInfo",
        ),
        bad("gzip twice", whole().gzip().gzip(), "not a JSON object"),
    ];
    trial.assert_refused(in_vain("ValueError"), unreadable).await;
}

/// The list as gzip whose checksum does not fit.
fn wrong_checksum(list: &str) -> Reply {
    use std::io::Write;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(list.as_bytes()).expect("memory");
    let mut packed = packed.finish().expect("memory");
    let checksum = packed.len() - 8;
    packed[checksum] ^= 0xff;
    Reply::json(packed).header("Content-Encoding", "gzip")
}

#[tokio::test]
async fn a_body_that_is_no_list_leaves_the_lists_alone() {
    let trial = Trial::start().await;
    let trailing = format!("{} {{}}", good_list());
    let mut invalid = good_list().into_bytes();
    let name = good_list().find("ETHUSDT").expect("a name");
    invalid[name] = 0xff;
    let unreadable = "not an exchangeInfo document";
    let strange = [
        bad("empty body", Reply::json(""), "not a JSON object"),
        bad("null", Reply::json("null"), "begins with `null`"),
        bad("an array", Reply::json("[]"), "begins with `[]`"),
        bad("a number", Reply::json("7"), "begins with `7`"),
        bad("an empty object", Reply::json("{}"), "has no `symbols`"),
        bad("HTML", html(200, "Are you a robot?"), "begins with `<html>"),
        bad("no JSON", Reply::json("{symbols: []}"), unreadable),
        bad(
            "symbols of another type",
            Reply::json(r#"{"symbols":{}}"#),
            unreadable,
        ),
        bad("something behind it", Reply::json(trailing), unreadable),
        bad("no UTF-8 in a name", Reply::json(invalid), unreadable),
    ];
    trial.assert_refused(in_vain("ValueError"), strange).await;
    let error = r#"{"code":-1121,"msg":"Invalid symbol."}"#;
    let error = bad("error -1121", Reply::json(error), "error -1121: Invalid symbol.");
    trial.assert_refused(at_once("ValueError"), [error]).await;
    let blocked = r#"{"code":0,"msg":"restricted location"}"#;
    let blocked = bad(
        "error 0",
        Reply::json(blocked),
        "(status 451): restricted location",
    );
    trial.assert_refused(at_once("RuntimeError"), [blocked]).await;
}

#[tokio::test]
async fn a_list_that_would_be_empty_leaves_the_lists_alone() {
    let trial = Trial::start().await;
    let paused = exchange_info(&[("BTC", "USDT", "BREAK"), ("ETH", "USDT", "HALT")]);
    let others = exchange_info(&[("BTC", "BUSD", "TRADING"), ("ETH", "EUR", "TRADING")]);
    let empty = [
        bad("no symbols", Reply::json(r#"{"symbols":[]}"#), "0 symbols in all"),
        bad("all paused", Reply::json(paused), "2 symbols in all"),
        bad(
            "all in other assets",
            Reply::json(others),
            "quoted in USDT (2 symbols",
        ),
    ];
    trial.assert_refused(at_once("ValueError"), empty).await;
}

#[tokio::test]
async fn a_body_without_end_costs_little_memory_and_leaves_the_lists_alone() {
    let trial = Trial::start().await;
    let before = peak_memory_mb(&trial.worker);
    let gigabyte = || Reply::json(vec![b' '; 1 << 20]).times(1 << 10);
    let endless = [
        bad("gzip bomb", bomb(1 << 10), "larger than"),
        bad(
            "1 GB without a length",
            gigabyte().without_length(),
            "larger than",
        ),
        bad("1 GB in chunks", gigabyte().chunked(), "larger than"),
    ];
    trial.assert_refused(at_once("ValueError"), endless).await;
    let peak = peak_memory_mb(&trial.worker);
    assert!(peak < 400, "{peak} MB at most, {before} MB before");
}

/// A small gzip body that unpacks to so many megabytes: one compressed block, repeated.
fn bomb(megabytes: usize) -> Reply {
    use flate2::{Compress, Compression, FlushCompress, Status};
    let blanks = vec![b' '; 1 << 20];
    let mut block = Vec::with_capacity(1 << 16);
    let status =
        Compress::new(Compression::best(), false).compress_vec(&blanks, &mut block, FlushCompress::Full);
    assert!(
        matches!(status, Ok(Status::Ok)) && block.len() < 1 << 14,
        "{status:?}"
    );
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let body = [&header[..], &block.repeat(megabytes)].concat();
    Reply::json(body).header("Content-Encoding", "gzip")
}

/// The most memory that the process ever held.
fn peak_memory_mb(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("a Linux machine");
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("VmHWM");
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("kilobytes");
    kilobytes >> 10
}
