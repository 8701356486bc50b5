//! Decoding of msgpack bodies into the JSON values that the same arguments would have.

use base64::prelude::{BASE64_STANDARD, Engine};
use rmpv::Value as Packed;
use serde_json::{Map, Number, Value, json};

use super::body_error::BodyError;
use super::opaque::opaque;

/// The deepest nesting that is accepted.
const MAX_DEPTH: usize = 128;

/// Decodes one msgpack document.
pub(super) fn decode(bytes: &[u8]) -> Result<Value, BodyError> {
    let mut rest = bytes;
    // It counts each level twice, and up to four for what is innermost.
    let packed = rmpv::decode::read_value_with_max_depth(&mut rest, 2 * MAX_DEPTH + 4)
        .map_err(|error| BodyError::NotMsgpack(error.to_string()))?;
    if !rest.is_empty() {
        return Err(BodyError::NotMsgpack("bytes follow the document".into()));
    }
    to_json(packed)
}

fn to_json(packed: Packed) -> Result<Value, BodyError> {
    let unusable = |what: &str| BodyError::NotMsgpack(format!("{what} has no form in JSON"));
    Ok(match packed {
        Packed::Nil => Value::Null,
        Packed::Boolean(flag) => Value::Bool(flag),
        Packed::Integer(number) => match (number.as_i64(), number.as_u64()) {
            (Some(signed), _) => json!(signed),
            (None, Some(unsigned)) => json!(unsigned),
            (None, None) => return Err(unusable("a number")),
        },
        Packed::F32(number) => float(f64::from(number)),
        Packed::F64(number) => float(number),
        Packed::String(text) => Value::String(
            text.into_str()
                .ok_or_else(|| unusable("text that is not UTF-8"))?,
        ),
        Packed::Binary(bytes) => bytes_value(&bytes),
        Packed::Array(items) => Value::Array(items.into_iter().map(to_json).collect::<Result<_, _>>()?),
        Packed::Map(entries) => {
            let mut fields = Map::new();
            for (name, value) in entries {
                let Packed::String(name) = name else {
                    return Err(unusable("a key that is not text"));
                };
                let name = name
                    .into_str()
                    .ok_or_else(|| unusable("a key that is not UTF-8"))?;
                fields.insert(name, to_json(value)?);
            }
            Value::Object(fields)
        }
        Packed::Ext(..) => return Err(unusable("an extension type")),
    })
}

/// A float; one that is none in standard JSON as Python writes it.
fn float(number: f64) -> Value {
    let word = match number {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    };
    Number::from_f64(number).map_or_else(|| Value::String(opaque(word)), Value::Number)
}

/// Bytes as kombu's JSON codec writes them.
fn bytes_value(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!({"__type__": "bytes", "__value__": text}),
        Err(_) => json!({"__type__": "base64", "__value__": BASE64_STANDARD.encode(bytes)}),
    }
}

#[cfg(test)]
mod tests {
    use super::super::python_json;
    use super::*;

    fn pack(value: &Packed) -> Vec<u8> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, value).unwrap();
        bytes
    }

    #[test]
    fn values_become_what_json_would_have_held() {
        let value = Packed::Array(vec![
            Packed::Array(vec![
                Packed::from(1),
                Packed::from(-7),
                Packed::from(1.5),
                Packed::Nil,
            ]),
            Packed::Map(vec![(Packed::from("k"), Packed::from("币"))]),
            Packed::Map(vec![]),
        ]);
        assert_eq!(
            decode(&pack(&value)).unwrap(),
            json!([[1, -7, 1.5, null], {"k": "币"}, {}])
        );
        let bytes = Packed::Binary(vec![0xff, 0x00]);
        assert_eq!(
            decode(&pack(&bytes)).unwrap(),
            json!({"__type__": "base64", "__value__": "/wA="})
        );
    }

    #[test]
    fn floats_that_are_none_in_standard_json_are_written_as_python_does() {
        let floats = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(Packed::F64);
        let value = decode(&pack(&Packed::Array(floats.to_vec()))).unwrap();
        assert_eq!(
            python_json::to_string(&value).unwrap(),
            "[NaN, Infinity, -Infinity]"
        );
    }

    #[test]
    fn what_has_no_form_in_json_is_refused() {
        let number_key = Packed::Map(vec![(Packed::from(1), Packed::Nil)]);
        for value in [Packed::Ext(1, vec![1]), number_key] {
            assert!(decode(&pack(&value)).is_err(), "{value:?}");
        }
        let nested = |depth: usize| [vec![0x91; depth], vec![0xa1, b'x']].concat();
        assert!(decode(&nested(MAX_DEPTH)).is_ok());
        for depth in [MAX_DEPTH + 4, 200, 100_000] {
            assert!(decode(&nested(depth)).is_err(), "nesting is bounded");
        }
        assert!(decode(&[0xc0, 0xc0]).is_err(), "trailing bytes are damage");
        assert!(
            decode(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err(),
            "a claimed length is not believed"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
