//! Values in Python's notation, for people who read Flower. Nothing parses these texts.
//!
//! Arguments and results follow `celery.utils.saferepr`: cut at about 1,024 characters and three levels of nesting,
//! with every open bracket closed. Strings are quoted with `'`, and nothing else is escaped. Exceptions follow
//! Python's own `repr`.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::opaque;

const MAX_CHARS: usize = 1024;
const MAX_DEPTH: usize = 3;

/// Positional arguments as a Python tuple: `()`, `(1,)`, `(1, 'a')`.
#[must_use]
pub fn args(values: &[Value]) -> String {
    let mut writer = SafeRepr::new(MAX_CHARS);
    let end = if values.len() == 1 { ",)" } else { ")" };
    writer.items("(", end, values, |writer, value| writer.value(value));
    writer.out
}

/// Keyword arguments as a Python dict: `{'a': 1}`.
#[must_use]
pub fn kwargs(values: &Map<String, Value>) -> String {
    let mut writer = SafeRepr::new(MAX_CHARS);
    writer.object(values);
    writer.out
}

/// Any value.
#[must_use]
pub fn value(value: &Value) -> String {
    let mut writer = SafeRepr::new(MAX_CHARS);
    writer.value(value);
    writer.out
}

/// Values as Python's `repr` shows them, separated by commas and never cut.
#[must_use]
pub fn plain(values: &[Value]) -> String {
    joined(values.iter().map(plain_value))
}

/// `saferepr`: writes tokens until the characters are used up, then the closing brackets.
struct SafeRepr {
    out: String,
    left: usize,
    depth: usize,
    cut: bool,
}

impl SafeRepr {
    fn new(left: usize) -> Self {
        Self {
            out: String::new(),
            left,
            depth: 0,
            cut: false,
        }
    }

    /// Writes a token if there is room left. Returns `false` once there is none.
    fn token(&mut self, token: impl FnOnce(usize) -> String) -> bool {
        if self.cut {
            return false;
        }
        if self.left == 0 {
            self.out.push_str(", ...");
            self.cut = true;
            return false;
        }
        let text = token(self.left);
        self.left = self.left.saturating_sub(text.chars().count());
        self.out.push_str(&text);
        true
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.word("None"),
            Value::Bool(true) => self.word("True"),
            Value::Bool(false) => self.word("False"),
            Value::Number(number) => self.word(&python_number(number)),
            Value::String(text) => self.text(text),
            Value::Array(items) => self.items("[", "]", items, |writer, item| writer.value(item)),
            Value::Object(fields) => self.object(fields),
        }
    }

    fn object(&mut self, fields: &Map<String, Value>) {
        self.items("{", "}", fields, |writer, (name, value)| {
            writer.text(name);
            writer.token(|_| ": ".into());
            writer.value(value);
        });
    }

    fn items<T>(
        &mut self,
        start: &str,
        end: &str,
        items: impl IntoIterator<Item = T>,
        write: impl Fn(&mut Self, T),
    ) {
        if self.depth == MAX_DEPTH {
            self.token(|_| format!("{start}...{end}"));
            return;
        }
        if !self.token(|_| start.into()) {
            return;
        }
        self.depth += 1;
        for (number, item) in items.into_iter().enumerate() {
            if number > 0 {
                self.token(|_| ", ".into());
            }
            write(self, item);
            if self.cut {
                break;
            }
        }
        self.depth -= 1;
        // Close the bracket even if there is no room left.
        self.left = self.left.saturating_sub(end.len());
        self.out.push_str(end);
    }

    fn text(&mut self, text: &str) {
        match opaque::text_of(text) {
            None => {
                self.token(|left| quoted(text, left));
            }
            Some(json) if json.starts_with('"') => {
                let content = opaque::content(json, str::to_owned);
                self.token(|left| quoted(&content, left));
            }
            Some(json) => self.word(&opaque_word(json)),
        }
    }

    fn word(&mut self, word: &str) {
        self.token(|left| truncated(word, left));
    }
}

fn quoted(text: &str, left: usize) -> String {
    format!("'{}'", truncated(text, left).replace('\'', "\\'"))
}

/// `celery.utils.text.truncate`: cuts at a space if there is one.
fn truncated(text: &str, length: usize) -> String {
    // Most strings are already short enough in bytes.
    if text.len() < length {
        return text.to_owned();
    }
    let mut ends = text.char_indices().skip(length - 1);
    if ends.next().is_none() {
        return text.to_owned();
    }
    let end = ends.next().map_or(text.len(), |(at, _)| at);
    let head = &text[..end];
    let head = head.rsplit_once(' ').map_or(head, |(head, _)| head);
    format!("{head}...")
}

fn plain_value(value: &Value) -> String {
    match value {
        Value::Null => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Number(number) => python_number(number),
        Value::String(text) => plain_text(text),
        Value::Array(items) => format!("[{}]", plain(items)),
        Value::Object(fields) => {
            let field =
                |(name, value): (&String, &Value)| format!("{}: {}", plain_text(name), plain_value(value));
            format!("{{{}}}", joined(fields.iter().map(field)))
        }
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// A string as Python's `str` shows it.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    match opaque::text_of(text) {
        None => text.into(),
        Some(json) if json.starts_with('"') => opaque::content(json, str::to_owned).into(),
        Some(json) => opaque_word(json).into(),
    }
}

/// A value that is carried as its JSON text, unless that is a string's.
fn opaque_word(json: &str) -> String {
    match json {
        "NaN" => "nan".into(),
        "Infinity" => "inf".into(),
        "-Infinity" => "-inf".into(),
        _ if json.starts_with('[') => "[...]".into(),
        _ if json.starts_with('{') => "{...}".into(),
        // Beyond what a float can hold.
        _ if json.contains(['.', 'e', 'E']) => if json.starts_with('-') { "-inf" } else { "inf" }.into(),
        integer => integer.into(),
    }
}

/// Quotes a string as Python does: with `'`, unless the string has that and no `"`.
fn plain_text(text: &str) -> String {
    let json = opaque::text_of(text);
    if let Some(json) = json.filter(|json| !json.starts_with('"')) {
        return opaque_word(json);
    }
    let shown = self::text(text);
    let quote = if shown.contains('\'') && !shown.contains('"') {
        '"'
    } else {
        '\''
    };
    let content = match json {
        Some(json) => opaque::content(json, |text| escaped(text, quote)),
        None => escaped(text, quote),
    };
    format!("{quote}{content}{quote}")
}

fn escaped(text: &str, quote: char) -> String {
    let mut out = String::with_capacity(text.len() + 2);
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
    out
}

/// A number as Python writes it: floats from 1e16 up and below 0.0001 have an exponent of at least two digits.
fn python_number(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.to_string();
    };
    let scientific = format!("{float:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(small @ ..-4) => format!("{digits}e-{:02}", -small),
        Ok(large @ 16..) => format!("{digits}e+{large:02}"),
        _ => format!("{float:?}"),
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
            r"(2, 'it\'s', None, True)"
        );
        assert_eq!(
            kwargs(json!({"a": 1.5, "b": ["x"]}).as_object().unwrap()),
            r"{'a': 1.5, 'b': ['x']}"
        );
        assert_eq!(
            value(&json!([[[[1]]], {"a": {"b": {}}}])),
            "[[[[...]]], {'a': {'b': {...}}}]"
        );
        assert_eq!(
            plain(&[json!("it's\n"), json!("\"'"), json!(7)]),
            r#""it's\n", '"\'', 7"#
        );
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        for (number, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e120, "-1.25e+120"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (0.0, "0.0"),
        ] {
            assert_eq!(value(&json!(number)), text);
        }
        assert_eq!(value(&json!(u64::MAX)), u64::MAX.to_string());
    }

    #[test]
    fn long_values_are_cut_between_characters_and_closed() {
        let text = value(&json!("币".repeat(5000)));
        assert_eq!(text.chars().count(), 1024 + 3 + 2);
        let text = value(&json!([vec!["a"; 2000], [1]]));
        assert!(text.ends_with("'a', ...]]"), "{text}");
        assert!(text.len() < 1024 + 20);
        assert_eq!(truncated("one two three", 9), "one two...");
        assert_eq!(truncated("one", 4), "one");
    }
}
