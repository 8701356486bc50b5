//! The manual page.

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_mangen::Man;
use tradebot_base::config::{LogConfig, RedisConfig, ScheduleConfig};
use tradebot_base::manual::{Extras, title, variables_of};

use crate::args::Args;

const FILES: &[(&str, &str)] = &[(
    "FILE of --schedule",
    "Entries to add to the two warm-ups, in TOML; schedule.example.toml in the sources shows every option",
)];

/// The manual page in roff.
pub(crate) fn page() -> Result<String> {
    let mut program = Args::command().disable_help_subcommand(true);
    program.build();
    let extras = Extras {
        after_help: program
            .get_after_help()
            .map(ToString::to_string)
            .into_iter()
            .collect(),
        variables: variables_of(|reader| {
            RedisConfig::read(reader);
            ScheduleConfig::read(reader);
            LogConfig::read(reader, None);
        }),
        files: FILES,
        see_also: vec!["tradebot-symbols".to_owned()],
    };
    let mut page = title("tradebot-beat").into_bytes();
    let man = Man::new(program);
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    page.extend_from_slice(extras.sections().as_bytes());
    String::from_utf8(page).context("cannot print the manual page: it is not UTF-8")
}
