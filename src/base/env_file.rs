//! Env files, as docker compose reads them, for `--env-file`.
//!
//! Written by hand, because no well-kept crate reads them so: `dotenvy` knows neither `${NAME:-default}` nor `$$`, and does
//! not look into the process's environment first. The rules are those of compose's documentation ("Syntax for environment
//! files", "Interpolation") and, where that is silent, of the packages `dotenv` and `template` of compose-go. One of them may
//! surprise: in `NAME= # remark` the remark is the value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use thiserror::Error;

use crate::config::Vars;

/// A larger file is not a file of variables; nor are larger values, all together.
const MAX_BYTES: usize = 1 << 20;
/// How deep references may be nested: `${A:-${B:-…}}`.
const MAX_DEPTH: usize = 16;

/// The variables of a file. Has no `Debug`, so that values are never printed.
pub struct EnvFile {
    values: BTreeMap<String, String>,
    /// The size of all values read.
    bytes: usize,
}

/// Why a file cannot be used. Never shows a value, which may be a secret.
#[derive(Debug, Error)]
pub enum EnvFileError {
    /// The file is missing, not readable or not UTF-8.
    #[error("cannot read the env file {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too large.
    #[error("{} is larger than 1 MiB: is it the right file?", .0.display())]
    TooLarge(PathBuf),
    /// A line has another form than docker compose's.
    #[error("{}, line {line}: {mistake}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        mistake: LineMistake,
    },
    /// The program cannot be started again with the variables of the file.
    #[error("cannot start with the variables of {}", path.display())]
    Restart {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineMistake {
    /// No assignment.
    #[error("it is not `NAME=value`; put `#` before a remark, and quotes around a value of several lines")]
    NoAssignment,
    /// The closing quote is missing.
    #[error(
        "the value of {name} begins with {quote} and has no closing one; add it, or write {quote} as \\{quote}"
    )]
    OpenQuote {
        /// The variable.
        name: String,
        /// The quote.
        quote: char,
    },
    /// Something follows the closing quote.
    #[error("{name} has text after the closing quote; put the whole value between the quotes")]
    AfterQuote {
        /// The variable.
        name: String,
    },
    /// A reference that compose does not know.
    #[error(
        "the value of {name} has a `${{…}}` that docker compose does not know; write `$$` for a plain dollar sign"
    )]
    Reference {
        /// The variable.
        name: String,
    },
    /// `${NAME:?…}` without a value.
    #[error("{name} needs {needed}, which is not set; set it in the environment, or above this line")]
    Needed {
        /// The variable.
        name: String,
        /// The one that it refers to.
        needed: String,
    },
    /// A NUL character, or references that multiply.
    #[error("{name} cannot be used: its value has a NUL character, or the values exceed 1 MiB together")]
    Unusable {
        /// The variable.
        name: String,
    },
}

impl EnvFile {
    /// Reads a file. In references, `environment` wins over what the file sets above, as in compose.
    ///
    /// # Errors
    /// [`EnvFileError`].
    pub fn read(path: &Path, environment: &dyn Vars) -> Result<Self, EnvFileError> {
        let io = |source| EnvFileError::Io {
            path: path.to_owned(),
            source,
        };
        let size = std::fs::metadata(path).map_err(io)?.len();
        if usize::try_from(size).is_ok_and(|size| size > MAX_BYTES) {
            return Err(EnvFileError::TooLarge(path.to_owned()));
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        Self::parse(&text, environment).map_err(|(line, mistake)| EnvFileError::Line {
            path: path.to_owned(),
            line,
            mistake,
        })
    }

    /// Parses a text.
    ///
    /// # Errors
    /// The number of the bad line, from 1, and what is wrong with it.
    pub fn parse(text: &str, environment: &dyn Vars) -> Result<Self, (usize, LineMistake)> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rest = text;
        let mut file = Self {
            values: BTreeMap::new(),
            bytes: 0,
        };
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                return Ok(file);
            }
            rest = if rest.starts_with('#') {
                rest.split_once('\n').map_or("", |(_, rest)| rest)
            } else {
                let line = || 1 + text[..text.len() - rest.len()].matches('\n').count();
                file.statement(rest, environment)
                    .map_err(|mistake| (line(), mistake))?
            };
        }
    }

    /// Reads one variable, and returns the text behind it.
    fn statement<'t>(&mut self, text: &'t str, environment: &dyn Vars) -> Result<&'t str, LineMistake> {
        let text = text
            .strip_prefix("export")
            .filter(|rest| rest.starts_with([' ', '\t']))
            .map_or(text, |rest| rest.trim_start_matches([' ', '\t']));
        let end = text.find(['=', ':', '\n']).unwrap_or(text.len());
        let name = text[..end].trim_end();
        let part_of_name = |c: char| c.is_alphanumeric() || "_.-[]".contains(c);
        if name.is_empty() || !name.chars().all(part_of_name) {
            return Err(LineMistake::NoAssignment);
        }
        let Some(text) = text[end..].strip_prefix(['=', ':']) else {
            // A name alone takes the environment's value, if there is one.
            self.values
                .extend(Some(name.to_owned()).zip(environment.get(name)));
            return Ok(&text[end..]);
        };
        let text = text.trim_start_matches(|c: char| c.is_whitespace() && c != '\n');
        let (value, rest) = match text.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let (raw, rest) = quoted(&text[1..], quote).ok_or_else(|| LineMistake::OpenQuote {
                    name: name.to_owned(),
                    quote,
                })?;
                let behind = rest.split('\n').next().unwrap_or_default().trim_start();
                if !behind.is_empty() && !behind.starts_with('#') {
                    return Err(LineMistake::AfterQuote {
                        name: name.to_owned(),
                    });
                }
                let value = if quote == '"' {
                    self.interpolate(name, &unescaped(&raw), environment)?
                } else {
                    raw
                };
                (value, rest)
            }
            _ => {
                let (line, rest) = text.split_at(text.find('\n').unwrap_or(text.len()));
                let value = line.split(" #").next().unwrap_or_default().trim_end();
                (self.interpolate(name, value, environment)?, rest)
            }
        };
        self.bytes += value.len();
        if self.bytes > MAX_BYTES || value.contains('\0') {
            return Err(LineMistake::Unusable {
                name: name.to_owned(),
            });
        }
        self.values.insert(name.to_owned(), value);
        Ok(rest)
    }

    /// A value with its references resolved.
    fn interpolate(&self, name: &str, text: &str, environment: &dyn Vars) -> Result<String, LineMistake> {
        let interpolation = Interpolation {
            name,
            lookup: &|name| environment.get(name).or_else(|| self.get(name)),
        };
        let mut rest = text;
        interpolation.resolve(&mut rest, 0)
    }
}

impl Vars for EnvFile {
    fn get(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }
}

/// Starts this process's program anew, in the same process, with the variables of a file that its environment lacks, and
/// without the option `--env-file`. So they reach libraries and child processes too. Returns only if that fails.
#[must_use]
pub fn restart_with(path: &Path, environment: &dyn Vars) -> EnvFileError {
    let file = match EnvFile::read(path, environment) {
        Ok(file) => file,
        Err(error) => return error,
    };
    let mut args = std::env::args_os();
    let own_name = args.next().unwrap_or_default();
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(source) => {
            return EnvFileError::Restart {
                path: path.to_owned(),
                source,
            };
        }
    };
    let missing = file
        .values
        .iter()
        .filter(|(name, _)| environment.get(name).is_none());
    let source = Command::new(program)
        .arg0(own_name)
        .args(without_env_file(args))
        .envs(missing)
        .exec();
    EnvFileError::Restart {
        path: path.to_owned(),
        source,
    }
}

/// Arguments without `--env-file FILE` and `--env-file=FILE`.
fn without_env_file(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut args = args;
    while let Some(arg) = args.next() {
        if arg == "--" {
            kept.push(arg);
            kept.extend(args);
            break;
        }
        if arg == "--env-file" {
            args.next();
        } else if !arg.as_encoded_bytes().starts_with(b"--env-file=") {
            kept.push(arg);
        }
    }
    kept
}

/// The text up to the closing quote, with escaped quotes as quotes, and the text behind it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next()?.1 {
                escaped if escaped == quote => value.push(quote),
                other => value.extend(['\\', other]),
            },
            c if c == quote => return Some((value, &text[at + 1..])),
            c => value.push(c),
        }
    }
    None
}

/// A double-quoted text with its escapes resolved; `\$` becomes `$$`, which is a plain dollar sign. Others stay as they are.
fn unescaped(text: &str) -> String {
    let mut value = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            value.push(c);
            continue;
        }
        match chars.next() {
            Some('a') => value.push('\u{7}'),
            Some('b') => value.push('\u{8}'),
            Some('f') => value.push('\u{c}'),
            Some('n') => value.push('\n'),
            Some('r') => value.push('\r'),
            Some('t') => value.push('\t'),
            Some('v') => value.push('\u{b}'),
            Some('$') => value.push_str("$$"),
            Some(c @ ('"' | '\\')) => value.push(c),
            other => value.extend(['\\'].into_iter().chain(other)),
        }
    }
    value
}

/// Resolves the references in one value.
struct Interpolation<'a> {
    name: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Interpolation<'_> {
    /// Resolves a text to its end, or, inside braces, to the closing one, which is consumed.
    fn resolve(&self, rest: &mut &str, depth: usize) -> Result<String, LineMistake> {
        let mut value = String::new();
        while let Some(c) = rest.chars().next() {
            let text = *rest;
            *rest = &text[c.len_utf8()..];
            match c {
                '}' if depth > 0 => return Ok(value),
                '$' => value.push_str(&self.dollar(rest, depth)?),
                c => value.push(c),
            }
            if value.len() > MAX_BYTES {
                return Err(LineMistake::Unusable {
                    name: self.name.to_owned(),
                });
            }
        }
        if depth > 0 { Err(self.unknown()) } else { Ok(value) }
    }

    /// What stands behind a dollar sign.
    fn dollar(&self, rest: &mut &str, depth: usize) -> Result<String, LineMistake> {
        if let Some(text) = rest.strip_prefix('$') {
            *rest = text;
            return Ok("$".to_owned());
        }
        let Some(text) = rest.strip_prefix('{') else {
            let referred = variable(rest);
            if referred.is_empty() {
                return Ok("$".to_owned());
            }
            *rest = &rest[referred.len()..];
            return Ok((self.lookup)(referred).unwrap_or_default());
        };
        let referred = variable(text);
        if referred.is_empty() || depth == MAX_DEPTH {
            return Err(self.unknown());
        }
        let text = &text[referred.len()..];
        let value = (self.lookup)(referred);
        if let Some(text) = text.strip_prefix('}') {
            *rest = text;
            return Ok(value.unwrap_or_default());
        }
        let (value, text) = match text.strip_prefix(':') {
            Some(text) => (value.filter(|value| !value.is_empty()), text),
            None => (value, text),
        };
        let operator = text.chars().next().filter(|c| "-?+".contains(*c));
        let operator = operator.ok_or_else(|| self.unknown())?;
        *rest = &text[1..];
        let word = self.resolve(rest, depth + 1);
        match (operator, value) {
            ('-', Some(value)) => word.map(|_| value),
            ('-', None) | ('+', Some(_)) => word,
            ('+', None) => word.map(|_| String::new()),
            (_, Some(value)) => word.map(|_| value),
            (_, None) => Err(LineMistake::Needed {
                name: self.name.to_owned(),
                needed: referred.to_owned(),
            }),
        }
    }

    fn unknown(&self) -> LineMistake {
        LineMistake::Reference {
            name: self.name.to_owned(),
        }
    }
}

/// The name at the beginning of a text, or nothing.
fn variable(text: &str) -> &str {
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        ""
    } else {
        &text[..end]
    }
}

#[cfg(test)]
#[path = "env_file/tests.rs"]
mod tests;
