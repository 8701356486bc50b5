//! A deployment's `.env` file in the format of `docker compose`: comments, quotes, `export`, references.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use thiserror::Error;

use tradebot_base::config::Vars;

/// A larger file is not a file of variables.
const MAX_BYTES: u64 = 1 << 20;

/// The variables of a file. Has no `Debug`, so that values are never printed.
pub(crate) struct EnvFile {
    values: BTreeMap<String, String>,
}

/// Why a file cannot be read.
#[derive(Debug, Error)]
pub(crate) enum EnvFileError {
    /// The file is missing or not readable.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too large.
    #[error("{} is larger than 1 MiB: is it the right file?", .0.display())]
    TooLarge(PathBuf),
    /// A line is not an assignment. The error does not show the line, which may contain a secret.
    #[error("{} has a line that is not `NAME=value`, after {}", path.display(), match last {
        Some(name) => format!("the variable {name}"),
        None => "its beginning".into(),
    })]
    Line {
        /// The file.
        path: PathBuf,
        /// The last variable before that line.
        last: Option<String>,
    },
}

impl EnvFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`EnvFileError`].
    pub(crate) fn read(path: &Path) -> Result<Self, EnvFileError> {
        let io = |source| EnvFileError::Io {
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(io)?.len() > MAX_BYTES {
            return Err(EnvFileError::TooLarge(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        Self::parse(&text).map_err(|last| EnvFileError::Line {
            path: path.to_owned(),
            last,
        })
    }

    /// Parses a text. The error is the last variable before a bad line.
    fn parse(text: &str) -> Result<Self, Option<String>> {
        let text: String = text.lines().map(|line| quoted(line) + "\n").collect();
        let mut values = BTreeMap::new();
        let mut last = None;
        for entry in dotenvy::from_read_iter(text.as_bytes()) {
            let Ok((name, value)) = entry else {
                return Err(last);
            };
            last = Some(name.clone());
            values.insert(name, value);
        }
        Ok(Self { values })
    }

    /// Names of the variables.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

impl Vars for EnvFile {
    fn get(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }
}

/// Quotes a value that has blanks and no quotes, which `docker compose` accepts and `dotenvy` does not. All other lines stay
/// unchanged.
fn quoted(line: &str) -> String {
    let Some((name, value)) = line.split_once('=') else {
        return line.to_owned();
    };
    let bare = name.trim().trim_start_matches("export ").trim();
    let is_name = !bare.is_empty()
        && bare
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    let value = value.split(" #").next().unwrap_or_default().trim();
    let needs_quotes =
        value.contains(char::is_whitespace) && !value.contains(['"', '\'', '\\']) && !value.starts_with('#');
    if is_name && needs_quotes {
        format!("{name}=\"{value}\"")
    } else {
        line.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_compose_reads_it() {
        let text = concat!(
            "# a comment\n\n",
            "PLAIN=redis://redis:6379/0\n",
            "export EXPORTED=yes   # a remark\n",
            "SINGLE='a $b \"c\" # d'\n",
            "DOUBLE=\"with \\\"quotes\\\" and\\nlines\"\n",
            "BLANKS=several words here # a remark\n",
            "EMPTY=\n",
            "HASH=a#b\n",
            "EQUALS=a=b==\n",
            "REFERENCE=${PLAIN}/x\n",
            "  INDENTED = padded\n",
        );
        let file = EnvFile::parse(text).unwrap_or_else(|last| panic!("stopped after {last:?}"));
        for (name, value) in [
            ("PLAIN", "redis://redis:6379/0"),
            ("EXPORTED", "yes"),
            ("SINGLE", "a $b \"c\" # d"),
            ("DOUBLE", "with \"quotes\" and\nlines"),
            ("BLANKS", "several words here"),
            ("EMPTY", ""),
            ("HASH", "a#b"),
            ("EQUALS", "a=b=="),
            ("REFERENCE", "redis://redis:6379/0/x"),
            ("INDENTED", "padded"),
        ] {
            assert_eq!(file.get(name).as_deref(), Some(value), "{name}");
        }
        assert_eq!(file.names().count(), 10);
    }

    #[test]
    fn the_error_for_a_bad_line_does_not_show_it() {
        let error = EnvFile::parse("A=1\ncanary canary\nB=2\n").err();
        assert_eq!(error, Some(Some("A".to_owned())));
    }
}
