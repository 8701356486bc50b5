//! `argsrepr` and `kwargsrepr`: arguments in Python's own notation, for people who read Flower.
//!
//! Nothing parses these texts. They are cut at 1,024 characters and at three levels of nesting, about where
//! Celery's `saferepr` cuts.

use serde_json::{Map, Value};

const MAX_CHARS: usize = 1024;
const MAX_DEPTH: usize = 3;

/// Positional arguments as a Python tuple: `()`, `(1,)`, `(1, 'a')`.
#[must_use]
pub fn args(values: &[Value]) -> String {
    let inner = joined(values.iter().map(|value| of(value, 1)));
    let comma = if values.len() == 1 { "," } else { "" };
    cut(format!("({inner}{comma})"))
}

/// Keyword arguments as a Python dict: `{'a': 1}`.
#[must_use]
pub fn kwargs(values: &Map<String, Value>) -> String {
    cut(object(values, 1))
}

/// Any value.
#[must_use]
pub fn value(value: &Value) -> String {
    cut(of(value, 0))
}

fn of(value: &Value, depth: usize) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(_) | Value::Object(_) if depth >= MAX_DEPTH => "...".into(),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(|item| of(item, depth + 1)))),
        Value::Object(fields) => object(fields, depth),
    }
}

fn object(fields: &Map<String, Value>, depth: usize) -> String {
    let inner = joined(
        fields
            .iter()
            .map(|(name, item)| format!("{}: {}", quoted(name), of(item, depth + 1))),
    );
    format!("{{{inner}}}")
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(&part);
        if text.len() > 4 * MAX_CHARS {
            break;
        }
    }
    text
}

/// Python quotes with `'` unless that occurs in the text and `"` does not.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn cut(text: String) -> String {
    match text.char_indices().nth(MAX_CHARS) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn notation_is_pythons() {
        assert_eq!(args(&[]), "()");
        assert_eq!(args(&[json!(2)]), "(2,)");
        assert_eq!(
            args(&[json!(2), json!("it's"), json!(null), json!(true)]),
            r#"(2, "it's", None, True)"#
        );
        assert_eq!(
            kwargs(json!({"a": 1.5, "b": ["x\n"]}).as_object().unwrap()),
            r"{'a': 1.5, 'b': ['x\n']}"
        );
        assert_eq!(value(&json!([[[[1]]]])), "[[[...]]]");
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let text = value(&json!("币".repeat(5000)));
        assert_eq!(text.chars().count(), MAX_CHARS + 3);
    }
}
