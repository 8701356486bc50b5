//! Manual pages in roff: what `clap_mangen` makes of a command line, and exit codes, environment, files and examples.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;

use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

use crate::config::{Reader, VARIABLES, Variable, Vars};

/// Sections that the definition of a command line does not contain.
#[derive(Debug, Default)]
pub struct Extras<'a> {
    /// Environment variables.
    pub variables: Vec<&'static Variable>,
    /// Files and their contents.
    pub files: &'a [(&'a str, &'a str)],
    /// Pages of section 1.
    pub see_also: Vec<String>,
}

/// The page of a command. Exit codes and examples are paragraphs of its help text.
///
/// # Errors
/// When `clap_mangen` fails to write a section.
pub fn page(command: &Command, extras: &Extras<'_>) -> io::Result<String> {
    let man = Man::new(command.clone())
        // roff would drop an empty argument.
        .date(" ")
        .source(concat!("tradebot-symbols ", env!("CARGO_PKG_VERSION")))
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    extra_sections(command, extras).to_writer(&mut page)?;
    String::from_utf8(page).map_err(io::Error::other)
}

/// The variables that `read` reads, in the order of the table.
#[must_use]
pub fn variables_of(read: impl FnOnce(&mut Reader<'_>)) -> Vec<&'static Variable> {
    let recorder = ReadRecorder::default();
    read(&mut Reader::new(&recorder));
    let names = recorder.0.into_inner();
    VARIABLES
        .iter()
        .filter(|variable| names.contains(variable.name))
        .collect()
}

/// An empty environment that records the names of the variables read.
#[derive(Default)]
struct ReadRecorder(RefCell<BTreeSet<String>>);

impl Vars for ReadRecorder {
    fn get(&self, name: &str) -> Option<String> {
        self.0.borrow_mut().insert(name.to_owned());
        None
    }
}

fn extra_sections(command: &Command, extras: &Extras<'_>) -> Roff {
    let mut roff = Roff::new();
    let mut section = |title: &str, body: Roff| {
        if body != Roff::new() {
            roff.control("SH", [title]).extend([body]);
        }
    };
    let mut exit = Roff::new();
    for codes in paragraphs(command, &["Exit codes:"]) {
        exit.text(marked(&codes.split_whitespace().collect::<Vec<_>>().join(" ")));
    }
    section("EXIT STATUS", exit);
    let mut variables = Roff::new();
    for Variable {
        name,
        default,
        meaning,
    } in &extras.variables
    {
        let mut head = vec![bold(*name)];
        if !default.is_empty() {
            head.push(roman(format!(" [{default}]")));
        }
        variables.control("TP", []).text(head).text(marked(meaning));
    }
    section("ENVIRONMENT", variables);
    let mut files = Roff::new();
    for (name, contents) in extras.files {
        files
            .control("TP", [])
            .text([italic(*name)])
            .text(marked(contents));
    }
    section("FILES", files);
    let mut examples = Roff::new();
    for command in [command].into_iter().chain(command.get_subcommands()) {
        for lines in paragraphs(command, &["Examples:", "Example:"]) {
            for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
                examples.text([roman(line)]);
            }
        }
    }
    if examples != Roff::new() {
        let mut verbatim = Roff::new();
        verbatim.control("nf", []).extend([examples]);
        verbatim.control("fi", []);
        section("EXAMPLES", verbatim);
    }
    let mut see_also = Roff::new();
    for (number, page) in extras.see_also.iter().enumerate() {
        let more = number + 1 < extras.see_also.len();
        see_also.text([bold(page), roman(if more { "(1)," } else { "(1)" })]);
    }
    section("SEE ALSO", see_also);
    roff
}

/// The paragraphs of a command's help text that begin with one of `words`, without that word.
fn paragraphs(command: &Command, words: &[&str]) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string);
    help.unwrap_or_default()
        .split("\n\n")
        .filter_map(|paragraph| words.iter().find_map(|word| paragraph.strip_prefix(word)))
        .map(str::to_owned)
        .collect()
}

/// A line of text with the words between backticks in bold.
fn marked(text: &str) -> Vec<Inline> {
    let parts = text.split('`').enumerate();
    parts
        .map(|(number, part)| if number % 2 == 0 { roman(part) } else { bold(part) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_sections() {
        let extras = Extras {
            variables: vec![&VARIABLES[2]],
            files: &[("x.toml", "What `y` reads")],
            see_also: vec!["a-b".to_owned(), "c".to_owned()],
        };
        let command = Command::new("a")
            .after_help("Exit codes: 0 good,\n  1 not\n\nExamples:\n  a -b c\n  .d")
            .subcommand(Command::new("e").after_help("Exit codes: 2 bad\n\nExample: e \\f"));
        assert_eq!(
            extra_sections(&command, &extras).to_roff(),
            concat!(
                ".SH \"EXIT STATUS\"\n0 good, 1 not\n",
                ".SH ENVIRONMENT\n.TP\n\\fBREDIS_URL\\fR\n",
                "Redis that holds the symbol lists; \\fBCELERY_BROKER_URL\\fR if absent\n",
                ".SH FILES\n.TP\n\\fIx.toml\\fR\nWhat \\fBy\\fR reads\n",
                ".SH EXAMPLES\n.nf\na \\-b c\n\\&.d\ne \\\\f\n.fi\n",
                ".SH \"SEE ALSO\"\n\\fBa\\-b\\fR(1),\n\\fBc\\fR(1)\n",
            )
        );
        let bare = extra_sections(&Command::new("a"), &Extras::default());
        assert_eq!(bare, Roff::new());
    }
}
