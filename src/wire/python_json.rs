//! JSON as Python's `json.dumps` writes it by default.
//!
//! The separators are `", "` and `": "`, and everything outside ASCII is escaped. Readers do not need that, but
//! values with the same bytes on both sides can be compared and hashed. The one difference is in large and tiny
//! floats: `1e16` here is `1e+16` in Python.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};
use serde_json::value::RawValue;

use super::{opaque, python_repr};

/// Serializes `value` the way `json.dumps(value)` does.
///
/// # Errors
/// Fails when `value` cannot be JSON, for example a map whose keys are not strings.
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> Result<String, serde_json::Error> {
    let mut out = Vec::with_capacity(256);
    value.serialize(&mut Serializer::with_formatter(
        &mut out,
        PythonFormatter::default(),
    ))?;
    // The formatter writes only ASCII, so this cannot fail.
    String::from_utf8(out).map_err(serde::ser::Error::custom)
}

/// Serializes `value` once, to be written as part of other values.
pub(super) fn to_raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("JSON values are JSON")
}

/// Reads JSON as `json.loads` does. In the values, strings stand for what `serde_json` cannot hold (integers beyond 64
/// bits, `NaN` and infinities, halves of surrogate pairs, what is nested too deeply); [`to_string`] writes it back as
/// it was.
///
/// # Errors
/// Fails if the text is not JSON, or not that of a `T`.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<T, serde_json::Error> {
    if !opaque::has_long_number(json)
        && let Ok(value) = serde_json::from_slice(json)
    {
        return Ok(value);
    }
    let text = std::str::from_utf8(json).map_err(serde::de::Error::custom)?;
    serde_json::from_str(&opaque::standard(text))
}

/// What [`from_slice`] read as a string that stands for another value.
#[must_use]
pub fn is_opaque(string: &str) -> bool {
    opaque::text_of(string).is_some()
}

/// Decodes a value that [`from_slice`] read, with `decode`. A string that stands for another value is given only to types
/// that take any value.
///
/// # Errors
/// The reason for which `decode` refuses it.
pub fn decode<T>(value: Value, decode: impl Fn(Value) -> Result<T, serde_json::Error>) -> Result<T, String> {
    let mut checked = value.clone();
    let Some(odd) = opaque::replace(&mut checked) else {
        return decode(value).map_err(|error| error.to_string());
    };
    // What takes a number and a string takes anything. The messages of these errors would name neither.
    let refused = |_| format!("cannot take {}", python_repr::plain(std::slice::from_ref(&odd)));
    decode(checked).map_err(refused)?;
    decode(value).map_err(refused)
}

/// Where the formatter is in a string.
#[derive(Default)]
enum Within {
    /// Before its first character.
    #[default]
    Beginning,
    Text,
    /// The string stands for a value, whose JSON this is so far.
    Opaque(String),
}

#[derive(Default)]
struct PythonFormatter(Within);

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn begin_string<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.0 = Within::Beginning;
        Ok(())
    }

    fn end_string<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        match std::mem::take(&mut self.0) {
            Within::Beginning => writer.write_all(b"\"\""),
            Within::Text => writer.write_all(b"\""),
            Within::Opaque(json) => self.write_raw_fragment(writer, &json),
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        match &mut self.0 {
            Within::Beginning => match opaque::text_of(fragment) {
                Some(json) => {
                    self.0 = Within::Opaque(json.to_owned());
                    Ok(())
                }
                None => {
                    self.0 = Within::Text;
                    writer.write_all(b"\"")?;
                    write_ascii(writer, fragment)
                }
            },
            Within::Text => write_ascii(writer, fragment),
            Within::Opaque(json) => {
                json.push_str(fragment);
                Ok(())
            }
        }
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        match &mut self.0 {
            Within::Opaque(json) => {
                json.push(char::from(match escape {
                    CharEscape::Quote => b'"',
                    CharEscape::ReverseSolidus => b'\\',
                    CharEscape::Solidus => b'/',
                    // Only blanks, between the tokens of a value.
                    CharEscape::Backspace | CharEscape::FormFeed | CharEscape::AsciiControl(_) => b' ',
                    CharEscape::LineFeed => b'\n',
                    CharEscape::CarriageReturn => b'\r',
                    CharEscape::Tab => b'\t',
                }));
                return Ok(());
            }
            Within::Beginning => writer.write_all(b"\"")?,
            Within::Text => {}
        }
        self.0 = Within::Text;
        CompactFormatter.write_char_escape(writer, escape)
    }

    /// Raw JSON keeps its numbers and escapes exactly. Only its spacing becomes Python's, and characters outside
    /// ASCII are escaped.
    fn write_raw_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(start) = rest.find('"') {
            let (outside, string) = rest.split_at(start);
            write_spaced(writer, outside)?;
            let (string, behind) = string.split_at(opaque::string_length(string));
            match opaque::of_raw(string) {
                Some(json) => self.write_raw_fragment(writer, &json)?,
                None => write_ascii(writer, string)?,
            }
            rest = behind;
        }
        write_spaced(writer, rest)
    }
}

fn write_ascii<W: ?Sized + Write>(writer: &mut W, text: &str) -> io::Result<()> {
    let mut ascii_from = 0;
    for (at, character) in text.char_indices() {
        // DEL is ASCII, and Python leaves it alone.
        if character.is_ascii() {
            continue;
        }
        writer.write_all(&text.as_bytes()[ascii_from..at])?;
        let mut units = [0_u16; 2];
        for unit in character.encode_utf16(&mut units) {
            write!(writer, "\\u{unit:04x}")?;
        }
        ascii_from = at + character.len_utf8();
    }
    writer.write_all(&text.as_bytes()[ascii_from..])
}

/// Writes the JSON between strings with Python's spacing.
fn write_spaced<W: ?Sized + Write>(writer: &mut W, json: &str) -> io::Result<()> {
    for token in json.split_ascii_whitespace() {
        for part in token.split_inclusive([',', ':']) {
            writer.write_all(part.as_bytes())?;
            if part.ends_with([',', ':']) {
                writer.write_all(b" ")?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert_eq, proptest};
    use serde_json::json;

    use super::*;

    #[test]
    fn matches_text_taken_from_python() {
        let value =
            json!({"a": [1, 2, {"b": null}], "s": "币安\u{1f600}\u{7f}\n\"/", "e": [], "o": {}, "f": 1.0});
        assert_eq!(
            to_string(&value).unwrap(),
            r#"{"a": [1, 2, {"b": null}], "s": "\u5e01\u5b89\ud83d\ude00"#.to_owned()
                + "\u{7f}"
                + r#"\n\"/", "e": [], "o": {}, "f": 1.0}"#
        );
    }

    #[test]
    fn json_that_is_passed_on_gets_pythons_spacing_and_keeps_its_numbers_and_escapes() {
        let raw =
            " [1.50,{\"a:b,c\" :\n1e+16 ,\t\"\\\"é\\/\\\\\":\"\\ud800\",\"\":[ ]} , 123456789012345678901 ] ";
        let passed: Box<RawValue> = serde_json::from_str(raw).unwrap();
        assert_eq!(
            to_string(&passed).unwrap(),
            r#"[1.50, {"a:b,c": 1e+16, "\"\u00e9\/\\": "\ud800", "": []}, 123456789012345678901]"#
        );
    }

    proptest! {
        #[test]
        fn any_text_survives_and_is_ascii(text: String) {
            let written = to_string(&text).unwrap();
            assert!(written.is_ascii());
            assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), Value::String(text));
        }

        /// Reading and writing must not change an amount, not even in its last digit.
        #[test]
        fn any_float_survives_to_the_last_bit(number: f64) {
            let written = to_string(&number).unwrap();
            let read: f64 = serde_json::from_value(serde_json::from_str(&written).unwrap()).unwrap();
            prop_assert_eq!(read.to_bits(), number.to_bits(), "{}", written);
        }
    }
}
