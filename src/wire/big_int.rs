//! Integers beyond 64 bits: Python writes them like any other, `serde_json` can hold them only as floats.
//!
//! They only pass through this worker, for example from a result to the next task. In memory they are strings with a
//! random prefix that no sender can guess; writing removes it.
//!
//! The feature `arbitrary_precision` of serde_json is no alternative. It is global and hands numbers to
//! `deserialize_any` as maps, so that jsonwebtoken could no longer read the `exp` of a token.

use std::borrow::Cow;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

/// Digits that always fit 64 bits.
const SAFE_DIGITS: usize = 18;

/// The prefix of a marked integer. Only its first character needs an escape in JSON.
static MARK: LazyLock<String> = LazyLock::new(|| format!("\u{f8ff}{}:", Uuid::new_v4().simple()));
/// The prefix as it is written in JSON, with the opening quote.
static WRITTEN: LazyLock<String> = LazyLock::new(|| format!("\"\\uf8ff{}", &MARK['\u{f8ff}'.len_utf8()..]));
/// Whether any integer was ever marked. Until then, writing need not search for the prefix.
static ANY: AtomicBool = AtomicBool::new(false);

/// Turns integers beyond 64 bits into marked strings. Returns the JSON itself if it has none.
pub(super) fn mark(json: &[u8]) -> Cow<'_, [u8]> {
    if !has_long_number(json) {
        return Cow::Borrowed(json);
    }
    let mut out = Vec::with_capacity(json.len() + 64);
    let (mut at, mut in_text) = (0, false);
    while let Some(byte) = json.get(at).copied() {
        let end = match byte {
            b'\\' if in_text => at + 2,
            b'-' | b'0'..=b'9' if !in_text => {
                let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                at + json[at..].iter().take_while(|byte| is_part(byte)).count()
            }
            _ => at + 1,
        };
        let token = &json[at..end.min(json.len())];
        if !in_text && is_beyond(token) {
            ANY.store(true, Ordering::Relaxed);
            out.push(b'"');
            out.extend_from_slice(MARK.as_bytes());
            out.extend_from_slice(token);
            out.push(b'"');
        } else {
            out.extend_from_slice(token);
        }
        in_text ^= byte == b'"';
        at = end;
    }
    Cow::Owned(out)
}

/// Turns marked strings in written JSON back into integers.
pub(super) fn unmark(json: String) -> String {
    if !ANY.load(Ordering::Relaxed) || !json.contains(WRITTEN.as_str()) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    let mut parts = json.split(WRITTEN.as_str());
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        // The digits end at the closing quote.
        let (digits, rest) = part.split_once('"').unwrap_or((part, ""));
        out.push_str(digits);
        out.push_str(rest);
    }
    out
}

/// The digits of a marked integer.
pub(super) fn digits(text: &str) -> Option<&str> {
    if ANY.load(Ordering::Relaxed) {
        text.strip_prefix(MARK.as_str())
    } else {
        None
    }
}

/// Whether the JSON has a run of more than [`SAFE_DIGITS`] digits. Such a run covers one of every
/// `SAFE_DIGITS + 1` bytes, so only those are looked at.
fn has_long_number(json: &[u8]) -> bool {
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

fn is_beyond(token: &[u8]) -> bool {
    let digits = token.strip_prefix(b"-").unwrap_or(token);
    digits.len() > SAFE_DIGITS
        && digits.iter().all(u8::is_ascii_digit)
        && std::str::from_utf8(token)
            .is_ok_and(|token| token.parse::<i64>().is_err() && token.parse::<u64>().is_err())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::python_json;

    #[test]
    fn integers_of_any_size_pass_through() {
        for json in [
            "[12345678901234567890123, -9223372036854775809, 18446744073709551616, 1]",
            "[18446744073709551615, -9223372036854775808, 9223372036854775807]",
            r#"{"a": {"12345678901234567890123": 12345678901234567890123}}"#,
            r#"["12345678901234567890123", "\"12345678901234567890123", "\\", 12345678901234567890123]"#,
            "12345678901234567890123",
            "0.12345678901234566",
        ] {
            let value = python_json::from_slice::<Value>(json.as_bytes()).unwrap();
            assert_eq!(python_json::to_string(&value).unwrap(), json);
        }
    }

    #[test]
    fn long_fractions_and_exponents_stay_floats() {
        for json in [
            "0.1234567890123456789012345",
            "12345678901234567890123e1",
            "1.5e300",
        ] {
            let value = python_json::from_slice::<Value>(json.as_bytes()).unwrap();
            assert_eq!(value, serde_json::from_str::<Value>(json).unwrap());
        }
    }

    proptest::proptest! {
        #[test]
        fn any_integer_survives(number: i128, pad in 0_usize..40) {
            let json = format!("[{}{number}]", " ".repeat(pad));
            let value = python_json::from_slice::<Value>(json.as_bytes()).unwrap();
            proptest::prop_assert_eq!(python_json::to_string(&value).unwrap(), format!("[{number}]"));
        }

        #[test]
        fn other_texts_are_left_alone(text: String) {
            let json = python_json::to_string(&text).unwrap();
            let marked = super::mark(json.as_bytes());
            proptest::prop_assert_eq!(marked.as_ref(), json.as_bytes());
        }
    }
}
