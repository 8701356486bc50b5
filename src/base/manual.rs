//! Manual pages: the sections that the definition of a command line has no place for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write;

use crate::config::{Reader, VARIABLES, Variable, Vars};

/// What a page says beside names, options and subcommands.
#[derive(Debug, Default)]
pub struct Extras<'a> {
    /// Texts that follow the help of a command, with its examples and exit codes.
    pub after_help: Vec<String>,
    /// Environment variables.
    pub variables: Vec<&'static Variable>,
    /// Files, and what is in them.
    pub files: &'a [(&'a str, &'a str)],
    /// Pages of section 1.
    pub see_also: Vec<String>,
}

/// The beginning of a page of section 1.
#[must_use]
pub fn title(name: &str) -> String {
    let version = concat!("tradebot-symbols ", env!("CARGO_PKG_VERSION"));
    // The first two lines define the apostrophe that the text of options is written with.
    format!(
        ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH \"{}\" 1 \"\" \"{}\" \"User Commands\"\n",
        text(name),
        text(version)
    )
}

impl Extras<'_> {
    /// The sections EXIT STATUS, ENVIRONMENT, FILES, EXAMPLES and SEE ALSO as roff, those that are not empty.
    #[must_use]
    pub fn sections(&self) -> String {
        let mut page = String::new();
        let (exit, examples) = (self.exit_codes(), self.examples());
        let mut section = |title: &str, body: String| {
            if !body.is_empty() {
                // Writing to a text cannot fail.
                let _ = write!(page, ".SH {title}\n{body}");
            }
        };
        section("EXIT STATUS", exit.map(|codes| line(&codes)).collect());
        let variables = self.variables.iter();
        let variables = variables.map(|variable| {
            let default = match variable.default {
                "" => String::new(),
                default => format!(" [{}]", text(default)),
            };
            entry(
                &format!("\\fB{}\\fR{default}", text(variable.name)),
                variable.meaning,
            )
        });
        section("ENVIRONMENT", variables.collect());
        let files = self.files.iter();
        let files = files.map(|(name, what)| entry(&format!("\\fI{}\\fR", text(name)), what));
        section("FILES", files.collect());
        let examples: String = examples.map(|example| line(&example)).collect();
        if !examples.is_empty() {
            section("EXAMPLES", format!(".nf\n{examples}.fi\n"));
        }
        let others: Vec<String> = self
            .see_also
            .iter()
            .map(|page| format!("\\fB{}\\fR(1)", text(page)))
            .collect();
        if !others.is_empty() {
            section("SEE ALSO", format!("{}\n", others.join(",\n")));
        }
        page
    }

    /// The paragraphs behind one of these words, without it.
    fn paragraphs(&self, words: &'static [&'static str]) -> impl Iterator<Item = &str> {
        let all = self.after_help.iter().flat_map(|help| help.split("\n\n"));
        all.filter_map(move |paragraph| words.iter().find_map(|word| paragraph.strip_prefix(word)))
    }

    fn exit_codes(&self) -> impl Iterator<Item = String> {
        let codes = self.paragraphs(&["Exit codes:"]);
        codes.map(|codes| codes.split_whitespace().collect::<Vec<_>>().join(" "))
    }

    fn examples(&self) -> impl Iterator<Item = String> {
        let examples = self.paragraphs(&["Examples:", "Example:"]);
        let lines = examples.flat_map(str::lines).map(str::trim);
        lines.filter(|line| !line.is_empty()).map(str::to_owned)
    }
}

/// An environment without variables that notes which are asked for.
#[derive(Default)]
struct Asked(RefCell<BTreeSet<String>>);

impl Vars for Asked {
    fn get(&self, name: &str) -> Option<String> {
        self.0.borrow_mut().insert(name.to_owned());
        None
    }
}

/// The variables that `read` reads, in the order of the table.
#[must_use]
pub fn variables_of(read: impl FnOnce(&mut Reader<'_>)) -> Vec<&'static Variable> {
    let asked = Asked::default();
    read(&mut Reader::new(&asked));
    let asked = asked.0.into_inner();
    VARIABLES
        .iter()
        .filter(|variable| asked.contains(variable.name))
        .collect()
}

fn entry(head: &str, body: &str) -> String {
    format!(".TP\n{head}\n{}", line(body))
}

/// A line of text, what stands between backticks in bold.
fn line(plain: &str) -> String {
    let parts = plain.split('`').enumerate();
    let marked = parts.map(|(number, part)| match number % 2 {
        0 => text(part),
        _ => format!("\\fB{}\\fR", text(part)),
    });
    let marked: String = marked.collect();
    // Such a line would be a request.
    let guard = if marked.starts_with(['.', '\'']) {
        "\\&"
    } else {
        ""
    };
    format!("{guard}{marked}\n")
}

fn text(plain: &str) -> String {
    plain
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_sections() {
        let extras = Extras {
            after_help: vec![
                "Exit codes: 0 good,\n  1 not\n\nExamples:\n  a -b 'c'\n  .d".to_owned(),
                "Example: e \\f".to_owned(),
            ],
            variables: vec![&VARIABLES[2]],
            files: &[("x.toml", "What `y` reads")],
            see_also: vec!["a-b".to_owned()],
        };
        assert_eq!(
            extras.sections(),
            concat!(
                ".SH EXIT STATUS\n0 good, 1 not\n",
                ".SH ENVIRONMENT\n.TP\n\\fBREDIS_URL\\fR\n",
                "Redis that holds the symbol lists; \\fBCELERY_BROKER_URL\\fR if absent\n",
                ".SH FILES\n.TP\n\\fIx.toml\\fR\nWhat \\fBy\\fR reads\n",
                ".SH EXAMPLES\n.nf\na \\-b \\(aqc\\(aq\n\\&.d\ne \\ef\n.fi\n",
                ".SH SEE ALSO\n\\fBa\\-b\\fR(1)\n",
            )
        );
        assert_eq!(Extras::default().sections(), "");
    }
}
