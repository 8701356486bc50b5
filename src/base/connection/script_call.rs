//! The keys and arguments that a script is called with.

use std::fmt;

/// Keys and arguments of a script.
#[derive(Debug, Default)]
pub struct ScriptCall {
    keys: Texts,
    args: Texts,
}

/// Texts end to end, with the end of each.
#[derive(Debug, Default)]
struct Texts {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl ScriptCall {
    /// Adds a key.
    pub fn key(&mut self, key: impl AsRef<[u8]>) -> &mut Self {
        self.keys.push(key.as_ref());
        self
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<[u8]>) -> &mut Self {
        self.args.push(arg.as_ref());
        self
    }

    /// Adds a number as an argument.
    pub fn number(&mut self, number: impl fmt::Display) -> &mut Self {
        use std::io::Write;
        write!(self.args.bytes, "{number}").expect("memory takes every text");
        self.args.end();
        self
    }

    /// How many keys there are.
    pub(super) fn keys(&self) -> usize {
        self.keys.ends.len()
    }

    /// The keys, then the arguments.
    pub(super) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.keys.iter().chain(self.args.iter())
    }
}

impl Texts {
    fn push(&mut self, text: &[u8]) {
        self.bytes.extend_from_slice(text);
        self.end();
    }

    fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[start..*end])
    }
}
