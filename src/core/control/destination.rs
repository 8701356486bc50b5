//! The nodes that a request is for: named, matching a pattern, or all.

use regex_lite::{Regex, escape};
use serde_json::Value;
use tracing::warn;

use tradebot_wire::pidbox::PidboxRequest;

/// Whether the request is for `node`. As in kombu, names take precedence over a pattern.
pub(super) fn is_for(request: &PidboxRequest, node: &str) -> bool {
    match (&request.destination, &request.pattern) {
        (Value::Array(names), _) if !names.is_empty() => names.iter().any(|name| name == node),
        // Python's `in` finds a part of the text too.
        (Value::String(names), _) if !names.is_empty() => names.contains(node),
        (_, Some((pattern, matcher))) => matches(node, pattern, matcher),
        _ => true,
    }
}

fn matches(node: &str, pattern: &str, matcher: &str) -> bool {
    let expression = match matcher {
        "glob" => format!("^(?s:{})$", translate(pattern)),
        // Python's `re.match`: from the start, not to the end.
        "pcre" => format!("^(?:{pattern})"),
        other => {
            warn!(
                matcher = other,
                "ignored a request: its matcher is neither glob nor pcre"
            );
            return false;
        }
    };
    match Regex::new(&expression) {
        Ok(expression) => expression.is_match(node),
        Err(error) => {
            warn!(pattern, %error, "ignored a request: its pattern of node names is malformed");
            false
        }
    }
}

/// A pattern of Python's `fnmatch` as a regular expression.
fn translate(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '*' => out.push_str(".*"),
            '?' => out.push('.'),
            '[' => {
                // A bracket that stands first belongs to the set.
                let from = usize::from(rest.starts_with('!'));
                let skip = from + usize::from(rest[from..].starts_with(']'));
                let Some(end) = rest[skip..].find(']').map(|end| end + skip) else {
                    out.push_str(r"\[");
                    continue;
                };
                let set = rest[from..end]
                    .replace('\\', r"\\")
                    .replace('[', r"\[")
                    .replace(']', r"\]")
                    .replace('^', r"\^")
                    .replace('&', r"\&")
                    .replace('~', r"\~");
                let not = if from == 1 { "^" } else { "" };
                out.push_str(&format!("[{not}{set}]"));
                rest = &rest[end + 1..];
            }
            other => out.push_str(&escape(&other.to_string())),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    fn request(destination: Value, pattern: Option<(&str, &str)>) -> PidboxRequest {
        PidboxRequest {
            method: "ping".into(),
            arguments: Map::new(),
            destination,
            pattern: pattern.map(|(pattern, matcher)| (pattern.into(), matcher.into())),
            reply_to: None,
        }
    }

    #[test]
    fn names_patterns_and_nothing_are_told_apart() {
        for (destination, pattern, hit) in [
            (Value::Null, None, true),
            (json!([]), None, true),
            (json!(["w@h"]), None, true),
            (json!(["w@h"]), Some(("x*", "glob")), true),
            (json!(["v@h"]), Some(("w*", "glob")), false),
            (Value::Null, Some(("w@*", "glob")), true),
            (Value::Null, Some(("?@[!a-g]", "glob")), true),
            (Value::Null, Some(("?@[]g]", "glob")), false),
            (Value::Null, Some(("w@[h", "glob")), false),
            (Value::Null, Some(("w", "glob")), false),
            (Value::Null, Some(("w", "pcre")), true),
            (Value::Null, Some(("@", "pcre")), false),
            (Value::Null, Some(("w(", "pcre")), false),
            (Value::Null, Some(("w", "other")), false),
        ] {
            let asked = request(destination.clone(), pattern);
            assert_eq!(is_for(&asked, "w@h"), hit, "{destination} {pattern:?}");
        }
    }
}
