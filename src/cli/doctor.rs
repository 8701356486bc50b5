//! `doctor`: says in plain words what is wrong.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{both, read_logs, report, start_logs};
use crate::product::doctor::{Doctor, Finding, KINDS, Picture, Settings};
use tradebot_base::clock::SystemClock;
use tradebot_base::config::ProcessEnvironment;
use tradebot_base::lifecycle::{Stop, sleep_unless_stopping};

/// Looks at Redis, lists, queues, workers, beats, exchange and settings, and says what is wrong.
///
/// Reads the variables that the worker reads. Writes nothing but three small keys of its own.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 nothing is wrong, 2 there are warnings, 3 something is critical,\n  \
    1 the doctor itself failed, 64 the command line or configuration cannot be used\n\n\
    Examples:\n  tradebot-symbols doctor\n  tradebot-symbols doctor --json | jq -r '.findings[].code'\n  \
    tradebot-symbols doctor --watch --interval 10"
)]
pub(super) struct Args {
    #[command(flatten)]
    look: LookArgs,
    /// Lists every code that can be found, with why it matters and what to do
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    codes: bool,
}

/// What `doctor` and `status` have in common.
#[derive(Debug, clap::Args)]
pub(super) struct LookArgs {
    /// One JSON object; with --watch one a line
    #[arg(long)]
    json: bool,
    /// Looks again and again until it is stopped
    #[arg(long)]
    watch: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
    /// Queues to look at, separated by commas
    #[arg(short = 'Q', long, value_delimiter = ',', default_value = "celery")]
    queues: Vec<String>,
    /// Another beat than this system's sends the warm-ups: that none is seen is fine
    #[arg(long)]
    foreign_beat: bool,
}

pub(super) async fn run(args: Args) -> Result<u8> {
    if args.codes {
        for kind in KINDS {
            say(&format!(
                "{} ({})\n  why  {}\n  do   {}",
                kind.code,
                kind.severity.name(),
                kind.why,
                kind.remedy
            ))?;
        }
        return Ok(0);
    }
    let text = |_: &Picture, findings: &[Finding]| report::findings(findings);
    let json = |picture: &Picture, findings: &[Finding]| report::as_json(picture, findings);
    args.look.run(&text, &json, true).await
}

type Form<'f, T> = &'f dyn Fn(&Picture, &[Finding]) -> T;

impl LookArgs {
    /// Looks once, or until a signal comes; `judged` says whether findings make the exit code.
    pub(super) async fn run(
        &self,
        text: Form<'_, String>,
        json: Form<'_, serde_json::Value>,
        judged: bool,
    ) -> Result<u8> {
        let settings = Settings::read(&ProcessEnvironment, &self.queues, self.foreign_beat);
        let (settings, logs) = both(settings, read_logs(None))?;
        start_logs(&logs)?;
        let doctor = Doctor::new(settings, SystemClock::shared());
        let stop = Stop::new();
        if self.watch {
            stop.on_signals(Duration::from_secs(1))
                .context("signal handlers")?;
        }
        loop {
            let picture = tokio::select! {
                picture = doctor.look() => picture,
                () = stop.warm() => return Ok(0),
            };
            let findings = doctor.judge(&picture);
            if self.json {
                let value = json(&picture, &findings);
                say(&if self.watch {
                    value.to_string()
                } else {
                    format!("{value:#}")
                })?;
            } else {
                if self.watch && std::io::stdout().is_terminal() {
                    // Home, and clear what is below.
                    say("\x1b[H\x1b[2J")?;
                }
                say(text(&picture, &findings).trim_end())?;
            }
            if !self.watch {
                return Ok(if judged { report::exit_code(&findings) } else { 0 });
            }
            if !sleep_unless_stopping(&stop, Duration::from_secs(self.interval)).await {
                return Ok(if judged { report::exit_code(&findings) } else { 0 });
            }
        }
    }
}

pub(super) fn say(text: &str) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{text}")
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}
