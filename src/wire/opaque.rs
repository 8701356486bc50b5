//! Values that `serde_json` cannot hold, carried through this worker as their text.
//!
//! Python reads and writes more than standard JSON: integers of any size, `NaN`, `Infinity`, `1e400`, strings with half
//! of a surrogate pair, and any depth. In memory such a value is a string: a random prefix that no sender can guess,
//! and the JSON text. Writing gives the text back.
//!
//! The feature `arbitrary_precision` of serde_json is no alternative for integers. It is global and hands numbers to
//! `deserialize_any` as maps, so that jsonwebtoken could no longer read the `exp` of a token.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

/// Arrays and objects within this many others are carried as text. `serde_json` reads 127 levels.
const MAX_DEPTH: usize = 120;
/// Digits that always fit 64 bits.
const SAFE_DIGITS: usize = 18;
/// Length of `\udcff`.
const HALF_LENGTH: usize = 6;

static MARK: LazyLock<String> = LazyLock::new(|| format!("\u{f8ff}{}:", Uuid::new_v4().simple()));

/// Whether any string was ever made to stand for a value.
static ANY: AtomicBool = AtomicBool::new(false);

/// The string that stands for a value with this JSON text.
pub(super) fn opaque(json: &str) -> String {
    ANY.store(true, Ordering::Relaxed);
    format!("{}{json}", *MARK)
}

/// The JSON text of the value that a string stands for.
pub(super) fn text_of(string: &str) -> Option<&str> {
    string.strip_prefix(MARK.as_str())
}

/// Puts a number in the place of every string that stands for a value; gives the first of these.
pub(super) fn replace(value: &mut Value) -> Option<Value> {
    if !ANY.load(Ordering::Relaxed) {
        return None;
    }
    match value {
        Value::String(text) => {
            text_of(text)?;
            Some(std::mem::replace(value, Value::from(0.5)))
        }
        Value::Array(items) => items.iter_mut().filter_map(replace).reduce(|first, _| first),
        Value::Object(fields) => fields.values_mut().filter_map(replace).reduce(|first, _| first),
        _ => None,
    }
}

/// The JSON text of the value for which a string stands that was not decoded.
pub(super) fn of_raw(string: &str) -> Option<String> {
    string[1..].starts_with(MARK.as_str()).then(|| {
        let decoded: String = serde_json::from_str(string).unwrap_or_default();
        text_of(&decoded).unwrap_or_default().to_owned()
    })
}

/// Turns Python's JSON into standard JSON, with strings for the values that `serde_json` cannot hold. What is not JSON
/// to Python either stays as it is.
pub(super) fn standard(json: &str) -> String {
    hide(json, MAX_DEPTH)
}

fn hide(json: &str, max_depth: usize) -> String {
    let mut out = String::with_capacity(json.len() + 64);
    let (mut rest, mut depth) = (json, 0_usize);
    while let Some(first) = rest.chars().next() {
        let (token, behind) = rest.split_at(match first {
            '"' => string_length(rest),
            '[' | '{' if depth >= max_depth => container_length(rest),
            '-' | '0'..='9' | 'A'..='Z' | 'a'..='z' => word_length(rest),
            other => other.len_utf8(),
        });
        match token {
            "[" | "{" => depth += 1,
            "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if is_beyond(token) && (first == '"' || !is_key(behind)) {
            out.push_str(&serde_json::to_string(&opaque(token)).expect("text is JSON"));
        } else {
            out.push_str(token);
        }
        rest = behind;
    }
    out
}

/// Whether what stands before is the key of a member.
fn is_key(behind: &str) -> bool {
    behind
        .trim_start_matches([' ', '\t', '\n', '\r'])
        .starts_with(':')
}

/// Whether a value is JSON to Python, and none that `serde_json` holds.
fn is_beyond(token: &str) -> bool {
    let is_json = |text: &str| serde_json::from_str::<&RawValue>(text).is_ok();
    match token.as_bytes().first() {
        Some(b'"') => halves(token).next().is_some() && is_json(token),
        // A single bracket is one that is not too deep.
        Some(b'[' | b'{') => token.len() > 1 && is_json(&hide(token, usize::MAX)),
        Some(b'N' | b'I') => matches!(token, "NaN" | "Infinity"),
        Some(b'-' | b'0'..=b'9') => {
            token == "-Infinity"
                || if token.contains(['.', 'e', 'E']) {
                    token.parse().is_ok_and(f64::is_infinite) && is_json(token)
                } else {
                    token.len() > SAFE_DIGITS
                        && token.parse::<i64>().is_err()
                        && token.parse::<u64>().is_err()
                        && is_json(token)
                }
        }
        _ => false,
    }
}

/// Whether the JSON may have an integer beyond 64 bits: a run of more than [`SAFE_DIGITS`] digits. Such a run covers
/// one of every `SAFE_DIGITS + 1` bytes, so only those are looked at.
pub(super) fn has_long_number(json: &[u8]) -> bool {
    let mut at = SAFE_DIGITS;
    while let Some(byte) = json.get(at) {
        if byte.is_ascii_digit() {
            let before = json[..at].iter().rev().take_while(|byte| byte.is_ascii_digit());
            let behind = json[at..].iter().take_while(|byte| byte.is_ascii_digit());
            if before.count() + behind.count() > SAFE_DIGITS {
                return true;
            }
        }
        at += SAFE_DIGITS + 1;
    }
    false
}

/// Length in bytes of the JSON string at the start of `json`, with its quotes.
pub(super) fn string_length(json: &str) -> usize {
    let mut escaped = true;
    let end = json.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 1)
}

/// Length in bytes of the array or object at the start of `json`.
fn container_length(json: &str) -> usize {
    let (mut at, mut open) = (0, 0_usize);
    while let Some(found) = json[at..].find(['"', '[', ']', '{', '}']) {
        at += found;
        match json.as_bytes()[at] {
            b'"' => at += string_length(&json[at..]),
            byte => {
                at += 1;
                if matches!(byte, b'[' | b'{') {
                    open += 1;
                } else if open == 1 {
                    return at;
                } else {
                    open -= 1;
                }
            }
        }
    }
    json.len()
}

fn word_length(json: &str) -> usize {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    json.find(|c| !is_part(c)).unwrap_or(json.len())
}

/// The places of escapes that are half of a surrogate pair, without the other half, in a JSON string.
fn halves(string: &str) -> impl Iterator<Item = usize> {
    let unit = |at: usize| {
        let digits = string.get(at..at + HALF_LENGTH)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(found) = string.get(at..)?.find('\\') {
            let place = at + found;
            let is_half = match (unit(place), unit(place + HALF_LENGTH)) {
                (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => {
                    at = place + 2 * HALF_LENGTH;
                    continue;
                }
                (Some(0xd800..=0xdfff), _) => true,
                _ => false,
            };
            // Behind the backslash and the character that it escapes.
            at = place + 1;
            at += string[at..].chars().next().map_or(1, char::len_utf8);
            if is_half {
                return Some(place);
            }
        }
        None
    })
}

/// The content of a JSON string, as `escape` writes it; halves of surrogate pairs as Python's `repr` does.
pub(super) fn content(string: &str, escape: impl Fn(&str) -> String) -> String {
    let text = |part: &str| -> String {
        let text: String = serde_json::from_str(&format!("\"{part}\"")).unwrap_or_default();
        escape(&text)
    };
    let (mut out, mut from) = (String::new(), 1);
    for place in halves(string) {
        let half = place + HALF_LENGTH;
        out.push_str(&text(&string[from..place]));
        out.push_str(&string[place..half].to_ascii_lowercase());
        from = half;
    }
    out.push_str(&text(&string[from..string.len() - 1]));
    out
}

#[cfg(test)]
#[path = "opaque/tests.rs"]
mod tests;
