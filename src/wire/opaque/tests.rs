use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde_json::Value;

use super::super::{python_json, python_repr};

fn through(json: &str) -> String {
    let value: Value =
        python_json::from_slice(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"));
    python_json::to_string(&value).unwrap()
}

#[test]
fn what_python_writes_passes_through() {
    for json in [
        "[12345678901234567890123, -9223372036854775809, 18446744073709551616, 1]",
        "[18446744073709551615, -9223372036854775808, 9223372036854775807]",
        r#"{"a": {"12345678901234567890123": 12345678901234567890123}}"#,
        r#"["12345678901234567890123", "\"12345678901234567890123", "\\", 12345678901234567890123]"#,
        "12345678901234567890123",
        "0.12345678901234566",
        "[NaN, Infinity, -Infinity, \"NaN\", \"-Infinity\", 1e400, -1.5e999]",
        r#"{"NaN": NaN, "\ud800": "\udcff", "f\udcff.txt": ["\ud83d\ude00", "\ud83d\ud83d\ude00", "\\ud800"]}"#,
        r#"["\ud800\"]NaN", "", {"\\\ud800": ""}]"#,
        "NaN",
    ] {
        assert_eq!(through(json), json);
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

#[test]
fn any_depth_passes_through_without_a_deep_stack() {
    for depth in [100, 119, 120, 121, 127, 128, 400, 100_000] {
        let lists = format!(r#"{}NaN, "]\"\ud800"{}"#, "[".repeat(depth), "]".repeat(depth));
        let objects = format!(r#"{}[]{}"#, r#"{"a": "#.repeat(depth), "}".repeat(depth));
        for json in [lists, objects] {
            assert_eq!(through(&json), json, "{depth}");
        }
    }
}

#[test]
fn what_python_does_not_read_is_refused() {
    let deep = |inside: &str| format!("{}{inside}{}", "[".repeat(300), "]".repeat(300));
    for json in [
        "nan",
        "NaNa",
        "+Infinity",
        "-NaN",
        "[NaN NaN]",
        "[Infinity,]",
        "012345678901234567890123",
        "1.e999",
        "\"\\ud800\\x\"",
        "\"\\ud800\n\"",
        "\"\\ud800",
        "{NaN: 1}",
        &deep("1 2"),
        &deep("{]"),
        &deep("\"\\x\""),
        &"[".repeat(100_000),
        "",
    ] {
        assert!(
            python_json::from_slice::<Value>(json.as_bytes()).is_err(),
            "{json}"
        );
    }
}

/// A text may hold what the writer looks for.
#[test]
fn a_string_in_a_string_stays_one() {
    let opaque = super::opaque("NaN");
    let quoted = format!("\"{opaque}\"");
    let read: String = serde_json::from_str(&python_json::to_string(&quoted).unwrap()).unwrap();
    assert_eq!(read, quoted);
}

#[test]
fn values_are_shown_as_python_shows_them() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for (json, shown, plain) in [
        ("NaN", "nan", "nan"),
        ("-Infinity", "-inf", "-inf"),
        ("1e400", "inf", "inf"),
        (
            "12345678901234567890123",
            "12345678901234567890123",
            "12345678901234567890123",
        ),
        (r#""f\udCFF.txt\n""#, "'f\\udcff.txt\n'", r"'f\udcff.txt\n'"),
        (r#""it's\ud800\\""#, r"'it\'s\ud800\'", r#""it's\ud800\\""#),
        (r#"{"\ud800": NaN}"#, r"{'\ud800': nan}", r"{'\ud800': nan}"),
    ] {
        let value: Value = python_json::from_slice(json.as_bytes()).unwrap();
        assert_eq!(python_repr::value(&value), shown);
        assert_eq!(python_repr::plain(&[value]), plain);
    }
    let value: Value = python_json::from_slice(deep.as_bytes()).unwrap();
    assert_eq!(python_repr::value(&value), "[[[[...]]]]");
}

/// Python reads JSON and writes it again, in one process for all lines.
fn python(lines: &[String]) -> Vec<Option<String>> {
    const SCRIPT: &str = r#"
import json, sys
sys.setrecursionlimit(20000)
for line in sys.stdin:
    try:
        print(json.dumps(json.loads(line)))
    except ValueError:
        print()
"#;
    let mut python = Command::new("python3")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python 3, which the tests need");
    let mut stdin = python.stdin.take().unwrap();
    let text = lines.join("\n");
    let feeding = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = python.wait_with_output().unwrap();
    feeding.join().unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| Some(line.to_owned()).filter(|line| !line.is_empty()))
        .collect()
}

fn json() -> impl Strategy<Value = String> {
    let half = prop_oneof!["\\\\u[dD][89abcdefABCDEF][0-9a-f]{2}", "\\\\u[0-9a-f]{4}"];
    let piece = prop_oneof![
        half.clone(),
        half,
        "[ -!#-\\[\\]-~]{0,3}",
        Just("\\\\".into()),
        Just("\\\"".into()),
        Just("é".into())
    ];
    let string = prop::collection::vec(piece, 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()));
    let number = prop_oneof!["-?[1-9][0-9]{0,30}", "0", "-?[1-9]\\.5e[23]0", "1e[4-9]00"];
    let word = prop::sample::select(vec!["NaN", "Infinity", "-Infinity", "null", "true", "false"]);
    let leaf = prop_oneof![string.clone(), number, word.prop_map(str::to_owned)];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        let blank = prop::sample::select(vec!["", " ", "\t "]);
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..4), blank)
                .prop_map(|(items, blank)| format!("[{blank}{}]", items.join(&format!("{blank},")))),
            (string.clone(), inner.clone()).prop_map(|(name, value)| format!("{{{name}:{value}}}")),
            (inner, 1_usize..150).prop_map(|(value, depth)| format!(
                "{}{value}{}",
                "[".repeat(depth),
                "]".repeat(depth)
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]
    /// What is written here is to Python what was read, whatever that was; and what Python refuses is refused.
    #[test]
    fn python_reads_what_was_read(
        good in prop::collection::vec(json(), 100),
        damaged in prop::collection::vec((json(), any::<prop::sample::Index>(), "[,:NI0\"\\[\\]\\\\]"), 100),
    ) {
        let damaged = damaged.into_iter().map(|(json, at, wrong)| {
            let at = at.index(json.len() + 1);
            let at = (0..=at).rev().find(|at| json.is_char_boundary(*at)).unwrap_or(0);
            format!("{}{wrong}{}", &json[..at], &json[at..])
        });
        let lines: Vec<String> = good.into_iter().chain(damaged).collect();
        let ours: Vec<Option<String>> = lines
            .iter()
            .map(|line| python_json::from_slice::<Value>(line.as_bytes()).ok())
            .map(|value| value.map(|value| python_json::to_string(&value).unwrap()))
            .collect();
        let expected = python(&lines);
        let written: Vec<String> = ours.iter().map(|ours| ours.clone().unwrap_or("?".into())).collect();
        for (((line, ours), expected), read) in lines.iter().zip(&ours).zip(&expected).zip(python(&written)) {
            prop_assert_eq!(ours.is_some(), expected.is_some(), "{}", line);
            prop_assert_eq!(&read, expected, "{} became {:?}", line, ours);
        }
    }

    #[test]
    fn no_text_panics(text in "[\\[\\]{}\"\\\\udD8-9cNI,: é-]*") {
        let _ = python_json::from_slice::<Value>(text.as_bytes());
    }

    #[test]
    fn any_integer_survives(number: i128, pad in 0_usize..40) {
        prop_assert_eq!(through(&format!("[{}{number}]", " ".repeat(pad))), format!("[{number}]"));
    }

    #[test]
    fn other_texts_are_left_alone(text: String) {
        let json = python_json::to_string(&text).unwrap();
        prop_assert_eq!(super::standard(&json), json);
    }
}
