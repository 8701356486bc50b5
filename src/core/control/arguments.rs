//! Arguments of commands, and their errors.

use serde_json::{Map, Value, json};

use tradebot_wire::python_repr;

/// An exception that a command ends with; the answer holds its `repr`, as Python's does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CommandError {
    kind: &'static str,
    text: String,
}

impl CommandError {
    pub(super) fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
        }
    }

    pub(super) fn value(text: impl Into<String>) -> Self {
        Self::new("ValueError", text)
    }

    /// `ValueError('…')`.
    pub(super) fn repr(&self) -> String {
        format!("{}({})", self.kind, python_repr::plain(&[json!(self.text)]))
    }

    pub(super) fn answer(&self) -> Value {
        not_ok(self.repr())
    }
}

/// The answer of a command that worked.
pub(super) fn ok(text: impl Into<String>) -> Value {
    json!({"ok": text.into()})
}

/// The answer of a command that did not.
pub(super) fn not_ok(text: impl Into<String>) -> Value {
    json!({"error": text.into()})
}

/// The arguments of one command, by name.
pub(super) struct Arguments<'r> {
    pub(super) command: &'r str,
    pub(super) given: &'r Map<String, Value>,
}

impl<'r> Arguments<'r> {
    /// An argument, unless absent or null.
    pub(super) fn get(&self, name: &str) -> Option<&'r Value> {
        self.given.get(name).filter(|value| !value.is_null())
    }

    /// An argument that is text.
    pub(super) fn text(&self, name: &str) -> Option<&'r str> {
        self.get(name)?.as_str()
    }

    /// Whether an argument is true as Python sees it.
    pub(super) fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::Array(items)) => !items.is_empty(),
            Some(Value::Object(fields)) => !fields.is_empty(),
            Some(Value::Bool(true)) => true,
        }
    }

    /// One text or a list of them; other values are left out.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        match self.get(name) {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(several)) => several
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            _ => Vec::new(),
        }
    }

    /// A count, one if absent.
    pub(super) fn count(&self, name: &str) -> Result<usize, CommandError> {
        match self.get(name) {
            None => Ok(1),
            Some(value) => value
                .as_i64()
                .map(|count| usize::try_from(count).unwrap_or(0))
                .ok_or_else(|| CommandError::new("TypeError", format!("{name} must be an integer"))),
        }
    }

    /// An argument that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&'r Value, CommandError> {
        self.given.get(name).ok_or_else(|| {
            let text = format!(
                "{}() missing 1 required positional argument: '{name}'",
                self.command
            );
            CommandError::new("TypeError", text)
        })
    }

    /// A text that must be there.
    pub(super) fn required_text(&self, name: &str) -> Result<&'r str, CommandError> {
        let value = self.required(name)?;
        value
            .as_str()
            .ok_or_else(|| CommandError::new("TypeError", format!("{name} must be a string")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_pythons() {
        let given = json!({"n": "x", "task_id": ["a", 1]});
        let arguments = Arguments {
            command: "revoke",
            given: given.as_object().unwrap(),
        };
        assert_eq!(arguments.texts("task_id"), ["a"]);
        assert_eq!(
            arguments.required("signal").unwrap_err().answer(),
            json!({"error": r#"TypeError("revoke() missing 1 required positional argument: 'signal'")"#})
        );
        assert_eq!(
            arguments.count("n").unwrap_err().repr(),
            "TypeError('n must be an integer')"
        );
        assert_eq!(arguments.count("absent"), Ok(1));
        assert_eq!(
            CommandError::new("KeyError", "nosuch").repr(),
            "KeyError('nosuch')"
        );
    }
}
