//! Response headers that public and signed calls both read.

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::error::parse_retry_after;

/// A header's value, if it is ASCII text.
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// The pause in `Retry-After`, if it is usable.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    parse_retry_after(text(headers, RETRY_AFTER.as_str())?, now)
}

/// The request weight that the exchange has counted for this address within a minute.
pub(super) fn used_weight(headers: &HeaderMap) -> Option<u32> {
    ["x-mbx-used-weight-1m", "x-mbx-used-weight"]
        .iter()
        .find_map(|name| text(headers, name)?.trim().parse().ok())
}
