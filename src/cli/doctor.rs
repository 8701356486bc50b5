//! `doctor`: reports what is wrong.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{report, say, start_logs};
use crate::product::doctor::{Doctor, DoctorSettings, Finding, KINDS, Picture};
use tradebot_base::clock::SystemClock;
use tradebot_base::config::{ProcessEnvironment, Reader};
use tradebot_base::lifecycle::{Stop, sleep_unless_stopping};

/// Examines Redis, lists, queues, workers, beats, exchange and settings, and reports what is wrong.
///
/// Reads the same variables as the worker. Writes only small keys that expire: `tradebot-symbols:doctor:*`, and a trial
/// result for two seconds.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 nothing is wrong (notes at most), 2 there are warnings, 3 something is critical,\n  \
    1 the doctor itself failed, 64 invalid command line or configuration\n\n\
    Examples:\n  tradebot-symbols doctor\n  tradebot-symbols doctor --json | jq -r '.findings[].code'\n  \
    tradebot-symbols doctor --watch --interval 10"
)]
pub(super) struct DoctorCommand {
    #[command(flatten)]
    examine: ExamineArgs,
    /// List every code, why it matters and what to do
    #[arg(long, conflicts_with_all = ["watch", "json"])]
    codes: bool,
}

/// The arguments that `doctor` and `status` share.
#[derive(Debug, clap::Args)]
pub(super) struct ExamineArgs {
    /// Print one JSON object; with --watch one per line
    #[arg(long)]
    json: bool,
    /// Repeat until stopped
    #[arg(long)]
    watch: bool,
    /// Seconds between repetitions
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
    /// Queues to examine, separated by commas
    #[arg(short = 'Q', long, value_delimiter = ',', default_value = "celery")]
    queues: Vec<String>,
    /// Expect another beat to send the warm-ups: do not report that this system's is missing
    #[arg(long)]
    foreign_beat: bool,
}

pub(super) async fn run(args: DoctorCommand) -> Result<u8> {
    if args.codes {
        for kind in KINDS {
            let severity = kind.severity.name();
            say(&format!("{} ({severity})", kind.code))?;
            say(&format!("  why  {}\n  do   {}", kind.why, kind.remedy))?;
        }
        return Ok(0);
    }
    let text = |_: &Picture, findings: &[Finding]| report::findings(findings);
    let json = |picture: &Picture, findings: &[Finding]| report::as_json(picture, findings);
    let last = args.examine.run(&text, &json).await?;
    Ok(last.map_or(0, |(_, findings)| report::exit_code(&findings)))
}

type Form<'f, T> = &'f dyn Fn(&Picture, &[Finding]) -> T;

impl ExamineArgs {
    /// Examines once, or repeatedly until a signal, prints each result, and returns the last picture with its findings; `None` if a
    /// signal came before the first.
    pub(super) async fn run(
        &self,
        text: Form<'_, String>,
        json: Form<'_, serde_json::Value>,
    ) -> Result<Option<(Picture, Vec<Finding>)>> {
        let mut reader = Reader::new(&ProcessEnvironment);
        let settings = DoctorSettings::read(&mut reader, &self.queues, self.foreign_beat);
        start_logs(reader, None)?;
        let doctor = Doctor::new(settings, SystemClock::shared())?;
        let stop = Stop::new();
        if self.watch {
            stop.on_signals(Duration::from_secs(1))
                .context("cannot install the signal handlers")?;
        }
        let mut last = None;
        loop {
            let picture = tokio::select! {
                picture = doctor.examine() => picture,
                () = stop.warm() => return Ok(last),
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
                    // Home, and clear everything below.
                    say("\x1b[H\x1b[2J")?;
                }
                say(text(&picture, &findings).trim_end())?;
            }
            let interval = Duration::from_secs(self.interval);
            if !self.watch || !sleep_unless_stopping(&stop, interval).await {
                return Ok(Some((picture, findings)));
            }
            last = Some((picture, findings));
        }
    }
}
